"""The plan of a study: its cells and prepared datasets, from a configuration that is checked first."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from backbones import BACKBONES
from backbones.base import resolve_settings, resolve_text
from backbones.text import BertSettings, TextSettings
from harness.checks import check_request
from harness.config.compose import path_of, settings_of, var_path
from harness.config.grammar import split_backbone, split_variant
from harness.config.schema import OcclusionConfig
from harness.config.tuned import Tuned, read_tuned, tuned_label
from harness.config.tuned_lookup import TunedLookup
from harness.data.prepare import CachedDataset, prepare
from harness.data.pretrained import TextModel, check_tokens, find_model
from harness.errors import UserError
from harness.matrix import Cell, readable_settings, unique
from harness.tracking.tags import LABEL

# The occlusion ratios of one training's evaluations, and the ratio of the training itself.
Occlusion = tuple[tuple[float, ...], float]


@dataclass(frozen=True)
class Plan:
    """A study's cells in order, and its datasets by name.

    tags: cell_id -> tags of cells with tuned settings: digest of the settings file, whether it changes the
    backbone, and the label of the method. notes: messages for the user.
    """

    study: str
    cells: tuple[Cell, ...]
    datasets: dict[str, CachedDataset]
    text_model: TextModel | None = None
    tags: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def folders(self) -> dict[str, Path]:
        """Return the folders of the stored datasets, by name."""
        return {name: data.folder for name, data in self.datasets.items()}

    def method_label(self, cell: Cell) -> str:
        """Return the name of a cell's method in tables."""
        return self.tags.get(cell.cell_id, {}).get(LABEL, cell.method_label)


def make_plan(config: Any, user_keys: Collection[str] = ()) -> Plan:
    """Check the request, prepare its datasets and list its cells; raises UserError.

    user_keys: keys that the user set (`given_keys`), which tuned settings must not change.
    """
    check_request(config)
    # All checks that need no data come before the data are prepared, which takes longer.
    backbones = {text: _backbone(config, text) for text in config.backbones}
    methods = {text: _method(config, text) for text in config.methods}
    lookup = TunedLookup({} if config.tuned is None else read_tuned(path_of(config.tuned)), user_keys)
    occlusions = list(_occlusions(config.occlusion))
    if not occlusions:
        raise UserError("occlusion.protocols=[train] needs at least one ratio in occlusion.train_ratios.")
    cache = var_path(config) / "cache"
    datasets = {
        name: prepare(name, config.dataset[name], config.size, config.data_root, cache)
        for name in config.datasets
    }
    text, text_model = _text(config, datasets.values(), occlusions, cache)
    seeds = list(config.seeds)
    cells: list[Cell] = []
    tags: dict[str, Mapping[str, str]] = {}
    for data, backbone, method in itertools.product(datasets.values(), backbones, methods):
        name, changes, settings = backbones[backbone]
        # A variant has settings of its own, as that of a method has.
        where = (method, name, name + text.label, data.name, data.fingerprint)
        file = None if changes else lookup.file(*where)
        pair = ((name, settings), methods[method])
        if file is not None:
            pair = _tuned(config, name, method, file)
        first = replace(_cell(config, data, *pair, text), backbone_changes=readable_settings(changes))
        combination = list(_cells(first, occlusions, seeds))
        cells += combination
        if file is not None:
            before, after = (
                resolve_settings(BACKBONES[name], one, data.like) for one in (settings, pair[0][1])
            )
            file_tags = {
                "tuned": file.digest,
                "tuned_backbone": str(after != before).lower(),
                LABEL: tuned_label(method),
            }
            tags |= {cell.cell_id: file_tags for cell in combination}
    return Plan(config.study, tuple(unique(cells)), datasets, text_model, tags, lookup.notes())


def _text(
    config: Any,
    datasets: Iterable[CachedDataset],
    occlusions: Iterable[Occlusion],
    cache: Path,
) -> tuple[TextSettings, TextModel | None]:
    """Return the text settings and, for text=bert, the pretrained model, checked against all datasets."""
    if config.text == "features":
        return TextSettings(), None
    bert = config.bert
    rates = (bert.learning_rate, bert.weight_decay)
    try:
        BertSettings(config.text, "", bert.finetune, *rates)
    except ValueError as error:
        raise UserError(f"bert.{error}.") from None
    model = find_model(bert.model, cache)
    for data in datasets:
        check_tokens(data, model, any(ratios != (0.0,) or trained for ratios, trained in occlusions))
    rates = rates if bert.finetune else (0.0, 0.0)
    return BertSettings(config.text, model.fingerprint, bert.finetune, *rates), model


def _tuned(config: Any, backbone: str, method: str, file: Tuned) -> tuple[tuple[str, Any], tuple[str, Any]]:
    """Return a backbone and a method with the settings of a tuned file on top of the configuration's."""
    try:
        settings = (
            settings_of(config, "backbone", backbone, file.backbone),
            settings_of(config, "method", method, file.method),
        )
    except UserError as error:
        raise UserError(f"{str(file.path)!r} cannot be used: {error}") from None
    return (backbone, settings[0]), (method, settings[1])


def _method(config: Any, text: str) -> tuple[str, Any]:
    name, changes = split_variant(text)
    return name, settings_of(config, "method", name, changes)


def _backbone(config: Any, text: str) -> tuple[str, dict[str, Any], Any]:
    """Return the name of a backbone or of its variant, the settings it changes, and all its settings."""
    name, changes = split_backbone(text)
    usual, settings = (settings_of(config, "backbone", name, part) for part in ({}, changes))
    # Settings that equal those of the backbone make no variant.
    changes = {
        key: getattr(settings, key) for key in changes if getattr(settings, key) != getattr(usual, key)
    }
    return name, changes, settings


def _occlusions(config: OcclusionConfig) -> Iterator[Occlusion]:
    """Yield (ratios to evaluate, ratio to train at); ratio 0 of protocol "train" is the clean training."""
    ratios = _ascending(config.ratios)
    train_ratios = ratios if config.train_ratios is None else _ascending(config.train_ratios)
    tested = ratios if "test" in config.protocols else []
    if "train" in config.protocols and 0.0 in ratios + train_ratios:
        tested = _ascending([0.0, *tested])
    if tested:
        yield tuple(tested), 0.0
    if "train" in config.protocols:
        yield from (((0.0,), ratio) for ratio in train_ratios if ratio > 0)


def _ascending(ratios: Iterable[float]) -> list[float]:
    # Adding 0 turns -0 into 0: the two would have different cell ids.
    return sorted({float(ratio) + 0.0 for ratio in ratios})


def _cell(
    config: Any, data: CachedDataset, backbone: tuple[str, Any], method: tuple[str, Any], text: TextSettings
) -> Cell:
    """Build a combination's cell with seed 0 and without occlusion, the template of all its cells."""
    name, settings = backbone
    settings = resolve_settings(BACKBONES[name], settings, data.like)
    if config.train.max_epochs is not None:
        settings = replace(settings, max_epochs=config.train.max_epochs)
    if config.train.patience is not None:
        settings = replace(settings, early_stop=config.train.patience)
    return Cell(
        dataset=data.name,
        metrics=data.metrics,
        label_scale=data.label_scale,
        label_center=data.label_center,
        standardize=data.standardize,
        fingerprint=data.fingerprint,
        backbone=name,
        backbone_settings=settings,
        method=method[0],
        method_settings=method[1],
        seed=0,
        text=resolve_text(BACKBONES[name], text),
        granularity=config.occlusion.granularity,
        mask_seed=config.occlusion.mask_seed,
        max_batches=config.train.max_batches,
        test_curve=config.evaluate.test_curve,
        threads=config.cell.threads,
        deterministic=config.deterministic,
        precision=config.precision,
        compile=config.compile,
    )


def _cells(first: Cell, occlusions: Iterable[Occlusion], seeds: Sequence[int]) -> Iterator[Cell]:
    """Yield a combination's cells: all seeds at one occlusion, then all seeds at the next."""
    for ratios, train_ratio in occlusions:
        for seed in seeds:
            yield replace(first, seed=seed, ratios=ratios, train_ratio=train_ratio)

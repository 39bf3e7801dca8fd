"""From a configuration to the cells of a study: every name and number is checked before anything runs."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from backbones import BACKBONES
from backbones.base import resolve_settings
from backbones.text import ENCODERS, TextSettings
from harness.config.compose import path_of, settings_of, split_variant
from harness.config.schema import Config, OcclusionConfig
from harness.config.tuned import Tuned, Tuning, read_tuned, tuned_label
from harness.data.occlusion import GRANULARITIES
from harness.data.prepare import Prepared, prepare
from harness.data.pretrained import TextModel, check_tokens, find_model
from harness.data.synthetic.statistics import SIZES
from harness.databases import redact
from harness.errors import UserError, nearest, unknown
from harness.launchers.choose import LAUNCHERS
from harness.matrix import Cell, unique
from harness.tracking.tags import LABEL
from harness.train.arithmetic import DEVICES, check_precision, resolve_device
from methods import METHODS

PROTOCOLS = ("test", "train")
MAX_STUDY_BYTES = 200  # it names a folder, and file systems allow 255 bytes
MAX_DATASET_BYTES = 100  # a part of such names, beside hashes


@dataclass(frozen=True)
class Plan:
    """A study's cells in order, and its datasets by name.

    tags: further tags of cells by cell_id (`Tuned.tags`). notes: sentences for the user.
    """

    study: str
    cells: tuple[Cell, ...]
    datasets: dict[str, Prepared]
    text_model: TextModel | None = None
    tags: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def folders(self) -> dict[str, Path]:
        """Where the stored datasets lie, by name."""
        return {name: data.folder for name, data in self.datasets.items()}

    def method_label(self, cell: Cell) -> str:
        """The name of a cell's method in tables."""
        return self.tags.get(cell.cell_id, {}).get(LABEL, cell.method_label)


def make_plan(config: Any, given: Collection[str] = ()) -> Plan:
    """Check the request, prepare its datasets and list its cells; raises UserError.

    given: keys of the settings that the user gave (`given_keys`), which tuned settings must not change.
    """
    _check(config)
    # Before the data are prepared, which takes longer.
    backbones = {name: settings_of(config, "backbone", name, {}) for name in config.backbones}
    methods = {asked: _method(config, asked) for asked in config.methods}
    tuning = Tuning({} if config.tuned is None else read_tuned(path_of(config.tuned)), given)
    occlusions = list(_occlusions(config.occlusion))
    cache = var_path(config) / "cache"
    datasets = {
        name: prepare(name, config.dataset[name], config.size, config.data_root, cache)
        for name in config.datasets
    }
    text, text_model = _text(config, datasets.values(), occlusions, cache)
    seeds = list(config.seeds)
    cells: list[Cell] = []
    tags: dict[str, Mapping[str, str]] = {}
    for data, backbone, asked in itertools.product(datasets.values(), backbones, methods):
        file = tuning.file(asked, backbone, backbone + text.label, data.name, data.fingerprint)
        pair = ((backbone, backbones[backbone]), methods[asked])
        if file is not None:
            pair = _tuned(config, backbone, asked, file)
        made = list(_cells(_cell(config, data, *pair, text), occlusions, seeds))
        cells += made
        if file is not None:
            plain = resolve_settings(BACKBONES[backbone], backbones[backbone], data.like)
            changed = resolve_settings(BACKBONES[backbone], pair[0][1], data.like) != plain
            own = {"tuned_backbone": str(changed).lower(), LABEL: tuned_label(asked)}
            tags |= {cell.cell_id: {**file.tags, **own} for cell in made}
    return Plan(config.study, tuple(unique(cells)), datasets, text_model, tags, tuning.notes())


def _check(config: Config) -> None:
    for kind in ("datasets", "backbones", "methods", "seeds"):
        if not getattr(config, kind):
            raise UserError(f"{kind} is empty; at least one is needed.")
    _check_datasets(config)
    _known("backbone", config.backbones, BACKBONES)
    _known("method", [split_variant(text)[0] for text in config.methods], METHODS)
    occlusion = config.occlusion
    _known("occlusion protocol", occlusion.protocols, PROTOCOLS)
    _known("granularity", [occlusion.granularity], GRANULARITIES)
    for ratio in [*occlusion.ratios, *(occlusion.train_ratios or [])]:
        if not 0 <= ratio <= 1:
            raise UserError(f"An occlusion ratio must lie in [0, 1], however: {ratio}.")
    if not occlusion.ratios or not occlusion.protocols:
        raise UserError("occlusion.ratios and occlusion.protocols need at least one value each.")
    if not list(_occlusions(occlusion)):
        raise UserError("occlusion.protocols=[train] needs at least one ratio in occlusion.train_ratios.")
    bounds: dict[str, tuple[float | None, int]] = {
        "cell.threads": (config.cell.threads, 1),
        "cell.checkpoint_s": (config.cell.checkpoint_s, 0),
        "jobs": (config.jobs, 1),
        "jobs_per_gpu": (config.jobs_per_gpu, 1),
        "launcher.max_retries": (config.launcher.max_retries, 0),
    }
    bounds |= {f"train.{k}": (getattr(config.train, k), 1) for k in ("max_epochs", "patience", "max_batches")}
    for key, (value, least) in bounds.items():
        if value is not None and not value >= least:
            raise UserError(f"{key} must be at least {least}, however: {value}.")
    _check_choices(config)
    var_path(config)
    check_name(config.study or "", "study", "study")
    _check_tuned(config)


def _check_choices(config: Config) -> None:
    _known("value of retry", [config.retry or "diverged"], ["diverged"])
    _known("value of data.resident", [config.data.resident], ["auto", "device", "host"])
    _known("size", [config.size], SIZES)
    _known("device", [config.device], DEVICES)
    _check_launcher(config)
    if config.launcher.name != "ray":
        check_precision(config.precision, resolve_device(config.device))


def _check_launcher(config: Config) -> None:
    launcher, share = config.launcher, config.launcher.gpus_per_cell
    _known("launcher", [launcher.name], LAUNCHERS)
    given = [key for key in ("address", "gpus_per_cell") if getattr(launcher, key) is not None]
    if given and launcher.name != "ray":
        raise UserError(f"launcher.{given[0]} is a setting of launcher=ray, not of launcher={launcher.name}.")
    if share is not None and not (0 < share <= 1 or (share > 1 and share == int(share))):
        raise UserError(
            f"launcher.gpus_per_cell must be a part of one GPU above 0, or whole ones, however: {share:g}."
        )
    if share is not None and config.jobs_per_gpu is not None:
        raise UserError("jobs_per_gpu and launcher.gpus_per_cell say the same; give one of them.")


def _text(
    config: Any,
    datasets: Iterable[Prepared],
    occlusions: Iterable[tuple[tuple[float, ...], float]],
    cache: Path,
) -> tuple[TextSettings, TextModel | None]:
    """How text enters, and the pretrained model for it, which can read all datasets."""
    _known("value of text", [config.text], ENCODERS)
    if config.text == "features":
        return TextSettings(), None
    bert = config.bert
    try:
        TextSettings(config.text, "", bert.finetune, bert.learning_rate)
    except ValueError as error:
        raise UserError(f"bert.{error}.") from None
    model = find_model(bert.model, cache)
    for data in datasets:
        check_tokens(data, model, any(ratios != (0.0,) or trained for ratios, trained in occlusions))
    rate = bert.learning_rate if bert.finetune else 0.0
    return TextSettings(config.text, model.fingerprint, bert.finetune, rate), model


def _check_datasets(config: Config) -> None:
    for name in config.datasets:
        if name not in config.dataset:
            choice = f"choose one of {', '.join(sorted(config.dataset))}"
            raise UserError(
                f"Unknown dataset {name!r}; give dataset.{name}.path=FILE or {choice}."
                f"{nearest(name, config.dataset)}"
            )
        check_name(name, "datasets", "dataset", MAX_DATASET_BYTES)


def _check_tuned(config: Config) -> None:
    if config.tuned == "":
        raise UserError("tuned is empty; give a folder of tuned settings, as in tuned=var/tuned.")
    if config.tuned is not None and config.matrix == "ablation":
        # Only the whole method would be tuned, and its parts would look worse for it.
        raise UserError("matrix=ablation compares parts under the same settings; leave out tuned=DIR.")


def check_name(name: str, key: str, kind: str, most: int = MAX_STUDY_BYTES) -> None:
    """Raise UserError for a name that cannot be shown and stored everywhere; key: of the setting."""
    # Control characters, and what stands for undecodable bytes.
    strange = [c for c in name if c in "/\\" or unicodedata.category(c) in ("Cc", "Cs")]
    too_long = len(name.encode(errors="surrogatepass")) > most
    if not name.strip() or name in (".", "..") or strange or too_long:
        allowed = f"up to {most} bytes without /, \\ and control characters"
        raise UserError(f"{key}={redact(name)!r} is no name for a {kind}; use {allowed}.")


def _known(kind: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    for name in given:
        if name not in allowed:
            raise unknown(kind, name, allowed)


def _tuned(config: Any, backbone: str, method: str, file: Tuned) -> tuple[tuple[str, Any], tuple[str, Any]]:
    """A backbone and a method with a file's settings on top of the configuration's."""
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


def _occlusions(config: OcclusionConfig) -> Iterator[tuple[tuple[float, ...], float]]:
    """Pairs of (ratios to evaluate, ratio to train at); ratio 0 of protocol "train" is the clean training."""
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
    # Adding 0 makes 0 of -0, which would be another cell.
    return sorted({float(ratio) + 0.0 for ratio in ratios})


def _cell(
    config: Any, data: Prepared, backbone: tuple[str, Any], method: tuple[str, Any], text: TextSettings
) -> Cell:
    """A combination's cell of no seed yet, without occlusion: the configuration is read once for all."""
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
        fingerprint=data.fingerprint,
        backbone=name,
        backbone_settings=settings,
        method=method[0],
        method_settings=method[1],
        seed=0,
        text=text,
        granularity=config.occlusion.granularity,
        mask_seed=config.occlusion.mask_seed,
        max_batches=config.train.max_batches,
        threads=config.cell.threads,
        deterministic=config.deterministic,
        precision=config.precision,
        compile=config.compile,
    )


def _cells(
    first: Cell, occlusions: Iterable[tuple[tuple[float, ...], float]], seeds: Sequence[int]
) -> Iterator[Cell]:
    """A combination's cells, all seeds of an occlusion after those of another."""
    for ratios, train_ratio in occlusions:
        for seed in seeds:
            yield replace(first, seed=seed, ratios=ratios, train_ratio=train_ratio)


def var_path(config: Any) -> Path:
    """The folder for databases, artifacts, reports and cache; raises UserError."""
    if not config.var_dir:
        raise UserError("var_dir is empty; give the folder for results, as in var_dir=var.")
    try:
        config.var_dir.encode()
    except UnicodeEncodeError:
        # Databases and links hold it.
        raise UserError(f"var_dir={config.var_dir!r} is no UTF-8 text; give another folder.") from None
    return path_of(config.var_dir)

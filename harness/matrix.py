"""The cell: one training, identified by a hash of everything that can change its numbers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from backbones.base import BackboneSettings
from backbones.text import TextSettings
from methods.base import MethodSettings

# Bumped by hand whenever the arithmetic changes, so that old and new numbers never mix.
RESULTS_VERSION = 3
FEATURES = TextSettings()
APART = ("seed", "ratios", "train_ratio")
# Fields of cells and settings that came later, with the values that cells had before: they count only where
# they differ, so that the ids of earlier cells stay.
LATER = {"label_center": 0.0, "standardize": False, "test_curve": False, "only": None, "backbone_changes": ""}
# A word that YAML reads as a string, not as a number, a boolean or null.
PLAIN_WORD = re.compile(r"(?!(?:true|false|null|nan|inf)$)[a-z][a-z_]*")


@dataclass(frozen=True)
class Cell:
    """One training and its evaluations.

    dataset, metrics (a key of `harness.metrics.METRICS`), label_scale, label_center, standardize (whether
    features are scaled by their deviation), fingerprint: the data. *_settings: resolved, so
    no field is None. text: features or an encoder. ratios: occlusion ratios of the test split, ascending.
    train_ratio: occlusion ratio of the training split. max_batches: maximum number of batches per epoch and
    per evaluation, or None. threads: CPU threads. deterministic, precision, compile: see
    `harness.train.arithmetic`. test_curve: whether the test split is scored after every epoch, too.
    backbone_changes: the settings of a variant, as its name has them, ``{learning_rate:0.0005}``.
    """

    dataset: str
    metrics: str
    label_scale: float
    fingerprint: str
    backbone: str
    backbone_settings: BackboneSettings
    method: str
    method_settings: MethodSettings
    seed: int
    text: TextSettings = FEATURES
    ratios: tuple[float, ...] = (0.0,)
    train_ratio: float = 0.0
    granularity: str = "frame"
    mask_seed: int = 0
    max_batches: int | None = None
    threads: int = 1
    deterministic: bool = True
    precision: str = "fp32"
    compile: bool = False
    results_version: int = RESULTS_VERSION
    label_center: float = 0.0
    standardize: bool = False
    test_curve: bool = False
    backbone_changes: str = ""

    @cached_property
    def cell_id(self) -> str:
        """Hash of all fields, 16 hex digits."""
        return _digest(self.identity())

    @property
    def configuration(self) -> str:
        """Hash of all fields but seed and occlusion ratios, 16 hex digits; each mean covers one hash."""
        return _digest({k: v for k, v in self.identity().items() if k not in APART})

    def identity(self) -> dict[str, Any]:
        """Return the fields that identify the cell, without those that came later and have no effect."""
        return _counted(self)

    @property
    def protocol(self) -> str:
        """The occlusion protocol: "train" where the training split is occluded, else "test"."""
        return "train" if self.train_ratio else "test"

    @property
    def variant(self) -> dict[str, Any]:
        """The method's settings that differ from its defaults."""
        return differences(self.method_settings)

    @property
    def backbone_label(self) -> str:
        """The backbone with its text encoder and its changed settings, e.g. ``misa[bert]{dropout:0.2}``."""
        return self.backbone + self.text.label + self.backbone_changes

    @cached_property
    def method_label(self) -> str:
        """The method with its changed settings, see the function `method_label`."""
        return method_label(self.method, self.variant, self.method_settings.components)

    @property
    def run_name(self) -> str:
        """Readable name, e.g. ``synthetic_mosi/tfn/ms_mix/seed1111``."""
        occluded = f"/train_r{ratio_text(self.train_ratio)}" if self.train_ratio else ""
        return f"{self.dataset}/{self.backbone_label}/{self.method_label}/seed{self.seed}{occluded}"


def _fields(settings: Any) -> dict[str, Any]:
    """Return the fields of a dataclass by name; unlike `dataclasses.asdict`, without copying the values."""
    return {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}


def _counted(settings: Any) -> dict[str, Any]:
    """Return the fields of a dataclass without those that came later and have no effect."""
    return {k: v for k, v in _fields(settings).items() if k not in LATER or v != LATER[k]}


def _digest(values: Mapping[str, Any]) -> str:
    """Return the hash of values, which may include dataclasses, as 16 hex digits."""
    text = json.dumps(values, sort_keys=True, default=_counted)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(settings: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that differ from their defaults."""
    default = type(settings)()
    return {name: value for name, value in _fields(settings).items() if value != getattr(default, name)}


def base_name(label: str) -> str:
    """Return the method or backbone of a label: ``tfn`` for ``tfn[bert]{batch_size:9}``."""
    return label.partition("{")[0].partition("[")[0]


def method_label(method: str, changes: Mapping[str, Any], components: Sequence[str]) -> str:
    """Return a method with its changed settings as on the command line: ``ms_mix[sass,sig]{delta:0.4}``.

    Square brackets list the enabled components, if any component is disabled.
    """
    on = [name for name in components if changes.get(name, True)]
    if len(on) == len(components):
        return method + readable_settings(changes)
    rest = {name: value for name, value in changes.items() if name not in components}
    return f"{method}[{','.join(on)}]{readable_settings(rest)}"


def readable_settings(settings: Mapping[str, Any]) -> str:
    """Format settings as text, e.g. ``{delta:0.4,sig:false}``; empty for none."""
    if not settings:
        return ""

    def value_text(value: Any) -> str:
        if isinstance(value, str) and PLAIN_WORD.fullmatch(value):
            return value
        if isinstance(value, list):
            return "[" + ",".join(map(value_text, value)) + "]"
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)

    return "{" + ",".join(f"{name}:{value_text(value)}" for name, value in sorted(settings.items())) + "}"


def ratio_text(ratio: float) -> str:
    """Format a ratio with two decimals, or with more where rounding would change it."""
    short = f"{ratio:.2f}"
    return short if float(short) == ratio else repr(ratio)


def first_seeds(cells: Iterable[Cell]) -> set[str]:
    """Return the id of the first cell of each dataset, backbone and method that is trained on clean data."""
    first: dict[tuple[str, str, str], str] = {}
    for cell in cells:
        if not cell.train_ratio:
            first.setdefault((cell.dataset, cell.backbone_label, cell.method_label), cell.cell_id)
    return set(first.values())


def unique(cells: Iterable[Cell]) -> list[Cell]:
    """Return the cells in order, without duplicates."""
    return list({cell.cell_id: cell for cell in cells}.values())

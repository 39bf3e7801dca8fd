"""Names of metrics, methods, backbones and data sets, and signed numbers, in figures, tables and text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backbones import BACKBONES
from methods import METHODS

METRIC_NAMES = {
    "acc2_has0": "Acc-2 has-0",
    "f1_has0": "F1 has-0",
    "acc2_non0": "Acc-2 non-0",
    "f1_non0": "F1 non-0",
    "acc2": "Acc-2",
    "acc3": "Acc-3",
    "acc5": "Acc-5",
    "acc7": "Acc-7",
    "f1": "F1",
    "mae": "MAE",
    "rmse": "RMSE",
    "corr": "Corr",
    "spearman": "Spearman",
    "ccc": "CCC",
    "r2": "R²",
    "loss": "loss",
}
"""Metric -> its name on axes and in tables."""

DATASET_NAMES = {"mosi": "CMU-MOSI", "mosei": "CMU-MOSEI", "sims": "CH-SIMS", "simsv2": "CH-SIMS v2"}


_PLUGINS: dict[str, Mapping[str, str]] = {}


def remember_plugins(plugins: Mapping[str, Mapping[str, str]]) -> None:
    """Use titles and colours stored with a study for its plugins, whose files may be gone.

    plugins: name -> ``kind``, ``title``, ``colour`` (may be absent), see `harness.plugins.facts`.
    """
    _PLUGINS.clear()
    _PLUGINS.update(plugins)


def plugin_colour(name: str) -> str | None:
    """Return the colour of a method from a plugin; None if it gave none, and for shipped methods."""
    return _PLUGINS.get(name, {}).get("colour")


def _title(name: str, kind: str, registry: Mapping[str, Any]) -> str | None:
    """Return the title of a method or backbone; None for an unknown name."""
    if name in registry:
        return str(registry[name].title)
    stored = _PLUGINS.get(name, {})
    return stored["title"] if stored.get("kind") == kind else None


def base_method(label: str) -> str:
    """Return the method of a variant: ``ms_mix`` for ``ms_mix[sass]{delta:0.4}``."""
    return label.partition("{")[0].partition("[")[0]


def signed(value: float) -> str:
    """Format a number with its sign; a value that rounds to zero is +0.000."""
    return f"{round(value, 3) + 0.0:+.3f}"


def method_name(label: str) -> str:
    """Return a method as people know it: ``MS-Mix{delta:0.4}`` for ``ms_mix{delta:0.4}``.

    A name that is neither in the registry nor stored as a plugin stays as it is.
    """
    base = base_method(label)
    title = _title(base, "method", METHODS)
    return label if title is None else title.removesuffix(" (reconstruction)") + label[len(base) :]


def proper_name(name: str) -> str:
    """Return a method, backbone or data set as people know it; the registries share no name."""
    return dataset_name(backbone_name(method_name(name)))


def component_name(name: str) -> str:
    """Return a component as people know it: the acronyms of MS-Mix's in capitals, others in words."""
    return name.upper() if name in ("sass", "sig", "sal") else name.replace("_", " ")


def backbone_name(label: str) -> str:
    """Return a backbone as people know it: ``MISA[bert]`` for ``misa[bert]``."""
    base = base_method(label)
    title = _title(base, "backbone", BACKBONES)
    return label if title is None else title + label[len(base) :]


def dataset_name(name: str) -> str:
    """Return a data set as people know it: ``CMU-MOSI``, or ``synthetic MOSI`` for the stand-in."""
    stand_in = name.removeprefix("synthetic_")
    if name != stand_in and stand_in in DATASET_NAMES:
        return f"synthetic {stand_in.upper()}"
    return DATASET_NAMES.get(name, name)

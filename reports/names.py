"""Names of metrics, methods, backbones and data sets, and signed numbers, in figures, tables and text."""

from __future__ import annotations

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


def base_method(label: str) -> str:
    """Return the method of a variant: ``ms_mix`` for ``ms_mix[sass]{delta:0.4}``."""
    return label.partition("{")[0].partition("[")[0]


def signed(value: float) -> str:
    """Format a number with its sign; a value that rounds to zero is +0.000."""
    return f"{round(value, 3) + 0.0:+.3f}"


def method_name(label: str) -> str:
    """Return a method as people know it: ``MS-Mix{delta:0.4}`` for ``ms_mix{delta:0.4}``.

    A name without an entry in the registry stays as it is.
    """
    base = base_method(label)
    if base not in METHODS:
        return label
    return METHODS[base].title.removesuffix(" (reconstruction)") + label[len(base) :]


def proper_name(name: str) -> str:
    """Return a method, backbone or data set as people know it; the registries share no name."""
    return dataset_name(backbone_name(method_name(name)))


def component_name(name: str) -> str:
    """Return a component as people know it: the acronyms of MS-Mix's in capitals, others in words."""
    return name.upper() if name in ("sass", "sig", "sal") else name.replace("_", " ")


def backbone_name(label: str) -> str:
    """Return a backbone as people know it: ``MISA[bert]`` for ``misa[bert]``."""
    base = base_method(label)
    return BACKBONES[base].title + label[len(base) :] if base in BACKBONES else label


def dataset_name(name: str) -> str:
    """Return a data set as people know it: ``CMU-MOSI``, or ``synthetic MOSI`` for the stand-in."""
    stand_in = name.removeprefix("synthetic_")
    if name != stand_in and stand_in in DATASET_NAMES:
        return f"synthetic {stand_in.upper()}"
    return DATASET_NAMES.get(name, name)

"""Names of metrics and methods, and signed numbers, in figures, tables and text."""

from __future__ import annotations

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


def base_method(label: str) -> str:
    """Return the method of a variant: ``ms_mix`` for ``ms_mix[sass]{delta:0.4}``."""
    return label.partition("{")[0].partition("[")[0]


def signed(value: float) -> str:
    """Format a number with its sign; a value that rounds to zero is +0.000."""
    return f"{round(value, 3) + 0.0:+.3f}"

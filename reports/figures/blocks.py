"""Means of methods over blocks (backbones and seeds), and what captions say of what they count."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from reports.figures import style
from reports.stats.intervals import stratified_interval

SUMMARY = ("mean", "low", "high", "n", "blocks", "backbones")
CONFIDENCE, RESAMPLES = 0.95, 2_000


def over_blocks(rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Summarise one number of each method over the blocks that hold it for all methods.

    A block is a backbone, a seed and what they ran on. Methods that hold it in less than half of all blocks
    would cost the others theirs, and are left out.

    Args:
        rows: columns ``backbone, seed, environment, method, value`` of one data set and metric.

    Returns:
        A dict per method, in the order of figures: ``method`` and the keys ``SUMMARY``. ``mean`` is over
        backbones, each of which weighs the same, of means over seeds; ``low`` and ``high`` are NaN with one
        seed and where there is no spread; ``n`` of the ``blocks`` of any method are counted, 0 for methods
        that are left out.
    """
    finite = rows[np.isfinite(rows["value"].to_numpy(float))]
    keys = ["backbone", "environment", "seed"]
    wide = finite.pivot_table(index=keys, columns="method", values="value", aggfunc="mean")
    complete = wide.loc[:, 2 * wide.notna().sum() >= len(wide)].dropna()
    strata = complete.index.get_level_values("backbone").to_numpy()
    for method in style.ordered(rows["method"]):
        values = complete[method].to_numpy() if method in complete.columns else np.array([])
        backbones = strata[: len(values)]
        means = [values[backbones == name].mean() for name in sorted(set(backbones))]
        mean = float(np.mean(means)) if means else math.nan
        low, high = _interval(values, backbones)
        counts = {"n": len(values), "blocks": len(wide), "backbones": len(means)}
        yield {"method": method, "mean": mean, "low": low, "high": high, **counts}


def _interval(values: np.ndarray, backbones: np.ndarray) -> tuple[float, float]:
    low, high = stratified_interval(values, backbones, CONFIDENCE, RESAMPLES) if len(values) else (0.0, 0.0)
    # Equal values are no measure of noise, and an interval without width would claim certainty.
    return (low, high) if high - low > 1e-9 * abs(low) else (math.nan, math.nan)


def omissions(data: pd.DataFrame, keys: Sequence[str]) -> list[str]:
    """Sentences on what `over_blocks` did not use; keys: columns that tell its calls apart."""
    texts = []
    most = data.groupby(["method", "dataset"])["n"].max().reset_index()
    for dataset, part in most[most["n"] == 0].groupby("dataset"):
        names = ", ".join(style.ordered(part["method"]))
        texts.append(f"Not shown on {dataset}, for lack of most of the trainings of others: {names}.")
    points = data[data["n"] > 0].drop_duplicates(list(keys))
    lost = points["blocks"] - points["n"]
    if lost.any():
        worst = points.iloc[int(lost.to_numpy().argmax())]
        texts.append(
            f"Left out: up to {lost.max()} of {worst['blocks']} pairs of backbone and seed, which lack a "
            "number of some method."
        )
    return texts


def count_range(counts: pd.Series, one: str) -> str:
    """Counts in words: ``1 seed``, ``2 seeds``, ``2 to 5 seeds``."""
    low, high = counts.min(), counts.max()
    return f"{low if low == high else f'{low} to {high}'} {one if low == high == 1 else f'{one}s'}"


def training_counts(data: pd.DataFrame) -> str:
    """How many trainings stand behind a mean, and of how many backbones."""
    rows = data[data["n"] > 0]
    return f"n = {count_range(rows['n'], 'training')} of {count_range(rows['backbones'], 'backbone')}"


def equal_lines(data: pd.DataFrame, keys: Sequence[str]) -> list[str]:
    """A sentence for each data set with methods whose lines hide one another, being equal to the last bit."""
    texts = []
    for dataset, part in data[data["n"] > 0].groupby("dataset"):
        wide = part.pivot_table(index=list(keys), columns="method", values="mean")
        groups: dict[tuple[float, ...], list[str]] = {}
        for method in style.ordered(wide.columns):
            groups.setdefault(tuple(wide[method].fillna(math.inf)), []).append(method)
        texts += [
            f"Exactly equal on {dataset}, so that one hides the other: {', '.join(names)}."
            for names in groups.values()
            if len(names) > 1
        ]
    return texts

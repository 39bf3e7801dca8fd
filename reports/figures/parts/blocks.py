"""Means of methods over blocks (backbones and seeds), and captions' sentences about counts and omissions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from reports.figures.parts import style
from reports.names import proper_name
from reports.stats.intervals import stratified_interval

SUMMARY = ("mean", "low", "high", "n", "blocks", "backbones")
CONFIDENCE, RESAMPLES = 0.95, 2_000


def over_blocks(rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Average a metric of each method over the blocks in which all methods have a value.

    A block is a combination of backbone, seed and environment. Methods with values in fewer than half of all
    blocks are left out first, because they would remove these blocks for all other methods.

    Args:
        rows: columns ``backbone, seed, environment, method, value`` of one data set and metric.

    Yields:
        A dict per method, in the order of figures: ``method`` and the keys ``SUMMARY``. ``mean`` is the
        unweighted mean over backbones of means over seeds. ``low`` and ``high`` are NaN with one seed or
        without spread. ``n`` counts the blocks used (0 for methods left out), ``blocks`` those in which any
        method has a value, and ``backbones`` the backbones used.
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
    # Equal values do not measure noise, and an interval of zero width would claim certainty.
    return (low, high) if high - low > 1e-9 * abs(low) else (math.nan, math.nan)


def omissions(data: pd.DataFrame, keys: Sequence[str]) -> list[str]:
    """Return sentences on what `over_blocks` left out. keys: columns that identify its calls."""
    texts = []
    most = data.groupby(["method", "dataset"])["n"].max().reset_index()
    for dataset, part in most[most["n"] == 0].groupby("dataset"):
        names = ", ".join(map(proper_name, style.ordered(part["method"])))
        texts.append(
            f"Not shown on {proper_name(str(dataset))}, because most of their trainings are missing: {names}."
        )
    points = data[data["n"] > 0].drop_duplicates(list(keys))
    lost = points["blocks"] - points["n"]
    if lost.any():
        worst = points.iloc[int(lost.to_numpy().argmax())]
        texts.append(
            f"Left out: up to {lost.max()} of {worst['blocks']} pairs of backbone and seed, in which some "
            "method has no result."
        )
    return texts


def count_range(counts: pd.Series, one: str) -> str:
    """Return counts in words: ``1 seed``, ``2 seeds``, ``2 to 5 seeds``."""
    low, high = counts.min(), counts.max()
    return f"{low if low == high else f'{low} to {high}'} {one if low == high == 1 else f'{one}s'}"


def training_counts(data: pd.DataFrame) -> str:
    """Return how many trainings of how many backbones a mean is over, in words."""
    rows = data[data["n"] > 0]
    return f"n = {count_range(rows['n'], 'training')} of {count_range(rows['backbones'], 'backbone')}"


def equal_lines(data: pd.DataFrame, keys: Sequence[str]) -> list[str]:
    """Return a sentence for each data set with methods whose lines coincide to the last bit."""
    texts = []
    for dataset, part in data[data["n"] > 0].groupby("dataset"):
        wide = part.pivot_table(index=list(keys), columns="method", values="mean")
        groups: dict[tuple[float, ...], list[str]] = {}
        for method in style.ordered(wide.columns):
            groups.setdefault(tuple(wide[method].fillna(math.inf)), []).append(method)
        texts += [
            f"Exactly equal on {proper_name(str(dataset))}, so that their lines coincide: "
            f"{', '.join(map(proper_name, names))}."
            for names in groups.values()
            if len(names) > 1
        ]
    return texts

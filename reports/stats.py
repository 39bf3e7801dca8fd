"""Numbers over seeds: mean, spread, interval. Everything is a pure function of arrays or of the tidy frame.

The tidy frame has one row per measured number and the columns ``COLUMNS``. ``settings`` is the JSON text of
the method's settings that differ from its defaults; ``split`` is "valid", "test" or "cell";
``occlusion_protocol`` is "test" or "train"; ``value`` may be NaN (undefined).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
import pandas as pd

COLUMNS = (
    "study",
    "dataset",
    "backbone",
    "method",
    "settings",
    "seed",
    "occlusion_protocol",
    "occlusion_ratio",
    "split",
    "metric",
    "value",
    "cell_id",
    "run_id",
)
"""Columns of the tidy frame, in the order of the export."""


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation (ddof 1, NaN below two values) of the ``n`` values that are defined."""

    mean: float
    std: float
    n: int
    n_undefined: int


def summarise(values: np.ndarray) -> Summary:
    """Summarise one metric over seeds; values that are not finite are counted, not used. Shape: (n,)."""
    defined = _defined(values)
    n = len(defined)
    mean = float(defined.mean()) if n else math.nan
    std = float(defined.std(ddof=1)) if n > 1 else math.nan
    return Summary(mean, std, n, len(values) - n)


def bootstrap_interval(
    values: np.ndarray, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over seeds (Efron 1979). Shape: values (n,).

    Values that are not finite are left out. Fewer than two values say nothing about spread: (NaN, NaN).
    The same arguments always give the same interval, whatever the order of the values.

    Raises:
        ValueError: if ``confidence`` is not inside (0, 1) or ``resamples`` is below 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie inside (0, 1), however: {confidence}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, however: {resamples}")
    defined = np.sort(_defined(values))
    n = len(defined)
    if n < 2:
        return math.nan, math.nan
    draws = np.random.default_rng(seed).integers(0, n, size=(resamples, n))
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined[draws].mean(axis=1), (tail, 1 - tail))
    return float(low), float(high)


def t_interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Student's t interval of the mean over seeds, for few values; of differences it is the paired one.

    Shape: values (n,). Values that are not finite are left out; with fewer than two: (NaN, NaN).
    """
    # scipy.stats takes half a second to import.
    from scipy.stats import t

    summary = summarise(values)
    if summary.n < 2:
        return math.nan, math.nan
    half = float(t.ppf((1 + confidence) / 2, summary.n - 1)) * summary.std / math.sqrt(summary.n)
    return summary.mean - half, summary.mean + half


def permutation_p(values: np.ndarray, draws: int = 9_999, seed: int = 0) -> float | None:
    """p-value of "all settings are equal", given that seeds may differ (Fisher 1935; Pitman 1938).

    The statistic is F of the two-way layout without interaction, with settings as treatments and seeds as
    blocks; settings are permuted within each seed. Exact where there are at most ``draws`` arrangements, else
    by ``draws`` random ones, always the same. Valid where the noise of the settings is exchangeable within a
    seed; settings that train nearly alike share noise, and p is then too small.

    Shape: values (seeds, settings). Settings without a finite value for every seed are left out.

    Returns:
        The p-value; 1 where all settings are equal within every seed; None with fewer than two seeds or
        settings, which say nothing.
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[:, np.isfinite(values).all(axis=0)]
    seeds, settings = values.shape
    if seeds < 2 or settings < 2:
        return None
    if (values == values[:, :1]).all():
        return 1.0
    # Sums of squares within seeds do not change, so F grows with the sum over settings of squared totals.
    # F ignores how settings are named, so the first seed may keep its order.
    values = values - values.mean(axis=1, keepdims=True)
    values /= np.abs(values).max()
    exact = _arrangements(seeds, settings) <= draws
    totals = _all_totals(values) if exact else _drawn_totals(values, draws, seed)
    # Equal arrangements differ in the last bits.
    slack = 1e-12 * seeds * float((values**2).sum())
    reached = int(((totals**2).sum(axis=1) >= (values.sum(axis=0) ** 2).sum() - slack).sum())
    return reached / len(totals) if exact else (1 + reached) / (1 + draws)


def smallest_p(seeds: int, settings: int) -> float:
    """The p-value that `permutation_p` cannot fall below with this many seeds and settings."""
    return 1 / _arrangements(seeds, settings)


def identical_columns(table: pd.DataFrame) -> list[list[str]]:
    """Names of the columns in groups whose numbers are equal to the last bit; NaN equals NaN."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in table.columns:
        groups.setdefault(tuple(map(repr, table[name].tolist())), []).append(str(name))
    return list(groups.values())


def _arrangements(seeds: int, settings: int) -> int:
    return math.factorial(settings) ** (seeds - 1)


def _all_totals(values: np.ndarray) -> np.ndarray:
    """Totals of the settings under every arrangement: (arrangements, settings)."""
    orders = np.array(list(permutations(range(values.shape[1]))))
    others = [row[orders] for row in values[1:]]
    return np.array([values[0] + sum(choice) for choice in product(*others)])


def _drawn_totals(values: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Totals of the settings under random arrangements: (draws, settings)."""
    generator = np.random.default_rng(seed)
    totals = np.tile(values[0], (draws, 1))
    for row in values[1:]:
        totals += generator.permuted(np.tile(row, (draws, 1)), axis=1)
    return totals


def check_frame(frame: pd.DataFrame) -> None:
    """Check the columns of a tidy frame; further columns are welcome.

    Raises:
        ValueError: if a column is missing or a column of numbers holds something else.
    """
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise ValueError(f"the tidy frame lacks {', '.join(missing)}; it has {list(frame.columns)}")
    for name in ("value", "occlusion_ratio"):
        # An empty frame built from the names alone has object columns.
        kind = frame[name].dtype
        if len(frame) and not pd.api.types.is_numeric_dtype(kind):
            raise ValueError(f"column {name!r} of the tidy frame must be numbers, however: {kind}")


def _defined(values: np.ndarray) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    return array[np.isfinite(array)]

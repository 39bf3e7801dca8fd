"""Numbers over seeds: mean, spread, interval. Everything is a pure function of arrays or of the tidy frame.

The tidy frame has one row per measured number and the columns ``COLUMNS``. ``settings`` is the JSON text of
the method's settings that differ from its defaults; ``split`` is "valid", "test" or "cell";
``occlusion_protocol`` is "test" or "train"; ``value`` may be NaN (undefined).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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

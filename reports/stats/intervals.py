"""Numbers over seeds: mean, spread, interval. Everything is a pure function of arrays or of the tidy frame.

The tidy frame has one row per measured number and the columns ``COLUMNS``. ``settings`` is the JSON text of
the method's settings that differ from its defaults; ``split`` is "valid", "test" or "cell";
``occlusion_protocol`` is "test" or "train"; ``value`` may be NaN (undefined).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
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
FEWEST = 3  # seeds for a mark, or an interval in a table: that of two is wider than most metrics' range


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
    _check_resampling(confidence, resamples)
    defined = np.sort(_defined(values))
    n = len(defined)
    if n < 2:
        return math.nan, math.nan
    draws = np.random.default_rng(seed).integers(0, n, size=(resamples, n))
    low, high = _percentiles(defined[draws].mean(axis=1), confidence)
    return float(low), float(high)


def t_interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Student's t interval of the mean over seeds, for few values; of differences it is the paired one.

    Shape: values (n,). Values that are not finite are left out; with fewer than two: (NaN, NaN).
    """
    summary = summarise(values)
    half = float(t_half_width(np.array(summary.std), np.array(summary.n), confidence))
    return summary.mean - half, summary.mean + half


def t_half_width(std: np.ndarray, n: np.ndarray, confidence: float = 0.95) -> np.ndarray:
    """Half the width of Student's t interval of means of ``n`` values; NaN for fewer than two. Shape: any."""
    # scipy.stats takes half a second to import.
    from scipy.stats import t

    degrees = np.where(n > 1, n - 1.0, math.nan)
    return np.asarray(t.ppf((1 + confidence) / 2, degrees) * std / np.sqrt(degrees + 1))


def stratified_interval(
    values: np.ndarray,
    strata: Iterable[Hashable],
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Bootstrap interval of the mean of the means of strata, each of which weighs the same.

    Seeds are resampled within each stratum, e.g. a pair of backbone and dataset, and the percentiles of the
    resampled means are the bounds. With a handful of values the plain bootstrap is far too narrow (of 3
    values it covers the truth in 76% of cases, not 95%), so resampled deviations grow by sqrt(m / (m - 1))
    in a stratum of m values (Rao and Wu 1988) and by the ratio of Student's to the normal quantile, with one
    degree of freedom for each value but the first of a stratum (Hesterberg 2015). The interval may therefore
    reach beyond the values. Where strata differ much in spread it is still somewhat too narrow.

    A stratum with one value is held fixed, as if it had no noise. Values that are not finite are left out.
    The order of rows and the names of strata do not matter.

    Shape:
        values: (n,). strata: (n,), the name of the stratum of each value.

    Returns:
        The bounds; (NaN, NaN) where no stratum has two values or more.

    Raises:
        ValueError: if the shapes differ, a name of a stratum is missing, or see `bootstrap_interval`.
    """
    # scipy.stats takes half a second to import.
    from scipy.stats import norm, t

    _check_resampling(confidence, resamples)
    parts = _strata(values, strata)
    freedom = sum(len(part) - 1 for part in parts)
    if not freedom:
        return math.nan, math.nan
    generator = np.random.default_rng(seed)
    moves = np.zeros(resamples)
    for part in parts:
        if len(part) > 1:
            means = (_counts(generator, len(part), resamples) * part).sum(axis=1) / len(part)
            moves += (means - part.mean()) * math.sqrt(len(part) / (len(part) - 1))
    tail = (1 - confidence) / 2
    scale = float(t.isf(tail, freedom) / norm.isf(tail)) / len(parts)
    centre = math.fsum(part.mean() for part in parts) / len(parts)
    low, high = centre + scale * _percentiles(moves, confidence)
    return float(low), float(high)


@dataclass(frozen=True)
class Friedman:
    """Average rank of each method (1 is best), chi-squared and p; both NaN if there is nothing to test."""

    average_ranks: np.ndarray
    statistic: float
    p: float


def friedman(scores: np.ndarray, higher_is_better: bool = True) -> Friedman:
    """Rank methods within blocks and test whether they differ (Friedman 1937), with correction for ties.

    Scores of a block that differ by less than about 1e-12 of its largest are ties and share their mean rank.
    Where all are tied in all blocks, the statistic is 0 and p is 1. With few blocks p is rather too large.
    Fewer than two blocks or methods are not tested.

    Shape:
        scores: (blocks, methods), at least one of each. average_ranks: (methods,).

    Raises:
        ValueError: if ``scores`` has another shape or holds values that are not finite.
    """
    from scipy.stats import chi2, rankdata

    array = _matrix("scores", scores)
    if not array.size or not np.isfinite(array).all():
        raise ValueError(f"scores must be finite, at least one block and method, however: {array.tolist()}")
    scale = np.abs(array).max(axis=1, keepdims=True)
    rounded = np.round(np.divide(array, scale, out=np.zeros_like(array), where=scale > 0), 12)
    ranks = rankdata(-rounded if higher_is_better else rounded, axis=1)
    blocks, methods = ranks.shape
    if blocks < 2 or methods < 2:
        return Friedman(ranks.mean(axis=0), math.nan, math.nan)
    deviations = ranks - (methods + 1) / 2
    spread = (deviations**2).sum()
    explained = (deviations.sum(axis=0) ** 2).sum()
    statistic = float((methods - 1) * explained / spread) if spread else 0.0
    return Friedman(ranks.mean(axis=0), statistic, float(chi2.sf(statistic, methods - 1)))


def nemenyi_difference(methods: int, blocks: int, alpha: float = 0.05) -> float:
    """How far two average ranks must lie apart to differ at ``alpha`` (Nemenyi 1963; Demsar 2006, eq. 6).

    Raises:
        ValueError: with fewer than two methods, no block, or ``alpha`` not inside (0, 1).
    """
    from scipy.stats import studentized_range

    for name, value, least in (("methods", methods, 2), ("blocks", blocks, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, however: {value}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie inside (0, 1), however: {alpha}")
    q = float(studentized_range.isf(alpha, methods, math.inf)) / math.sqrt(2)
    return q * math.sqrt(methods * (methods + 1) / (6 * blocks))


def cliques(average_ranks: np.ndarray, difference: float) -> list[tuple[int, ...]]:
    """Largest groups of methods whose average ranks all lie less than ``difference`` apart (Demsar 2006).

    These are the bars of a critical-difference diagram. A method on its own is no group. Shape of
    ``average_ranks``: (methods,).

    Returns:
        Positions of the methods of each group, the best first, in order of the best.

    Raises:
        ValueError: if ``difference`` is not a positive number.
    """
    if not difference > 0:
        raise ValueError(f"difference must be a positive number, however: {difference}")
    ranks = np.asarray(average_ranks, dtype=np.float64)
    order = np.argsort(ranks, kind="stable")
    ends = np.searchsorted(ranks[order], ranks[order] + difference, side="left")
    groups, reached = [], 0
    for start, end in enumerate(ends):
        if end > reached and end - start > 1:
            groups.append(tuple(order[start:end].tolist()))
            reached = end
    return groups


def probability_of_improvement(
    x: np.ndarray, y: np.ndarray, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean over tasks of P(X > Y) + P(X = Y) / 2 for a run of each (Agarwal et al. 2021), and an interval.

    The interval is that of the percentile bootstrap, in which the runs of x and of y are resampled within
    each task; it is too narrow for a handful of runs, and where each run of x beats each of y in all tasks it
    has no width, which is no certainty. Runs that are not finite are left out, as are tasks that then lack
    x or y. The order of runs and of tasks does not matter.

    Shape:
        x: (runs, tasks), higher is better. y: (other runs, tasks).

    Returns:
        The probability (NaN without tasks), and the bounds: NaN unless some task has two runs of both.

    Raises:
        ValueError: if x and y are not matrices of the same tasks, or see `bootstrap_interval`.
    """
    _check_resampling(confidence, resamples)
    x, y = _matrix("x", x), _matrix("y", y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x and y must have the same tasks, however: {x.shape[1]} and {y.shape[1]} columns")
    pairs = sorted((sorted(_defined(a)), sorted(_defined(b))) for a, b in zip(x.T, y.T, strict=True))
    pairs = [(a, b) for a, b in pairs if a and b]
    if not pairs:
        return math.nan, math.nan, math.nan
    generator = np.random.default_rng(seed)
    probability, resampled = 0.0, np.zeros(resamples)
    for a, b in pairs:
        beaten = (np.sign(np.subtract.outer(a, b)) + 1) / 2
        probability += float(beaten.mean())
        first, second = _counts(generator, len(a), resamples), _counts(generator, len(b), resamples)
        resampled += ((first @ beaten) * second).sum(axis=1) / beaten.size
    probability /= len(pairs)
    if not any(len(a) > 1 and len(b) > 1 for a, b in pairs):
        return probability, math.nan, math.nan
    low, high = _percentiles(resampled / len(pairs), confidence)
    return probability, float(low), float(high)


def performance_profile(
    scores: np.ndarray, taus: np.ndarray, confidence: float = 0.95, resamples: int = 2_000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share of runs whose score is at least tau, a mean over tasks (Agarwal et al. 2021), and a band.

    The band is pointwise, by the percentile bootstrap with runs resampled within each task; it is too narrow
    for a handful of runs. Runs that are not finite and tasks without any are left out. The order of runs and
    of tasks does not matter. Errors are those of `probability_of_improvement`.

    Shape:
        scores: (runs, tasks). taus: (t,). Output: three times (t,): shares, lower and upper bounds; the
        shares are NaN without tasks, the bounds unless some task has two runs.
    """
    _check_resampling(confidence, resamples)
    taus = np.asarray(taus, dtype=np.float64)
    tasks = sorted(sorted(_defined(column)) for column in _matrix("scores", scores).T)
    tasks = [task for task in tasks if task]
    undefined = np.full(len(taus), math.nan)
    if not tasks:
        return undefined, undefined, undefined
    generator = np.random.default_rng(seed)
    shares, resampled = np.zeros(len(taus)), np.zeros((resamples, len(taus)))
    for task in tasks:
        reached = np.greater_equal.outer(task, taus).astype(np.float64)
        shares += reached.mean(axis=0)
        resampled += _counts(generator, len(task), resamples) @ reached / len(task)
    shares /= len(tasks)
    if all(len(task) == 1 for task in tasks):
        return shares, undefined, undefined
    low, high = _percentiles(resampled / len(tasks), confidence)
    return shares, low, high


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


def _check_resampling(confidence: float, resamples: int) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie inside (0, 1), however: {confidence}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, however: {resamples}")


def _percentiles(resampled: np.ndarray, confidence: float) -> np.ndarray:
    """Bounds of the middle ``confidence`` of each column. Shape: (resamples, ...) -> (2, ...)."""
    tail = (1 - confidence) / 2
    return np.quantile(resampled, (tail, 1 - tail), axis=0)


def _matrix(name: str, values: np.ndarray) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2:
        raise ValueError(f"{name} must have two dimensions, however: shape {array.shape}")
    return array


def _strata(values: np.ndarray, strata: Iterable[Hashable]) -> list[np.ndarray]:
    """Defined values of each stratum, sorted, in an order that does not depend on names."""
    values, names = np.asarray(values, dtype=np.float64), list(strata)
    if values.shape != (len(names),) or any(name is None or name != name for name in names):
        raise ValueError(f"strata must name one for each of {values.shape} values, however: {names}")
    parts: dict[Hashable, list[float]] = {}
    for name, value in zip(names, values.tolist(), strict=True):
        parts.setdefault(name, []).extend([value] * math.isfinite(value))
    return [np.array(part) for part in sorted(map(sorted, parts.values())) if part]


def _counts(generator: np.random.Generator, n: int, resamples: int) -> np.ndarray:
    """How often each of n values is drawn in each resample, as floats: (resamples, n)."""
    draws = generator.integers(0, n, size=(resamples, n)) + n * np.arange(resamples)[:, None]
    return np.bincount(draws.ravel(), minlength=resamples * n).reshape(resamples, n).astype(np.float64)

"""Intervals over seeds: Student's t, a stratified bootstrap, and the bootstraps of Agarwal et al. (2021)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable

import numpy as np

FEWEST = 3  # seeds for a mark, or an interval in a table: that of two is wider than most metrics' range
RESAMPLES = 10_000


def mean_and_std(values: np.ndarray) -> tuple[float, float, int]:
    """Mean, standard deviation (ddof 1) and number of the finite values; NaN where there are too few.

    Shape: values (n,).
    """
    values = _defined(values)
    n = len(values)
    return float(values.mean()) if n else math.nan, float(values.std(ddof=1)) if n > 1 else math.nan, n


def t_interval(values: np.ndarray) -> tuple[float, float]:
    """Student's 95% t interval of the mean over seeds, for few values; of differences it is the paired one.

    Shape: values (n,). Values that are not finite are left out; with fewer than two: (NaN, NaN).
    """
    mean, std, n = mean_and_std(values)
    half = float(t_half_width(np.array(std), np.array(n)))
    return mean - half, mean + half


def t_half_width(std: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Half the width of the 95% t interval of means of ``n`` values; NaN for fewer than two. Shape: any."""
    # scipy.stats takes half a second to import.
    from scipy.stats import t

    degrees = np.where(n > 1, n - 1.0, math.nan)
    return np.asarray(t.ppf(0.975, degrees) * std / np.sqrt(degrees + 1))


def stratified_interval(
    values: np.ndarray,
    strata: Iterable[Hashable],
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
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
    """
    # scipy.stats takes half a second to import.
    from scipy.stats import norm, t

    parts = _strata(values, strata)
    freedom = sum(len(part) - 1 for part in parts)
    if not freedom:
        return math.nan, math.nan
    generator = np.random.default_rng(0)
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


def probability_of_improvement(
    x: np.ndarray, y: np.ndarray, resamples: int = RESAMPLES
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
    """
    pairs = sorted((sorted(_defined(a)), sorted(_defined(b))) for a, b in zip(x.T, y.T, strict=True))
    pairs = [(a, b) for a, b in pairs if a and b]
    if not pairs:
        return math.nan, math.nan, math.nan
    generator = np.random.default_rng(0)
    probability, resampled = 0.0, np.zeros(resamples)
    for a, b in pairs:
        beaten = (np.sign(np.subtract.outer(a, b)) + 1) / 2
        probability += float(beaten.mean())
        first, second = _counts(generator, len(a), resamples), _counts(generator, len(b), resamples)
        resampled += ((first @ beaten) * second).sum(axis=1) / beaten.size
    probability /= len(pairs)
    if not any(len(a) > 1 and len(b) > 1 for a, b in pairs):
        return probability, math.nan, math.nan
    low, high = _percentiles(resampled / len(pairs))
    return probability, float(low), float(high)


def performance_profile(
    scores: np.ndarray, taus: np.ndarray, resamples: int = 2_000
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share of runs whose score is at least tau, a mean over tasks (Agarwal et al. 2021), and a band.

    The band is pointwise, by the percentile bootstrap with runs resampled within each task; it is too narrow
    for a handful of runs. Runs that are not finite and tasks without any are left out. The order of runs and
    of tasks does not matter.

    Shape:
        scores: (runs, tasks). taus: (t,). Output: three times (t,): shares, lower and upper bounds; the
        shares are NaN without tasks, the bounds unless some task has two runs.
    """
    taus = np.asarray(taus, dtype=np.float64)
    tasks = sorted(sorted(_defined(column)) for column in scores.T)
    tasks = [task for task in tasks if task]
    undefined = np.full(len(taus), math.nan)
    if not tasks:
        return undefined, undefined, undefined
    generator = np.random.default_rng(0)
    shares, resampled = np.zeros(len(taus)), np.zeros((resamples, len(taus)))
    for task in tasks:
        reached = np.greater_equal.outer(task, taus).astype(np.float64)
        shares += reached.mean(axis=0)
        resampled += _counts(generator, len(task), resamples) @ reached / len(task)
    shares /= len(tasks)
    if all(len(task) == 1 for task in tasks):
        return shares, undefined, undefined
    low, high = _percentiles(resampled / len(tasks))
    return shares, low, high


def _defined(values: np.ndarray) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    return array[np.isfinite(array)]


def _percentiles(resampled: np.ndarray, confidence: float = 0.95) -> np.ndarray:
    """Bounds of the middle ``confidence`` of each column. Shape: (resamples, ...) -> (2, ...)."""
    tail = (1 - confidence) / 2
    return np.quantile(resampled, (tail, 1 - tail), axis=0)


def _strata(values: np.ndarray, strata: Iterable[Hashable]) -> list[np.ndarray]:
    """Defined values of each stratum, sorted, in an order that does not depend on names."""
    parts: dict[Hashable, list[float]] = {}
    for name, value in zip(strata, np.asarray(values, dtype=np.float64).tolist(), strict=True):
        parts.setdefault(name, []).extend([value] * math.isfinite(value))
    return [np.array(part) for part in sorted(map(sorted, parts.values())) if part]


def _counts(generator: np.random.Generator, n: int, resamples: int) -> np.ndarray:
    """How often each of n values is drawn in each resample, as floats: (resamples, n)."""
    draws = generator.integers(0, n, size=(resamples, n)) + n * np.arange(resamples)[:, None]
    return np.bincount(draws.ravel(), minlength=resamples * n).reshape(resamples, n).astype(np.float64)

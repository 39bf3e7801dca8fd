"""Intervals over seeds: Student's t, a stratified bootstrap, and bootstraps from Agarwal et al. (2021)."""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Iterable

import numpy as np

FEWEST = 3  # seeds for a mark or an interval in a table; intervals of two exceed the range of most metrics
RESAMPLES = 10_000


def mean_and_std(values: np.ndarray) -> tuple[float, float, int]:
    """Return mean, standard deviation (ddof 1) and number of the finite values; NaN if there are too few.

    Shape: values (n,).
    """
    values = _defined(values)
    n = len(values)
    return float(values.mean()) if n else math.nan, float(values.std(ddof=1)) if n > 1 else math.nan, n


def t_interval(values: np.ndarray) -> tuple[float, float]:
    """Return Student's 95% t interval of the mean; for paired differences it is the paired interval.

    Shape: values (n,). Values that are not finite are left out; fewer than two give (NaN, NaN).
    """
    mean, std, n = mean_and_std(values)
    half = float(t_half_width(np.array(std), np.array(n)))
    return mean - half, mean + half


def t_half_width(std: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Return half the width of the 95% t interval of means of ``n`` values; NaN if n < 2. Shape: any."""
    # Imported here because importing scipy.stats takes half a second.
    from scipy.stats import t

    degrees = np.where(n > 1, n - 1.0, math.nan)
    return np.asarray(t.ppf(0.975, degrees) * std / np.sqrt(degrees + 1))


def stratified_interval(
    values: np.ndarray,
    strata: Iterable[Hashable],
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """Return a bootstrap interval of the unweighted mean of the strata's means.

    Seeds are resampled within each stratum, e.g. a pair of backbone and dataset; the bounds are percentiles
    of the resampled means. For few values the plain bootstrap is far too narrow: with 3 values its coverage
    is 76%, not 95%. Resampled deviations are therefore scaled by sqrt(m / (m - 1)) in a stratum of m values
    (Rao and Wu 1988) and by the ratio of Student's to the normal quantile with sum(m - 1) degrees of freedom
    (Hesterberg 2015). The interval may thus extend beyond the values; it remains somewhat too narrow if the
    strata differ much in spread.

    A stratum with one value is held fixed, as if it had no noise. Values that are not finite are left out.
    The result does not depend on the order of values or on the names of strata.

    Shape:
        values: (n,). strata: (n,), the name of the stratum of each value.

    Returns:
        The bounds; (NaN, NaN) if no stratum has two values or more.
    """
    # Imported here because importing scipy.stats takes half a second.
    from scipy.stats import norm, t

    parts = _strata(values, strata)
    freedom = sum(len(part) - 1 for part in parts)
    if not freedom:
        return math.nan, math.nan
    moves = np.zeros(resamples)
    drawn = iter(_all_counts(tuple(len(part) for part in parts if len(part) > 1), resamples))
    for part in parts:
        if len(part) > 1:
            means = (next(drawn) * part).sum(axis=1) / len(part)
            moves += (means - part.mean()) * math.sqrt(len(part) / (len(part) - 1))
    tail = (1 - confidence) / 2
    scale = float(t.isf(tail, freedom) / norm.isf(tail)) / len(parts)
    centre = math.fsum(part.mean() for part in parts) / len(parts)
    low, high = centre + scale * _percentiles(moves, confidence)
    return float(low), float(high)


def probability_of_improvement(
    x: np.ndarray, y: np.ndarray, resamples: int = RESAMPLES
) -> tuple[float, float, float]:
    """Estimate the mean over tasks of P(X > Y) + P(X = Y) / 2 (Agarwal et al. 2021) with a 95% interval.

    The interval is a percentile bootstrap that resamples the runs of x and y within each task. It is too
    narrow for few runs, and has zero width if every run of x beats every run of y. Runs that are not finite
    are left out, and so are tasks without runs of x or y. The result does not depend on the order of runs
    and tasks.

    Shape:
        x: (runs, tasks), higher is better. y: (other runs, tasks).

    Returns:
        The probability (NaN without tasks) and the bounds (NaN unless some task has two runs of x and of y).
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
    """Return the fraction of runs with a score of at least tau, averaged over tasks (Agarwal et al. 2021).

    The band around it is a pointwise 95% percentile bootstrap that resamples runs within each task; it is too
    narrow for few runs. Runs that are not finite and tasks without runs are left out. The result does not
    depend on the order of runs and tasks.

    Shape:
        scores: (runs, tasks). taus: (t,). Output: three arrays (t,): fractions, lower and upper bounds. The
        fractions are NaN without tasks, the bounds unless some task has two runs.
    """
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
    """Return the bounds of the central ``confidence`` of each column. Shape: (resamples, ...) -> (2, ...)."""
    tail = (1 - confidence) / 2
    return np.quantile(resampled, (tail, 1 - tail), axis=0)


def _strata(values: np.ndarray, strata: Iterable[Hashable]) -> list[np.ndarray]:
    """Return the sorted finite values of each stratum, in an order that does not depend on names."""
    parts: dict[Hashable, list[float]] = {}
    for name, value in zip(strata, values.tolist(), strict=True):
        parts.setdefault(name, []).extend([value] * math.isfinite(value))
    return [np.array(part) for part in sorted(map(sorted, parts.values())) if part]


@functools.lru_cache(maxsize=2)  # most intervals of a study have equally many values
def _all_counts(sizes: tuple[int, ...], resamples: int) -> list[np.ndarray]:
    """Return `_counts` of strata of these sizes, always the same ones."""
    generator = np.random.default_rng(0)
    return [_counts(generator, n, resamples) for n in sizes]


def _counts(generator: np.random.Generator, n: int, resamples: int) -> np.ndarray:
    """Draw resamples and count how often each has each of n values, as floats. Shape: (resamples, n)."""
    draws = generator.integers(0, n, size=(resamples, n)) + n * np.arange(resamples)[:, None]
    return np.bincount(draws.ravel(), minlength=resamples * n).reshape(resamples, n).astype(np.float64)

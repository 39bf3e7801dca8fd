"""p-values that need no normal noise: permutations of settings, signs of differences, Holm's correction."""

from __future__ import annotations

import math
from itertools import permutations, product

import numpy as np

LEVEL = 0.05  # a p-value at or below it is taken to be more than noise


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
    # F ignores how settings are named, so the first seed may keep its order: scipy's permutation_test, which
    # moves it, too, would be exact for far fewer seeds and settings.
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


def wilcoxon_p(differences: np.ndarray) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test (1945) of differences over blocks. Shape: (n,).

    Differences of zero take part in the ranking and then leave (Pratt 1959): they speak for no difference.
    Equal sizes share their mean rank. p is exact for up to 50 differences, with zeros or equal sizes for up
    to 13, else by the normal approximation. It cannot fall below 2 ** (1 - n): with five blocks it is never
    below 0.0625. Values that are not finite are left out.

    Returns:
        NaN with fewer than two differences other than zero: p would be 1 whatever they are, so that nothing
        has been tested.
    """
    from scipy.stats import wilcoxon

    defined = np.asarray(differences, dtype=np.float64)
    defined = defined[np.isfinite(defined)]
    # Differences of decimal fractions that are equal on paper differ in the last bits.
    rounded = np.round(defined / (np.abs(defined).max(initial=0.0) or 1.0), 12)
    if np.count_nonzero(rounded) < 2:
        return math.nan
    return float(wilcoxon(rounded, zero_method="pratt").pvalue)


def holm(p_values: np.ndarray) -> np.ndarray:
    """p-values adjusted for testing them all (Holm 1979), in the given order; NaN stays and does not count.

    Shape:
        p_values: (n,), in [0, 1] or NaN: tests that did not take place. Output: (n,).
    """
    # scipy has no Holm, and statsmodels would be a dependency for these lines alone.
    adjusted = np.array(p_values, dtype=np.float64)
    order = np.argsort(adjusted, kind="stable")[: np.count_nonzero(~np.isnan(adjusted))]
    raised = adjusted[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(raised), 1.0)
    return adjusted


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

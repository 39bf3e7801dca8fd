"""Nonparametric p-values: permutation test, Wilcoxon's signed-rank test, and Holm's correction."""

from __future__ import annotations

import math
from itertools import permutations, product

import numpy as np

LEVEL = 0.05  # significance level: reject if p <= LEVEL


def permutation_p(values: np.ndarray, draws: int = 9_999, seed: int = 0) -> float | None:
    """Test "all settings are equal" by permuting settings within seeds (Fisher 1935; Pitman 1938).

    The statistic is F of the two-way layout without interaction, with settings as treatments and seeds as
    blocks. The test is exact if there are at most ``draws`` arrangements, else it uses ``draws`` random ones,
    which depend only on ``seed``. It assumes that noise is exchangeable among settings within a seed; for
    settings whose trainings share noise because they are nearly equal, p is too small.

    Shape: values (seeds, settings). Settings without a finite value for every seed are left out.

    Returns:
        The p-value; 1 if all settings are equal within every seed, None with fewer than 2 seeds or settings.
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[:, np.isfinite(values).all(axis=0)]
    seeds, settings = values.shape
    if seeds < 2 or settings < 2:
        return None
    if (values == values[:, :1]).all():
        return 1.0
    # Permutations keep the sums of squares within seeds, so F increases with the sum of squared totals.
    # F does not depend on the order of settings, so the first seed is not permuted. scipy's permutation_test
    # permutes it, too, and would be exact for far fewer seeds and settings.
    values = values - values.mean(axis=1, keepdims=True)
    values /= np.abs(values).max()
    exact = _arrangements(seeds, settings) <= draws
    totals = _all_totals(values) if exact else _drawn_totals(values, draws, seed)
    # Arrangements with equal statistics may differ in the last bits.
    slack = 1e-12 * seeds * float((values**2).sum())
    reached = int(((totals**2).sum(axis=1) >= (values.sum(axis=0) ** 2).sum() - slack).sum())
    return reached / len(totals) if exact else (1 + reached) / (1 + draws)


def smallest_p(seeds: int, settings: int) -> float:
    """Return the smallest p-value that `permutation_p` can reach with this many seeds and settings."""
    return 1 / _arrangements(seeds, settings)


def wilcoxon_p(differences: np.ndarray) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test (1945) of differences. Shape: (n,).

    Zero differences are ranked and then dropped (Pratt 1959); ties share their mean rank. p is exact for up
    to 50 differences, or up to 13 with zeros or ties, else it uses the normal approximation. It is at least
    2 ** (1 - n), for example 0.0625 with five differences. Values that are not finite are left out.

    Returns:
        The p-value, or NaN with fewer than two nonzero differences, for which p would always be 1.
    """
    from scipy.stats import wilcoxon

    defined = np.asarray(differences, dtype=np.float64)
    defined = defined[np.isfinite(defined)]
    # Rounding restores ties: differences of decimal fractions that should be equal differ in the last bits.
    rounded = np.round(defined / (np.abs(defined).max(initial=0.0) or 1.0), 12)
    if np.count_nonzero(rounded) < 2:
        return math.nan
    return float(wilcoxon(rounded, zero_method="pratt").pvalue)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Adjust p-values for multiple testing (Holm 1979), in their order; NaN stays NaN and is not counted.

    Shape:
        p_values: (n,), in [0, 1], or NaN for tests that did not take place. Output: (n,).
    """
    # scipy lacks Holm's method, and these lines do not justify a dependency on statsmodels.
    adjusted = np.array(p_values, dtype=np.float64)
    order = np.argsort(adjusted)[: np.count_nonzero(~np.isnan(adjusted))]
    raised = adjusted[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(raised), 1.0)
    return adjusted


def _arrangements(seeds: int, settings: int) -> int:
    return math.factorial(settings) ** (seeds - 1)


def _all_totals(values: np.ndarray) -> np.ndarray:
    """Return the totals of the settings under every arrangement. Shape: (arrangements, settings)."""
    orders = np.array(list(permutations(range(values.shape[1]))))
    others = [row[orders] for row in values[1:]]
    return np.array([values[0] + sum(choice) for choice in product(*others)])


def _drawn_totals(values: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Return the totals of the settings under random arrangements. Shape: (draws, settings)."""
    generator = np.random.default_rng(seed)
    totals = np.tile(values[0], (draws, 1))
    for row in values[1:]:
        totals += generator.permuted(np.tile(row, (draws, 1)), axis=1)
    return totals

"""Average ranks over blocks: Friedman's test, Nemenyi's critical difference, and cliques (Demsar 2006)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.metrics import DIRECTION
from reports.stats.comparison import BASELINE, TASK, cell_means
from reports.stats.permutation import LEVEL


@dataclass(frozen=True)
class Ranks:
    """Average ranks of methods over blocks, the pairs of dataset and backbone; see `ranks`.

    methods, average: best first; equal ones by name. statistic, p: Friedman's test, NaN where it does not
    apply. critical_difference: Nemenyi's, NaN likewise. cliques: names of methods that do not differ.
    blocks: how many count. left_out: how many do not. dropped: methods that do not count.
    """

    blocks: int
    left_out: int
    dropped: tuple[str, ...]
    methods: tuple[str, ...] = ()
    average: tuple[float, ...] = ()
    statistic: float = math.nan
    p: float = math.nan
    critical_difference: float = math.nan
    cliques: tuple[tuple[str, ...], ...] = ()


def ranks(scores: pd.DataFrame, metric: str) -> Ranks:
    """Rank methods by the mean over the runs, pairs of seed and environment, that all have in a block.

    A block counts where all methods share a run. While fewer than half of the blocks do, the method that
    shares a run with the fewest methods, itself among them, summed over blocks, is dropped, down to two
    methods; of equal ones the last by name. So a method absent from most blocks goes, rather than most
    blocks.

    Where no block has two runs or there is one block, nothing is tested. Where Friedman's test does not
    reject at 0.05, all methods are one clique: Nemenyi's test only follows a rejection (Demsar 2006).

    Raises:
        UserError, ValueError: see `reports.stats.comparison.paired`.
    """
    values = cell_means(scores, metric)
    names = sorted(set(scores.loc[scores["metric"] == metric, "method"]))
    tables = [
        part.pivot(index=["seed", "environment"], columns="method", values="value").reindex(columns=names)
        for _, part in values.groupby(list(TASK), observed=True)
    ]
    kept = _ranked_together(tables, names)
    complete = [shared for table in tables if len(shared := table[kept].dropna())] if len(kept) > 1 else []
    blocks, left_out = len(complete), len(tables) - len(complete)
    dropped = tuple(name for name in names if name not in kept)
    if not complete:
        return Ranks(0, left_out, dropped)
    means = np.array([shared.mean().to_numpy() for shared in complete]) * DIRECTION[metric]
    average, statistic, p = friedman(means)
    order = np.argsort(average, kind="stable")
    average, methods = average[order], tuple(kept[place] for place in order)
    found = (blocks, left_out, dropped, methods, tuple(average.tolist()))
    if blocks < 2 or all(len(shared) == 1 for shared in complete):
        return Ranks(*found)
    difference = nemenyi_difference(len(methods), blocks)
    groups = cliques(average, difference) if p <= LEVEL else [range(len(methods))]
    named = tuple(tuple(methods[k] for k in group) for group in groups)
    return Ranks(*found, statistic, p, difference, named)


def friedman(scores: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Rank methods within blocks and test whether they differ (Friedman 1937), with correction for ties.

    Scores of a block that differ by less than about 1e-12 of its largest are ties and share their mean rank.
    Where all are tied in all blocks, the statistic is 0 and p is 1. With few blocks p is rather too large.

    Shape:
        scores: (blocks, methods), finite, higher is better.

    Returns:
        The average rank of each method (1 is best), chi-squared and p; NaN with fewer than two blocks.
    """
    # scipy's friedmanchisquare takes no two methods, and divides by zero where all are tied.
    from scipy.stats import chi2, rankdata

    scale = np.abs(scores).max(axis=1, keepdims=True)
    rounded = np.round(np.divide(scores, scale, out=np.zeros_like(scores), where=scale > 0), 12)
    table = rankdata(-rounded, axis=1)
    blocks, methods = table.shape
    if blocks < 2:
        return table.mean(axis=0), math.nan, math.nan
    deviations = table - (methods + 1) / 2
    spread = (deviations**2).sum()
    explained = (deviations.sum(axis=0) ** 2).sum()
    statistic = float((methods - 1) * explained / spread) if spread else 0.0
    return table.mean(axis=0), statistic, float(chi2.sf(statistic, methods - 1))


def nemenyi_difference(methods: int, blocks: int) -> float:
    """How far two average ranks must lie apart to differ at `LEVEL` (Nemenyi 1963; Demsar 2006, eq. 6)."""
    from scipy.stats import studentized_range

    q = float(studentized_range.isf(LEVEL, methods, math.inf)) / math.sqrt(2)
    return q * math.sqrt(methods * (methods + 1) / (6 * blocks))


def cliques(average_ranks: np.ndarray, difference: float) -> list[Sequence[int]]:
    """Largest groups of methods whose average ranks all lie less than ``difference`` apart (Demsar 2006).

    These are the bars of a critical-difference diagram. A method on its own is no group. Shape of
    ``average_ranks``: (methods,), ascending.

    Returns:
        Positions of the methods of each group, the best first, in order of the best.
    """
    ends = np.searchsorted(average_ranks, average_ranks + difference, side="left").tolist()
    groups: list[Sequence[int]] = []
    for start, end in enumerate(ends):
        if end - start > 1 and (not groups or end > groups[-1][-1] + 1):
            groups.append(range(start, end))
    return groups


def _ranked_together(tables: list[pd.DataFrame], names: list[str]) -> list[str]:
    """Methods that are left when too few blocks were complete with all, see `ranks`."""
    if not tables:
        return []
    defined = [table.notna().to_numpy().astype(int) for table in tables]
    # Blocks in which two methods share a run; on the diagonal, in which a method has one: (methods, methods).
    together = np.sum([runs.T @ runs > 0 for runs in defined], axis=0)
    kept = list(range(len(names)))
    while len(kept) > 2 and 2 * sum(runs[:, kept].all(axis=1).any() for runs in defined) < len(defined):
        partners = together[np.ix_(kept, kept)].sum(axis=1)
        # A comparison without the baseline answers no question.
        able = [place for place in reversed(range(len(kept))) if names[kept[place]] != BASELINE]
        del kept[min(able, key=partners.__getitem__)]
    return [names[place] for place in kept if together[place, place]]

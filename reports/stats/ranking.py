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
    """Average ranks of methods over blocks (pairs of dataset and backbone), see `ranks`.

    methods, average: names and average ranks, best first, ties by name. statistic, p: Friedman's test, NaN if
    not tested. critical_difference: Nemenyi's, NaN if not tested. cliques: groups of methods that do not
    differ. blocks: number of blocks used. left_out: number of blocks not used. dropped: methods not ranked.
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
    """Rank methods in each block by their mean over the runs (seed, environment) that all methods share.

    A block counts if all methods share a run in it. While fewer than half of the blocks count, the method
    that shares runs with the fewest methods (summed over blocks; ties: the last by name) is dropped, down to
    two methods. This drops methods that are absent from most blocks instead of dropping most blocks.

    Nothing is tested if there is only one block or no block has two runs. If Friedman's test does not reject
    at 0.05, all methods form one clique: Nemenyi's test only follows a rejection (Demsar 2006).

    Raises:
        UserError, ValueError: see `reports.stats.comparison.paired`.
    """
    values = cell_means(scores, metric)
    names = sorted(set(scores.loc[scores["metric"] == metric, "method"]))
    tables = [
        part.pivot(index=["seed", "environment"], columns="method", values="value").reindex(columns=names)
        for _, part in values.groupby(list(TASK), observed=True)
    ]
    ranked = _ranked_together(tables, names)
    complete = [part for table in tables if len(part := table[ranked].dropna())] if len(ranked) > 1 else []
    blocks, left_out = len(complete), len(tables) - len(complete)
    dropped = tuple(name for name in names if name not in ranked)
    if not complete:
        return Ranks(0, left_out, dropped)
    means = np.array([shared.mean().to_numpy() for shared in complete]) * DIRECTION[metric]
    average, statistic, p = friedman(means)
    order = np.argsort(average, kind="stable")
    average, methods = average[order], tuple(ranked[place] for place in order)
    untested = (blocks, left_out, dropped, methods, tuple(average.tolist()))
    if blocks < 2 or all(len(shared) == 1 for shared in complete):
        return Ranks(*untested)
    difference = nemenyi_difference(len(methods), blocks)
    groups = cliques(average, difference) if p <= LEVEL else [range(len(methods))]
    named = tuple(tuple(methods[k] for k in group) for group in groups)
    return Ranks(*untested, statistic, p, difference, named)


def friedman(scores: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Rank methods within blocks and test whether they differ (Friedman 1937), with correction for ties.

    Scores of a block whose relative difference is below about 1e-12 are ties and share their mean rank. If
    all scores are tied, the statistic is 0 and p is 1. With few blocks, p tends to be too large.

    Shape:
        scores: (blocks, methods), finite, higher is better.

    Returns:
        The average rank of each method (1 is best), chi-squared and p; the last two are NaN with one block.
    """
    # scipy's friedmanchisquare rejects two methods, and divides by zero if all scores are tied.
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
    """Return the critical difference of average ranks at `LEVEL` (Nemenyi 1963; Demsar 2006, eq. 6)."""
    from scipy.stats import studentized_range

    q = float(studentized_range.isf(LEVEL, methods, math.inf)) / math.sqrt(2)
    return q * math.sqrt(methods * (methods + 1) / (6 * blocks))


def cliques(average_ranks: np.ndarray, difference: float) -> list[Sequence[int]]:
    """Return maximal groups of methods whose average ranks differ by less than ``difference`` (Demsar 2006).

    They are the bars of a critical-difference diagram. A group has at least two methods.

    Shape:
        average_ranks: (methods,), ascending.

    Returns:
        Positions of each group's methods, ascending; groups are ordered by their best method.
    """
    ends = np.searchsorted(average_ranks, average_ranks + difference, side="left").tolist()
    groups: list[Sequence[int]] = []
    for start, end in enumerate(ends):
        if end - start > 1 and (not groups or end > groups[-1][-1] + 1):
            groups.append(range(start, end))
    return groups


def _ranked_together(tables: list[pd.DataFrame], names: list[str]) -> list[str]:
    """Return the methods that remain after `ranks` drops methods until enough blocks are complete."""
    if not tables:
        return []
    defined = [table.notna().to_numpy().astype(int) for table in tables]
    # (methods, methods): number of blocks in which two methods share a run, or one has a run (diagonal).
    together = np.sum([runs.T @ runs > 0 for runs in defined], axis=0)
    columns = list(range(len(names)))
    while len(columns) > 2 and 2 * sum(runs[:, columns].all(axis=1).any() for runs in defined) < len(defined):
        partners = together[np.ix_(columns, columns)].sum(axis=1)
        # The baseline is never dropped, because the study compares methods with it.
        candidates = [place for place in reversed(range(len(columns))) if names[columns[place]] != BASELINE]
        del columns[min(candidates, key=partners.__getitem__)]
    return [names[place] for place in columns if together[place, place]]

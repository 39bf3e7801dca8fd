"""Methods against the baseline and each other: paired differences, intervals, tests, ranks.

Everything is a pure function of the scores, a frame with one row per score of a cell and the columns
``SCORES``: ``method`` is a label, ``environment`` names what a cell ran on. Results of different environments
are never paired. A ``gain`` is positive where the method is better, whatever the direction of the metric.
Frames come back in an order of names; nothing depends on the order of rows.

With one seed nothing here claims anything: intervals, p-values and marks stay empty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.config.tuned import tuned_label
from harness.errors import unknown
from harness.metrics import DIRECTION
from reports.stats.intervals import (
    FEWEST,
    cliques,
    friedman,
    nemenyi_difference,
    probability_of_improvement,
    stratified_interval,
    t_half_width,
)
from reports.stats.permutation import holm, wilcoxon_p

TASK = ("dataset", "backbone")
CELL = (*TASK, "method", "seed")
RATIO = ("occlusion_protocol", "occlusion_ratio")
SCORES = (*CELL, *RATIO, "metric", "value", "environment")
PAIRS = (*CELL, "difference", "gain")
INTERVALS = (*TASK, "method", "n", "gain", "low", "high", "outside")
OVERALL = ("method", "gain", "low", "high", "outside", "p", "p_holm", "n", "seeds", "strata")
WINS = ("dataset", "method", "better", "worse", "inside", "untested")
IMPROVEMENT = ("method", "probability", "low", "high", "tasks", "n")
BASELINE = "none"
LEVEL = 0.05  # a p-value at or below it is taken to be more than noise

_WHOLE = ("seed", "n", "seeds", "strata", "tasks", "better", "worse", "inside", "untested")
_REAL = ("difference", "gain", "low", "high", "p", "p_holm", "probability")


def clean(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores on the whole test split, nothing occluded."""
    _check(scores, SCORES, "scores")
    kept = scores[(scores["occlusion_protocol"] == "test") & (scores["occlusion_ratio"] == 0)]
    return kept.sort_values(list(SCORES), ignore_index=True)


def paired(scores: pd.DataFrame, metric: str, baseline: str = "none") -> pd.DataFrame:
    """Difference of each method to the baseline of the same dataset, backbone, seed and environment.

    Several values of a method for one of these count as their mean, as do the differences of one seed in
    several environments: such runs are repetitions, not further seeds. Undefined values give no pair.

    Returns:
        A frame with the columns ``PAIRS``, without the baseline. ``attrs``: "unpaired", how many seeds of a
        method, over all datasets and backbones, have a value and no partner; "environments", how many of them
        have a partner in another environment.

    Raises:
        UserError: for an unknown metric.
        ValueError: if a column or name is missing, or the scores mix occlusion protocols or ratios.
    """
    values = _values(scores, metric)
    pairs = _pairs(values, CELL, baseline)
    lost = pairs[pairs["difference"].isna()]
    partners = values.loc[values["method"] == baseline, [*TASK, "seed"]].drop_duplicates()
    elsewhere = lost.merge(partners, on=[*TASK, "seed"])
    pairs = pairs.dropna(subset="difference")
    result = _frame(pairs.assign(gain=pairs["difference"] * DIRECTION[metric]), PAIRS)
    result.attrs = {"unpaired": len(lost), "environments": len(elsewhere)}
    return result


def paired_everywhere(scores: pd.DataFrame, baseline: str = "none") -> pd.DataFrame:
    """What `paired` gives for every metric, protocol and ratio, with these in columns; no ``attrs``."""
    _check(scores, SCORES, "scores")
    keys = (*TASK, *RATIO, "metric", "method", "seed")
    pairs = _pairs(_means(scores, [*keys, "environment"]), keys, baseline).dropna(subset="difference")
    signs = pairs["metric"].map(DIRECTION).astype(float)
    return _frame(pairs.assign(gain=pairs["difference"] * signs), (*keys, "difference", "gain"))


def intervals(pairs: pd.DataFrame) -> pd.DataFrame:
    """Mean gain of each method per dataset and backbone, with its 95% paired t interval over ``n`` seeds.

    ``outside`` is "better" or "worse" where the interval excludes 0, else "". Two seeds never give a mark:
    their interval excludes 0 only where the two differences happen to agree within some 8% of their sum, so a
    mark would tell more of chance than of the effect. ``low`` and ``high`` are NaN with one seed, and
    where all differences are equal: an accuracy on a small split moves in steps, and seeds may train alike,
    so equal differences are no measure of noise, and an interval without width would claim certainty.
    Marks are not corrected for the number of rows; one in twenty is a false alarm where nothing works.
    """
    _check(pairs, PAIRS, "pairs")
    more = [name for name in (*RATIO, "metric") if name in pairs.columns]
    keys = [*TASK, *more, "method"]
    # A sum depends on its order in the last bits.
    groups = pairs.sort_values([*keys, "gain"]).groupby(keys, observed=True)["gain"]
    table = groups.agg(n="count", gain="mean", std="std").reset_index()
    half = t_half_width(table["std"].to_numpy(float), table["n"].to_numpy(int))
    wide = half > 1e-9 * (table["gain"].abs() + half)
    table["low"], table["high"] = (table["gain"] + sign * np.where(wide, half, math.nan) for sign in (-1, 1))
    ends = zip(table["n"], table["low"], table["high"], strict=True)
    table["outside"] = [_outside(low, high) if n >= FEWEST else "" for n, low, high in ends]
    return _frame(table, (*TASK, *more, *INTERVALS[len(TASK) :]))


def overall(pairs: pd.DataFrame, by: Sequence[str] = ("dataset",)) -> pd.DataFrame:
    """Mean gain of each method within each ``by``, over strata: its pairs of dataset and backbone.

    ``gain`` is the mean of the means of strata, ``low`` and ``high`` are `stats.stratified_interval`, empty
    where there is no spread, see `intervals`. ``outside`` marks an interval that excludes 0, if every stratum
    has three seeds or more: with two each, strata that are noisier than others make too many marks. ``p`` is
    Wilcoxon's over the means of strata, so it cannot fall below 0.05 with fewer than six strata, and takes
    strata for independent, though backbones share a test split; it is NaN without an interval.
    ``p_holm`` is adjusted for the methods of the same ``by``. ``n`` counts pairs, ``seeds`` different seeds.

    by: some of "dataset" and "backbone"; none of them: one row per method.

    Raises:
        ValueError: for another name in ``by``, or if a column is missing.
    """
    _check(pairs, PAIRS, "pairs")
    if not set(by) <= set(TASK):
        raise ValueError(f"by must hold some of {', '.join(TASK)}, however: {tuple(by)}")
    rows = [(*names, *_pooled(part)) for names, part in pairs.groupby([*by, "method"], observed=True)]
    table = _frame(rows, (*by, *OVERALL))
    parts = [group["p"] for _, group in table.groupby(list(by))] if by else [table["p"]]
    for p in parts:
        table.loc[p.index, "p_holm"] = holm(p.to_numpy())
    return table


@dataclass(frozen=True)
class Ranks:
    """Average ranks of methods over blocks, the pairs of dataset and backbone; see `ranks`.

    methods, average: best first; equal ones by name. statistic, p: Friedman's test, NaN where it does not
    apply. critical_difference: Nemenyi's, NaN likewise. cliques: names of methods that do not
    differ. blocks: how many count. left_out: how many do not. dropped: methods that do not count.
    """

    methods: tuple[str, ...]
    average: tuple[float, ...]
    statistic: float
    p: float
    critical_difference: float
    cliques: tuple[tuple[str, ...], ...]
    blocks: int
    left_out: int
    dropped: tuple[str, ...]


def ranks(scores: pd.DataFrame, metric: str) -> Ranks:
    """Rank methods by the mean over the runs, pairs of seed and environment, that all have in a block.

    A block counts where all methods share a run. While fewer than half of the blocks do, the method that
    shares a run with the fewest methods, itself among them, summed over blocks, is dropped, down to two
    methods; of equal ones the last by name. So a method absent from most blocks goes, rather than most
    blocks.

    Where no block has two runs or there is one block, nothing is tested. Where Friedman's test does not
    reject at 0.05, all methods are one clique: Nemenyi's test only follows a rejection (Demsar 2006).

    Raises:
        UserError, ValueError: see `paired`.
    """
    values = _values(scores, metric)
    names = sorted(set(scores.loc[scores["metric"] == metric, "method"]))
    tables = [
        part.pivot(index=["seed", "environment"], columns="method", values="value").reindex(columns=names)
        for _, part in values.groupby(list(TASK), observed=True)
    ]
    kept = _ranked_together(tables, names)
    complete = [shared for table in tables if len(shared := table[kept].dropna())] if len(kept) > 1 else []
    dropped = tuple(name for name in names if name not in kept)
    left_out = len(tables) - len(complete)
    if not complete:
        return Ranks((), (), math.nan, math.nan, math.nan, (), 0, left_out, dropped)
    means = np.array([shared.mean().to_numpy() for shared in complete]) * DIRECTION[metric]
    found = friedman(means)
    order = np.argsort(found.average_ranks, kind="stable")
    methods = tuple(kept[place] for place in order)
    average = tuple(found.average_ranks[order].tolist())
    if len(complete) < 2 or all(len(shared) == 1 for shared in complete):
        return Ranks(methods, average, math.nan, math.nan, math.nan, (), len(complete), left_out, dropped)
    difference = nemenyi_difference(len(kept), len(complete), LEVEL)
    groups = cliques(np.array(average), difference) if found.p <= LEVEL else [range(len(kept))]
    named = tuple(tuple(methods[place] for place in group) for group in groups)
    return Ranks(
        methods, average, found.statistic, found.p, difference, named, len(complete), left_out, dropped
    )


def wins(table: pd.DataFrame) -> pd.DataFrame:
    """Count backbones per dataset and method, from `intervals`: better, worse, inside the noise, untested.

    Untested are those with too few seeds for a mark or without an interval: they are not inside the noise.
    """
    _check(table, INTERVALS, "intervals")
    rows = []
    for names, part in table.groupby(["dataset", "method"], observed=True):
        better, worse = ((part["outside"] == mark).sum() for mark in ("better", "worse"))
        untested = ((part["n"] < FEWEST) | part["low"].isna()).sum()
        rows.append((*names, better, worse, len(part) - better - worse - untested, untested))
    return _frame(rows, WINS)


def improvement(scores: pd.DataFrame, metric: str, baseline: str = "none") -> pd.DataFrame:
    """Probability that a run of a method beats one of the baseline, see `stats.probability_of_improvement`.

    Tasks are the combinations of dataset, backbone and environment in which both have runs; runs are not
    paired by seed. ``tasks`` counts them, ``n`` the runs of the method in them. ``low`` and ``high`` are NaN
    with one seed, and where all resamples agree, as where every run beats every other.

    Raises:
        UserError, ValueError: see `paired`.
    """
    values = _values(scores, metric)
    values["value"] *= DIRECTION[metric]
    tables = {
        name: part.pivot(index="seed", columns=[*TASK, "environment"], values="value")
        for name, part in values.groupby("method", observed=True)
    }
    other = tables.pop(baseline, pd.DataFrame())
    rows = []
    for name, table in tables.items():
        tasks = [task for task in table.columns if task in other.columns]
        if tasks:
            x = table[tasks].to_numpy()
            chance, low, high = probability_of_improvement(x, other[tasks].to_numpy())
            rows.append((name, chance, *_with_width((low, high)), len(tasks), np.isfinite(x).sum()))
    return _frame(rows, IMPROVEMENT)


def _values(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Mean of the defined values of each cell in each environment, in an order of names."""
    _check(scores, SCORES, "scores")
    if metric not in DIRECTION:
        raise unknown("metric", metric, DIRECTION)
    rows = scores[scores["metric"] == metric]
    mixed = rows[list(RATIO)].drop_duplicates().sort_values(list(RATIO)).to_numpy().tolist()
    if len(mixed) > 1:
        raise ValueError(f"scores must have one occlusion protocol and ratio (see clean), however: {mixed}")
    return _means(rows, [*CELL, "environment"])


def _means(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    if rows[keys].isna().any(axis=None):
        raise ValueError(f"scores must name {', '.join(keys)} of each value, however: one is missing")
    rows = rows.assign(value=rows["value"].astype(float))
    # A sum depends on its order in the last bits.
    rows = rows[np.isfinite(rows["value"])].sort_values([*keys, "value"])
    return rows.groupby(keys, observed=True)["value"].mean().reset_index()


def _pairs(values: pd.DataFrame, keys: Sequence[str], baseline: str) -> pd.DataFrame:
    """Columns ``keys`` and ``difference``, the mean over environments, NaN where there is no partner.

    A tuned method's partner is the baseline tuned likewise, where the study holds one.
    """
    tuned = tuned_label(baseline)
    known = set(values["method"]) & {baseline, tuned}
    partner = {name: tuned if name.endswith(tuned_label("")) and tuned in known - {name} else baseline
               for name in set(values["method"])}  # fmt: skip
    column = pd.Series([partner[name] for name in values["method"]], values.index, object)
    values = values.assign(partner=column)
    partners = values[values["method"].isin(known)].drop(columns="partner")
    partners = partners.rename(columns={"method": "partner", "value": "baseline"})
    partners = partners.astype({"partner": object})
    shared = [name for name in (*keys, "environment", "partner") if name != "method"]
    alone = {baseline} if baseline in known else known
    both = values[~values["method"].isin(alone)].merge(partners, on=shared, how="left")
    both["difference"] = both["value"] - both["baseline"]
    return both.groupby(list(keys), observed=True)["difference"].mean().reset_index()


def _pooled(part: pd.DataFrame) -> tuple:
    """One row of `overall`, without names, for the pairs of one method."""
    strata = part.groupby(list(TASK), observed=True)["gain"]
    gains = [np.sort(gain.to_numpy(float)) for _, gain in strata]
    means, sizes = np.array([gain.mean() for gain in gains]), [len(gain) for gain in gains]
    low, high = _with_width(stratified_interval(part["gain"].to_numpy(), strata.ngroup().to_numpy()))
    mark = _outside(low, high) if min(sizes) >= FEWEST else ""
    p = None if math.isnan(low) else wilcoxon_p(means)
    p = math.nan if p is None else p
    return means.mean(), low, high, mark, p, math.nan, len(part), part["seed"].nunique(), len(means)


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


def _with_width(interval: tuple[float, float]) -> tuple[float, float]:
    """The interval, or NaN where it has no width but for rounding."""
    low, high = interval
    wide = high - low > 1e-9 * max(abs(low), abs(high))
    return (low, high) if wide else (math.nan, math.nan)


def _outside(low: float, high: float) -> str:
    return "better" if low > 0 else "worse" if high < 0 else ""


def _check(frame: pd.DataFrame, columns: Sequence[str], name: str) -> None:
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise ValueError(f"{name} lack {', '.join(missing)}; they have {list(frame.columns)}")


def _frame(rows: pd.DataFrame | list[tuple], columns: Sequence[str]) -> pd.DataFrame:
    """The rows with these columns, in their order, with numbers as numbers even without rows."""
    table = pd.DataFrame(rows, columns=list(columns))
    kinds = {name: kind for names, kind in ((_WHOLE, "int64"), (_REAL, "float64")) for name in names}
    return table.astype({name: kinds[name] for name in columns if name in kinds}).reset_index(drop=True)

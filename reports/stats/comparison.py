"""Comparison of methods with the baseline: paired differences, intervals, tests, counts of wins.

All functions are pure. Their input ``scores`` is a frame with one row per score of a cell and the columns
``SCORES``: ``method`` is a label, ``environment`` names the device and versions of a cell. Results of
different environments are never paired. A ``gain`` is positive if the method is better, whatever the
direction of the metric. Frames are sorted by name and do not depend on the order of rows.

With one seed, intervals, p-values and marks stay empty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from harness.config.tuned import tuned_label
from harness.errors import unknown
from harness.metrics import DIRECTION
from reports.stats.intervals import FEWEST, probability_of_improvement, stratified_interval, t_half_width
from reports.stats.permutation import holm, wilcoxon_p

TASK = ("dataset", "backbone")
CELL = (*TASK, "method", "seed")
RATIO = ("occlusion_protocol", "occlusion_ratio")
SCORES = (*CELL, *RATIO, "metric", "value", "environment")
PAIRS = (*CELL, "difference", "gain")
INTERVALS = (*TASK, "method", "n", "gain", "low", "high", "outside")
OVERALL = ("dataset", "method", "gain", "low", "high", "outside", "p", "p_holm", "n", "seeds", "strata")
WINS = ("dataset", "method", "better", "worse", "inside", "untested")
IMPROVEMENT = ("method", "probability", "low", "high", "tasks", "n")
BASELINE = "none"

_WHOLE = ("seed", "n", "seeds", "strata", "tasks", "better", "worse", "inside", "untested")
_REAL = ("difference", "gain", "low", "high", "p", "p_holm", "probability")


def clean(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the scores of the test split without occlusion."""
    _check(scores)
    rows = scores[(scores["occlusion_protocol"] == "test") & (scores["occlusion_ratio"] == 0)]
    return rows.sort_values(list(SCORES), ignore_index=True)


def paired(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Subtract the baseline with the same dataset, backbone, seed and environment from each method.

    Several values of a method for the same key are averaged, and so are the differences of one seed in
    several environments: such runs are repetitions, not further seeds. Undefined values give no pair.

    Returns:
        A frame with the columns ``PAIRS``, without the baseline. ``attrs``: "unpaired" is the number of
        (dataset, backbone, method, seed) with a value but no partner; "environments" is how many of them have
        a partner in another environment.

    Raises:
        UserError: for an unknown metric.
        ValueError: if a column or name is missing, or the scores mix occlusion protocols or ratios.
    """
    values = cell_means(scores, metric)
    pairs = _pairs(values, CELL)
    lost = pairs[pairs["difference"].isna()]
    partners = values.loc[values["method"] == BASELINE, [*TASK, "seed"]].drop_duplicates()
    elsewhere = lost.merge(partners, on=[*TASK, "seed"])
    pairs = pairs.dropna(subset="difference")
    result = _frame(pairs.assign(gain=pairs["difference"] * DIRECTION[metric]), PAIRS)
    result.attrs = {"unpaired": len(lost), "environments": len(elsewhere)}
    return result


def paired_everywhere(scores: pd.DataFrame) -> pd.DataFrame:
    """Compute `paired` for every metric, protocol and ratio, which become columns; without ``attrs``."""
    _check(scores)
    keys = (*TASK, *RATIO, "metric", "method", "seed")
    pairs = _pairs(_means(scores, [*keys, "environment"]), keys).dropna(subset="difference")
    signs = pairs["metric"].map(DIRECTION).astype(float)
    return _frame(pairs.assign(gain=pairs["difference"] * signs), (*keys, "difference", "gain"))


def intervals(pairs: pd.DataFrame) -> pd.DataFrame:
    """Compute the mean gain per dataset, backbone and method with its 95% paired t interval over ``n`` seeds.

    ``outside`` is "better" or "worse" if the interval excludes 0 and there are three seeds, else "". ``low``
    and ``high`` are NaN with one seed or if all differences are equal. Marks are not corrected for multiple
    comparisons: if no method has an effect, one in twenty is a false positive.
    """
    more = [name for name in (*RATIO, "metric") if name in pairs.columns]
    keys = [*TASK, *more, "method"]
    # Fix the order, because the last bits of a sum depend on it.
    groups = pairs.sort_values([*keys, "gain"]).groupby(keys, observed=True)["gain"]
    table = groups.agg(n="count", gain="mean", std="std").reset_index()
    # Equal differences do not measure noise (accuracy on a small split is discrete, and seeds may train
    # alike); an interval of zero width would claim certainty.
    half = t_half_width(table["std"].to_numpy(float), table["n"].to_numpy(int))
    wide = half > 1e-9 * (table["gain"].abs() + half)
    table["low"], table["high"] = (table["gain"] + sign * np.where(wide, half, math.nan) for sign in (-1, 1))
    # With two seeds, an interval excludes 0 only if the two differences happen to agree within some 8%.
    ends = zip(table["n"], table["low"], table["high"], strict=True)
    table["outside"] = [_outside(low, high) if n >= FEWEST else "" for n, low, high in ends]
    return _frame(table, (*TASK, *more, *INTERVALS[len(TASK) :]))


def overall(pairs: pd.DataFrame) -> pd.DataFrame:
    """Compute the mean gain of each method on each dataset over strata, the backbones with pairs.

    ``gain`` is the mean of the strata's means; ``low`` and ``high`` are its `stratified_interval`, NaN
    without spread, see `intervals`. ``outside`` marks an interval that excludes 0 if every stratum has three
    seeds or more; with two, unequal noise of the strata would cause too many marks. ``p`` is Wilcoxon's over
    the means of strata, NaN without an interval. It exceeds 0.05 with fewer than six strata, and assumes that
    strata are independent, although backbones share a test split. ``p_holm`` is adjusted for the methods of a
    dataset. ``n`` counts pairs, ``seeds`` distinct seeds.
    """
    rows = [(*names, *_pooled(part)) for names, part in pairs.groupby(["dataset", "method"], observed=True)]
    table = _frame(rows, OVERALL)
    for _, p in table.groupby("dataset")["p"]:
        table.loc[p.index, "p_holm"] = holm(p.to_numpy())
    return table


def wins(table: pd.DataFrame) -> pd.DataFrame:
    """Count, from `intervals`, on how many backbones a method is better, worse, inside the noise or untested.

    A backbone is untested if it has too few seeds for a mark or no interval.
    """
    rows = []
    for names, part in table.groupby(["dataset", "method"], observed=True):
        better, worse = ((part["outside"] == mark).sum() for mark in ("better", "worse"))
        untested = ((part["n"] < FEWEST) | part["low"].isna()).sum()
        rows.append((*names, better, worse, len(part) - better - worse - untested, untested))
    return _frame(rows, WINS)


def improvement(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Estimate the probability that a run of a method beats a run of the baseline.

    A task is a combination of dataset, backbone and environment in which both have runs; runs are not paired
    by seed. ``tasks`` counts the tasks, ``n`` the method's runs in them. ``low`` and ``high`` are NaN with
    one seed and if all resamples agree. See `reports.stats.intervals.probability_of_improvement`.

    Raises:
        UserError, ValueError: see `paired`.
    """
    values = cell_means(scores, metric)
    values["value"] *= DIRECTION[metric]
    tables = {
        name: part.pivot(index="seed", columns=[*TASK, "environment"], values="value")
        for name, part in values.groupby("method", observed=True)
    }
    other = tables.pop(BASELINE, pd.DataFrame())
    rows = []
    for name, table in tables.items():
        tasks = [task for task in table.columns if task in other.columns]
        if tasks:
            x = table[tasks].to_numpy()
            chance, low, high = probability_of_improvement(x, other[tasks].to_numpy())
            rows.append((name, chance, *_with_width((low, high)), len(tasks), np.isfinite(x).sum()))
    return _frame(rows, IMPROVEMENT)


def cell_means(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Average the defined values of each cell in each environment; rows are sorted by name."""
    _check(scores)
    if metric not in DIRECTION:
        raise unknown("metric", metric, DIRECTION)
    rows = scores[scores["metric"] == metric]
    mixed = rows[list(RATIO)].drop_duplicates().sort_values(list(RATIO)).to_numpy().tolist()
    if len(mixed) > 1:
        raise ValueError(f"scores must have one occlusion protocol and ratio (see clean), got {mixed}")
    return _means(rows, [*CELL, "environment"])


def _means(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    if rows[keys].isna().any(axis=None):
        raise ValueError(f"scores must name {', '.join(keys)} in every row")
    rows = rows.assign(value=rows["value"].astype(float))
    # Fix the order, because the last bits of a sum depend on it.
    rows = rows[np.isfinite(rows["value"])].sort_values([*keys, "value"])
    return rows.groupby(keys, observed=True)["value"].mean().reset_index()


def _pairs(values: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Return columns ``keys`` and ``difference``, averaged over environments; NaN without a partner.

    The partner of a tuned method is the tuned baseline if the study has one.
    """
    tuned = tuned_label(BASELINE)
    known = set(values["method"]) & {BASELINE, tuned}
    partner = {name: tuned if name.endswith(tuned_label("")) and tuned in known - {name} else BASELINE
               for name in set(values["method"])}  # fmt: skip
    column = pd.Series([partner[name] for name in values["method"]], values.index, object)
    values = values.assign(partner=column)
    partners = values[values["method"].isin(known)].drop(columns="partner")
    partners = partners.rename(columns={"method": "partner", "value": "baseline"})
    partners = partners.astype({"partner": object})
    shared = [name for name in (*keys, "environment", "partner") if name != "method"]
    alone = {BASELINE} if BASELINE in known else known
    both = values[~values["method"].isin(alone)].merge(partners, on=shared, how="left")
    both["difference"] = both["value"] - both["baseline"]
    return both.groupby(list(keys), observed=True)["difference"].mean().reset_index()


def _pooled(part: pd.DataFrame) -> tuple:
    """Compute one row of `overall`, without names, from the pairs of one method."""
    strata = part.groupby("backbone", observed=True)["gain"]
    gains = [np.sort(gain.to_numpy(float)) for _, gain in strata]
    means, sizes = np.array([gain.mean() for gain in gains]), [len(gain) for gain in gains]
    low, high = _with_width(stratified_interval(part["gain"].to_numpy(), strata.ngroup().to_numpy()))
    mark = _outside(low, high) if min(sizes) >= FEWEST else ""
    p = math.nan if math.isnan(low) else wilcoxon_p(means)
    return means.mean(), low, high, mark, p, math.nan, len(part), part["seed"].nunique(), len(means)


def _with_width(interval: tuple[float, float]) -> tuple[float, float]:
    """Return the interval, or NaN if its width is zero up to rounding."""
    low, high = interval
    wide = high - low > 1e-9 * max(abs(low), abs(high))
    return (low, high) if wide else (math.nan, math.nan)


def _outside(low: float, high: float) -> str:
    return "better" if low > 0 else "worse" if high < 0 else ""


def _check(scores: pd.DataFrame) -> None:
    missing = [column for column in SCORES if column not in scores.columns]
    if missing:
        raise ValueError(f"scores lack {', '.join(missing)}; they have {list(scores.columns)}")


def _frame(rows: pd.DataFrame | list[tuple], columns: Sequence[str]) -> pd.DataFrame:
    """Return the rows with these columns in order; numeric columns have numeric types even without rows."""
    table = pd.DataFrame(rows, columns=list(columns))
    kinds = {name: kind for names, kind in ((_WHOLE, "int64"), (_REAL, "float64")) for name in names}
    return table.astype({name: kinds[name] for name in columns if name in kinds}).reset_index(drop=True)

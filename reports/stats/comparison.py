"""Comparison of methods with a baseline: paired differences, two intervals, verdicts, tests.

All functions are pure. Their input ``scores`` is a frame with one row per score of a cell and the columns
``SCORES``: ``method`` is a label, ``environment`` names the device and versions of a cell. Results of
different environments are never paired. A ``gain`` is positive if the method is better, whatever the
direction of the metric. Frames are sorted by name and do not depend on the order of rows.

``low_seeds`` and ``high_seeds`` bound the 95% interval over seeds, for these test clips; ``low`` and ``high``
bound that for other clips, see `reports.stats.noise`, and stay NaN without the predictions of the cells.
``verdict`` is one of `VERDICTS`, see `verdict` of `reports.stats.noise`. With one seed, intervals and
p-values stay empty.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd

from harness.config.tuned import tuned_label
from harness.errors import unknown
from harness.metrics import DIRECTION
from reports.stats.intervals import probability_of_improvement, stratified_interval, t_half_width
from reports.stats.noise import Noise, noise_of, other_clips, verdict
from reports.stats.permutation import holm, wilcoxon_p

TASK = ("dataset", "backbone")
CELL = (*TASK, "method", "seed")
RATIO = ("occlusion_protocol", "occlusion_ratio")
SCORES = (*CELL, *RATIO, "metric", "value", "environment")
PAIRS = (*CELL, "difference", "gain")
VERDICTS = ("better", "worse", "equal", "undecided")
BOUNDS = ("low_seeds", "high_seeds", "low", "high")
INTERVALS = (*TASK, "method", "n", "gain", *BOUNDS, "verdict")
# The smallest gain that such a study finds with 80% probability, now and with any number of seeds, and the
# number of seeds at which the interval for other clips is half as wide.
OUTLOOK = ("smallest_gain", "smallest_gain_of_any_seeds", "halving_seeds")
OVERALL = ("dataset", "method", "gain", *BOUNDS, "verdict", *OUTLOOK, "p", "p_holm", "n", "seeds", "strata")
WINS = ("dataset", "method", *VERDICTS)
IMPROVEMENT = ("method", "probability", "low", "high", "tasks", "n")
BASELINE = "none"

_WHOLE = ("seed", "n", "seeds", "strata", "tasks", *VERDICTS)
_REAL = ("difference", "gain", *BOUNDS, *OUTLOOK, "p", "p_holm", "probability")


class Clips(Protocol):
    """What the predictions of cells say of the videos of a test split."""

    def moves(self, scores: pd.DataFrame, metric: str) -> list[np.ndarray | None]:
        """Return how far each video moves each of these scores, (videos,); None without predictions.

        scores: rows of a frame with the columns ``SCORES``, all of this metric.
        """

    def shares(self, dataset: str) -> np.ndarray:
        """Return each video's share of the clips. Shape: (videos,)."""


def clean(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the scores of the test split without occlusion."""
    _check(scores)
    rows = scores[(scores["occlusion_protocol"] == "test") & (scores["occlusion_ratio"] == 0)]
    return rows.sort_values(list(SCORES), ignore_index=True)


def paired(
    scores: pd.DataFrame, metric: str, baseline: str = BASELINE, clips: Clips | None = None
) -> pd.DataFrame:
    """Subtract the baseline with the same dataset, backbone, seed and environment from each method.

    Several values of a method for the same key are averaged, and so are the differences of one seed in
    several environments: such runs are repetitions, not further seeds. Undefined values give no pair.

    Returns:
        A frame with the columns ``PAIRS`` and ``moves`` (how far each video moves the gain, or None), without
        the baseline. ``attrs``: "unpaired" is the number of
        (dataset, backbone, method, seed) with a value but no partner; "environments" is how many of them have
        a partner in another environment.

    Raises:
        UserError: for an unknown metric.
        ValueError: if a column or name is missing, or the scores mix occlusion protocols or ratios.
    """
    values = cell_means(scores, metric, clips)
    pairs = _pairs(values, CELL, baseline)
    lost = pairs[pairs["difference"].isna()]
    partners = values.loc[values["method"] == baseline, [*TASK, "seed"]].drop_duplicates()
    elsewhere = lost.merge(partners, on=[*TASK, "seed"])
    pairs = pairs.dropna(subset="difference")
    moves = [None if m is None else m * DIRECTION[metric] for m in pairs["moves"]]
    pairs = pairs.assign(
        gain=pairs["difference"] * DIRECTION[metric], moves=pd.Series(moves, pairs.index, object)
    )
    result = _frame(pairs, (*PAIRS, "moves"))
    result.attrs = {"metric": metric, "unpaired": len(lost), "environments": len(elsewhere)}
    return result


def paired_everywhere(
    scores: pd.DataFrame, baseline: str = BASELINE, clips: Clips | None = None
) -> pd.DataFrame:
    """Compute `paired` for every metric, protocol and ratio, which become columns; without ``attrs``."""
    _check(scores)
    keys = (*TASK, *RATIO, "metric", "method", "seed")
    pairs = _pairs(_means(scores, [*keys, "environment"], clips), keys, baseline).dropna(subset="difference")
    signs = pairs["metric"].map(DIRECTION).astype(float)
    moves = [None if m is None else m * sign for m, sign in zip(pairs["moves"], signs, strict=True)]
    pairs = pairs.assign(gain=pairs["difference"] * signs, moves=pd.Series(moves, pairs.index, object))
    return _frame(pairs, (*keys, "difference", "gain", "moves"))


def intervals(
    pairs: pd.DataFrame, clips: Clips | None = None, margins: Mapping[str, float] | None = None
) -> pd.DataFrame:
    """Compute the mean gain per dataset, backbone and method over ``n`` seeds, its intervals and verdict.

    The interval over seeds is the paired t interval, NaN with one seed or if all differences are equal.
    pairs: from `paired` or `paired_everywhere`; their metric, protocol and ratio become columns if they are
    some. margins: metric -> what counts as equal.
    """
    more = [name for name in (*RATIO, "metric") if name in pairs.columns]
    keys = [*TASK, *more, "method"]
    # Fix the order, because the last bits of a sum depend on it.
    pairs = pairs.sort_values([*keys, "gain"])
    groups = pairs.groupby(keys, observed=True)
    table = groups["gain"].agg(n="count", gain="mean", std="std").reset_index()
    # Equal differences do not measure noise (accuracy on a small split is discrete, and seeds may train
    # alike); an interval of zero width would claim certainty.
    half = t_half_width(table["std"].to_numpy(float), table["n"].to_numpy(int))
    wide = half > 1e-9 * (table["gain"].abs() + half)
    half = np.where(wide, half, math.nan)
    table["low_seeds"], table["high_seeds"] = table["gain"] - half, table["gain"] + half
    # Iterating over the groups themselves would take most of the time of a table.
    starts = groups.size().cumsum().to_numpy()[:-1]
    parts = (np.split(pairs[name].to_numpy(), starts) for name in ("gain", "moves"))
    noises = [
        _noise(name, [gains], [moves], clips)
        for name, gains, moves in zip(table["dataset"], *parts, strict=False)
    ]
    ends = zip(table["gain"], table["low_seeds"], table["high_seeds"], noises, strict=True)
    table[["low", "high"]] = [_wider(*row) for row in ends] or np.empty((0, 2))
    metrics = table["metric"] if "metric" in more else [pairs.attrs.get("metric", "")] * len(table)
    rows = zip(table["n"], table["low"], table["high"], metrics, strict=True)
    table["verdict"] = [verdict(n, low, high, (margins or {}).get(metric)) for n, low, high, metric in rows]
    return _frame(table, (*TASK, *more, *INTERVALS[len(TASK) :]))


def overall(
    pairs: pd.DataFrame, clips: Clips | None = None, margins: Mapping[str, float] | None = None
) -> pd.DataFrame:
    """Compute the mean gain of each method on each dataset over strata, the backbones with pairs.

    ``gain`` is the mean of the strata's means. Its interval over seeds is the `stratified_interval`, NaN
    without spread, see `intervals`. The verdict needs three seeds in every stratum. ``p`` is Wilcoxon's
    p-value over the means of strata, NaN without an interval. It exceeds 0.05 with fewer than six strata, and
    assumes that strata are independent, although backbones share a test split. ``p_holm`` is adjusted for the
    methods of a dataset. ``n`` counts pairs, ``seeds`` distinct seeds. `OUTLOOK` is NaN without the interval
    for other clips, and ``halving_seeds`` infinite where no number of seeds halves it.
    """
    margin = (margins or {}).get(pairs.attrs.get("metric", ""))
    groups = pairs.groupby(["dataset", "method"], observed=True)
    table = _frame([(*names, *_pooled(part, clips, margin)) for names, part in groups], OVERALL)
    for _, p in table.groupby("dataset")["p"]:
        table.loc[p.index, "p_holm"] = holm(p.to_numpy())
    return table


def noises(pairs: pd.DataFrame, clips: Clips | None) -> dict[tuple[str, str], tuple[Noise, float]]:
    """Return (dataset, method) -> noise of its gain over all backbones, and seeds per backbone, if known."""
    found = {}
    for (dataset, method), part in pairs.groupby(["dataset", "method"], observed=True):
        strata = [stratum for _, stratum in part.groupby("backbone", observed=True)]
        noise = _noise_of_frames(strata, clips)
        if noise is not None:
            found[str(dataset), str(method)] = noise, len(part) / len(strata)
    return found


def wins(table: pd.DataFrame) -> pd.DataFrame:
    """Count, from `intervals`, the verdicts of each method on single backbones."""
    groups = table.groupby(["dataset", "method"], observed=True)["verdict"]
    rows = [(*names, *(int((part == name).sum()) for name in VERDICTS)) for names, part in groups]
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


def cell_means(scores: pd.DataFrame, metric: str, clips: Clips | None = None) -> pd.DataFrame:
    """Average the defined values of each cell in each environment; rows are sorted by name."""
    _check(scores)
    if metric not in DIRECTION:
        raise unknown("metric", metric, DIRECTION)
    rows = scores[scores["metric"] == metric]
    mixed = rows[list(RATIO)].drop_duplicates().sort_values(list(RATIO)).to_numpy().tolist()
    if len(mixed) > 1:
        raise ValueError(f"scores must have one occlusion protocol and ratio (see clean), got {mixed}")
    return _means(rows, [*CELL, "environment"], clips)


def _means(rows: pd.DataFrame, keys: list[str], clips: Clips | None = None) -> pd.DataFrame:
    if rows[keys].isna().any(axis=None):
        raise ValueError(f"scores must name {', '.join(keys)} in every row")
    rows = rows.assign(value=rows["value"].astype(float))
    # Fix the order, because the last bits of a sum depend on it.
    rows = rows[np.isfinite(rows["value"])].sort_values([*keys, "value"])
    groups = rows.groupby(keys, observed=True)
    moves: list[np.ndarray | None] = [None] * len(rows)
    if clips is not None:
        for metric, places in rows.assign(place=range(len(rows))).groupby("metric")["place"]:
            found = clips.moves(rows.iloc[places], str(metric))
            for place, move in zip(places, found, strict=True):
                moves[place] = move
    return groups["value"].mean().reset_index().assign(moves=_mean_moves(moves, groups.ngroup()))


def _mean_moves(moves: Sequence[np.ndarray | None], groups: pd.Series) -> np.ndarray:
    """Average arrays by group; None where one of them is. groups: 0, 1, ..., one per array."""
    parts: list[list[np.ndarray | None]] = [[] for _ in range(groups.max() + 1 if len(groups) else 0)]
    for move, group in zip(moves, groups, strict=True):
        parts[group].append(move)
    means = np.empty(len(parts), object)
    for k, part in enumerate(parts):
        known = [move for move in part if move is not None]
        means[k] = None if len(known) < len(part) else known[0] if len(known) == 1 else np.mean(known, axis=0)
    return means


def _pairs(values: pd.DataFrame, keys: Sequence[str], baseline: str) -> pd.DataFrame:
    """Return columns ``keys``, ``difference`` and ``moves``, averaged over environments.

    The difference is NaN without a partner. The partner of a tuned method is the tuned baseline if the study
    has one.
    """
    tuned = tuned_label(baseline)
    known = set(values["method"]) & {baseline, tuned}
    partner = {name: tuned if name.endswith(tuned_label("")) and tuned in known - {name} else baseline
               for name in set(values["method"])}  # fmt: skip
    column = pd.Series([partner[name] for name in values["method"]], values.index, object)
    values = values.assign(partner=column)
    partners = values[values["method"].isin(known)].drop(columns="partner")
    names = {"method": "partner", "value": "baseline", "moves": "baseline_moves"}
    partners = partners.rename(columns=names).astype({"partner": object})
    shared = [name for name in (*keys, "environment", "partner") if name != "method"]
    alone = {baseline} if baseline in known else known
    both = values[~values["method"].isin(alone)].merge(partners, on=shared, how="left")
    both["difference"] = both["value"] - both["baseline"]
    # A merge leaves NaN where there is no partner.
    moves = [
        own - other if isinstance(own, np.ndarray) and isinstance(other, np.ndarray) else None
        for own, other in zip(both["moves"], both["baseline_moves"], strict=True)
    ]
    groups = both.groupby(list(keys), observed=True)
    return groups["difference"].mean().reset_index().assign(moves=_mean_moves(moves, groups.ngroup()))


def _noise_of_frames(strata: Sequence[pd.DataFrame], clips: Clips | None) -> Noise | None:
    """Compute `_noise` of the pairs of each stratum."""
    gains, moves = ([part[name].to_numpy() for part in strata] for name in ("gain", "moves"))
    return _noise(strata[0]["dataset"].iloc[0], gains, moves, clips)


def _noise(
    dataset: str, gains: Sequence[np.ndarray], moves: Sequence[np.ndarray], clips: Clips | None
) -> Noise | None:
    """Return the noise of the mean gain over strata; None if the predictions of a cell are missing.

    Shape:
        gains: per stratum (seeds,). moves: per stratum (seeds,) arrays of (videos,), or None.
    """
    if clips is None or any(move is None for part in moves for move in part):
        return None
    return noise_of(gains, [np.stack(part.tolist()) for part in moves], clips.shares(dataset))


def _wider(gain: float, low: float, high: float, noise: Noise | None) -> tuple[float, float]:
    """Return the interval for other clips from that for these; NaN if one of the two is unknown."""
    return (math.nan, math.nan) if noise is None or math.isnan(low) else other_clips(gain, (low, high), noise)


def _outlook(noise: Noise | None, seeds: float) -> tuple[float, float, float]:
    if noise is None:
        return math.nan, math.nan, math.nan
    return noise.smallest_gain(), noise.smallest_gain_of_any_seeds(), noise.seeds_for(0.5, seeds)


def _pooled(part: pd.DataFrame, clips: Clips | None, margin: float | None) -> tuple[Any, ...]:
    """Compute one row of `overall`, without names, from the pairs of one method."""
    groups = part.sort_values("gain").groupby("backbone", observed=True)
    strata = [stratum for _, stratum in groups]
    means, sizes = np.array([s["gain"].mean() for s in strata]), [len(s) for s in strata]
    these = _with_width(stratified_interval(part["gain"].to_numpy(), part["backbone"]))
    noise = None if math.isnan(these[0]) else _noise_of_frames(strata, clips)
    other = _wider(means.mean(), *these, noise)
    mark = verdict(min(sizes), *other, margin)
    p = math.nan if math.isnan(these[0]) else wilcoxon_p(means)
    outlook = _outlook(noise, float(np.mean(sizes)))
    counts = (len(part), part["seed"].nunique(), len(means))
    return means.mean(), *these, *other, mark, *outlook, p, math.nan, *counts


def _with_width(interval: tuple[float, float]) -> tuple[float, float]:
    """Return the interval, or NaN if its width is zero up to rounding."""
    low, high = interval
    wide = high - low > 1e-9 * max(abs(low), abs(high))
    return (low, high) if wide else (math.nan, math.nan)


def _check(scores: pd.DataFrame) -> None:
    missing = [column for column in SCORES if column not in scores.columns]
    if missing:
        raise ValueError(f"scores lack {', '.join(missing)}; they have {list(scores.columns)}")


def _frame(rows: pd.DataFrame | list[tuple], columns: Sequence[str]) -> pd.DataFrame:
    """Return the rows with these columns in order; numeric columns have numeric types even without rows."""
    table = pd.DataFrame(rows, columns=list(columns))
    kinds = {name: kind for names, kind in ((_WHOLE, "int64"), (_REAL, "float64")) for name in names}
    return table.astype({name: kinds[name] for name in columns if name in kinds}).reset_index(drop=True)

"""The six kinds of tests: pure functions of a claim and of frames, each returning `Part`s without verdicts.

Differences are paired by data set, backbone, seed and environment, and pooled over backbones, as in
`reports.stats.comparison`. For test scores, the interval is that for other clips. Diagnostics of training and
correlations vary with seeds alone; KL is known for one network per backbone, so that backbones vary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from harness.matrix import method_label
from methods import METHODS
from reports.claims.claim import Claim, Part
from reports.names import base_method
from reports.stats.comparison import Clips, noises, overall, paired
from reports.stats.intervals import t_interval
from reports.stats.noise import Noise

RUN = ("dataset", "backbone", "seed", "environment")


def _no_divergence(methods: Collection[str]) -> pd.DataFrame:
    return pd.DataFrame(columns=["dataset", "backbone", "method", "kl"])


@dataclass(frozen=True)
class Evidence:
    """What claims are tested on.

    rows: tidy frame of cells that were trained on clean input, with ``method`` as in tables; see
    `reports.runs.frame.named`. clips: what predictions say of the test clips. divergence: methods -> frame of
    KL(mixed || clean), with the columns dataset, backbone, method and kl.
    """

    rows: pd.DataFrame
    clips: Clips | None = None
    margins: Mapping[str, float] = field(default_factory=dict)
    divergence: Callable[[Collection[str]], pd.DataFrame] = _no_divergence

    def scores(self, methods: Sequence[str], ratio: float = 0.0) -> pd.DataFrame:
        """Return the test scores of these methods at one occlusion ratio."""
        rows = self.rows
        kept = (rows["split"] == "test") & (rows["occlusion_ratio"] == ratio) & rows["method"].isin(methods)
        return rows[kept]

    def watched(self, split: str, metric: str) -> pd.DataFrame:
        """Return a diagnostic ("epoch") or a mechanism check ("mechanism") of all methods."""
        return self.rows[(self.rows["split"] == split) & (self.rows["metric"] == metric)]


def better(claim: Claim, evidence: Evidence) -> list[Part]:
    """Test whether the method scores better than each other one."""
    return [
        part
        for metric in claim.metrics
        for other in claim.than
        for part in _of_pairs(_pairs(claim, other, metric, evidence), other, metric, evidence.clips)
    ]


def without(method: str, component: str) -> str:
    """Return the label of a method with one component switched off: ``ms_mix[sig,sal]``."""
    return method_label(method, {component: False}, METHODS[base_method(method)].Settings.components)


def component(claim: Claim, evidence: Evidence) -> list[Part]:
    """Test whether the method scores better than without each component."""
    return [
        part
        for metric in claim.metrics
        for name in claim.without
        for other in [without(claim.method, name)]
        for part in _of_pairs(_pairs(claim, other, metric, evidence), other, metric, evidence.clips)
    ]


def robust(claim: Claim, evidence: Evidence) -> list[Part]:
    """Test whether occlusion costs the method less than each other one."""
    return [
        part
        for metric in claim.metrics
        for other in claim.than
        for part in _of_pairs(_loss_pairs(claim, other, metric, evidence), other, metric, evidence.clips)
    ]


def diagnostic(claim: Claim, evidence: Evidence) -> list[Part]:
    """Test whether a statistic of mixing is lower (or higher) than that of each other method."""
    sign = -1 if claim.lower else 1
    return [
        part
        for metric in claim.metrics
        for wide in [_by_method(evidence.watched("epoch", metric))]
        for other in claim.than
        if {claim.method, other} <= set(wide.columns)
        for part in _of_seeds(sign * (wide[claim.method] - wide[other]).dropna(), other, metric)
    ]


def correlates(claim: Claim, evidence: Evidence) -> list[Part]:
    """Test whether a mechanism check, a correlation, is above 0."""
    return [
        part
        for metric in claim.metrics
        for wide in [_by_method(evidence.watched("mechanism", metric))]
        if claim.method in wide.columns
        for part in _of_seeds(wide[claim.method].dropna(), "", metric)
    ]


def closer(claim: Claim, evidence: Evidence) -> list[Part]:
    """Test whether KL(mixed || clean) is smaller than that of each other method."""
    table = evidence.divergence((claim.method, *claim.than))
    wide = table.pivot_table(index=["dataset", "backbone"], columns="method", values="kl")
    return [
        part
        for other in claim.than
        if {claim.method, other} <= set(wide.columns)
        for part in _of_backbones((wide[other] - wide[claim.method]).dropna(), other)
    ]


TESTS: Mapping[str, Callable[[Claim, Evidence], list[Part]]] = {
    "better": better,
    "component": component,
    "robust": robust,
    "diagnostic": diagnostic,
    "correlates": correlates,
    "closer": closer,
}


def _pairs(claim: Claim, other: str, metric: str, evidence: Evidence, ratio: float = 0.0) -> pd.DataFrame:
    return paired(evidence.scores((claim.method, other), ratio), metric, other, evidence.clips)


def _loss_pairs(claim: Claim, other: str, metric: str, evidence: Evidence) -> pd.DataFrame:
    """Return pairs whose gain is what the other method loses by occlusion beyond what the method does."""
    clean, hidden = (_pairs(claim, other, metric, evidence, ratio) for ratio in (0.0, claim.ratio))
    keys = ["dataset", "backbone", "method", "seed"]
    both = hidden.merge(clean, on=keys, suffixes=("", "_clean"))
    for name in ("difference", "gain"):
        both[name] -= both[f"{name}_clean"]
    moves = [
        None if a is None or b is None else a - b
        for a, b in zip(both["moves"], both["moves_clean"], strict=True)
    ]
    both["moves"] = pd.Series(moves, both.index, object)
    return both[list(hidden.columns)]


def _of_pairs(pairs: pd.DataFrame, other: str, metric: str, clips: Clips | None) -> Iterator[Part]:
    """Yield a part per data set; ``gain`` is positive where the claim's method is better."""
    known = noises(pairs, clips)
    for row in overall(pairs, clips).to_dict("records"):
        mine = pairs[pairs["dataset"] == row["dataset"]]
        fewest = int(mine.groupby("backbone").size().min())
        noise, _ = known.get((row["dataset"], row["method"]), (None, 0))
        noise = None if math.isnan(row["low"]) else noise
        numbers = (row["gain"], row["low"], row["high"], row["n"], fewest)
        yield Part(row["dataset"], other, metric, *numbers, noise, clips=True)


def _by_method(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a column per method and a row per data set, backbone, seed and environment."""
    finite = rows[np.isfinite(rows["value"].astype(float))]
    return finite.pivot_table(index=list(RUN), columns="method", values="value", aggfunc="mean")


def _of_seeds(values: pd.Series, other: str, metric: str) -> Iterator[Part]:
    """Yield a part per data set, the mean over backbones, of values that vary with the seed."""
    values = values.groupby(["dataset", "backbone", "seed"]).mean()
    for dataset, mine in values.groupby("dataset"):
        strata = [part.to_numpy() for _, part in mine.groupby("backbone")]
        gain = float(np.mean([part.mean() for part in strata]))
        freedom = sum(len(part) - 1 for part in strata)
        error = sum(part.var(ddof=1) / len(part) for part in strata if len(part) > 1) / len(strata) ** 2
        # Equal values do not measure noise.
        noise = Noise(float(error), freedom, 0.0, 0.0) if error > 1e-18 * gain**2 else None
        half = math.nan if noise is None else noise.half_width()
        fewest = min(map(len, strata))
        yield Part(
            str(dataset), other, metric, gain, gain - half, gain + half, len(mine), fewest, noise, False
        )


def _of_backbones(values: pd.Series, other: str) -> Iterator[Part]:
    """Yield a part per data set of values that are known once for each backbone."""
    for dataset, mine in values.groupby("dataset"):
        n, gain = len(mine), float(mine.mean())
        noise = Noise(float(mine.var(ddof=1) / n), n - 1, 0.0, 0.0) if n > 1 and mine.nunique() > 1 else None
        low, high = (math.nan, math.nan) if noise is None else t_interval(mine.to_numpy())
        yield Part(str(dataset), other, "kl", gain, low, high, n, n, noise, False)

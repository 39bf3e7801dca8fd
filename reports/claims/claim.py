"""A claim about methods, one comparison on which its verdict rests, and the verdict of several."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from reports.stats.comparison import verdict
from reports.stats.noise import LEVEL, Noise

KINDS = ("better", "component", "robust", "diagnostic", "correlates", "closer")
SUPPORTED, CONTRADICTED, UNDECIDED, NOT_TESTED = "supported", "contradicted", "undecided", "not tested"
OUTCOMES = (SUPPORTED, CONTRADICTED, UNDECIDED, NOT_TESTED)


@dataclass(frozen=True)
class Claim:
    """A claim and its test; `reports.claims.reader` describes the fields of each kind.

    sentence: the claim in words. method: label, as in tables. than: labels of the methods that it is compared
    with. without: components. metrics: of the test split, or diagnostics. ratio: of occlusion. lower: whether
    the claim is that a diagnostic is lower. datasets, backbones: those that it is about, empty for all.
    """

    id: str
    source: str
    sentence: str
    kind: str
    method: str
    than: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("mae",)
    ratio: float = 0.0
    lower: bool = True
    datasets: tuple[str, ...] = ()
    backbones: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """One comparison of a claim: a mean over backbones, on one data set, that is above 0 if the claim holds.

    against: label of the other method; empty for a correlation. low, high: the 95% interval, NaN if it cannot
    be given. n: number of differences. fewest: seeds of the backbone with the fewest, or backbones where they
    are what varies. noise: None if unknown. clips: whether the interval is for other clips, too.
    """

    dataset: str
    against: str
    metric: str
    gain: float
    low: float
    high: float
    n: int
    fewest: int
    noise: Noise | None
    clips: bool
    verdict: str = UNDECIDED


def judged(parts: Sequence[Part], margin: float | None = None) -> list[Part]:
    """Return the parts with their verdicts. margin: differences that count as equal, None if not stated.

    A part supports the claim if its 95% interval is above 0. One of many parts would contradict a true claim
    by chance, so that a contradiction needs the interval of Bonferroni's level, 5% over the number of parts.
    """
    return [replace(part, verdict=_verdict(part, len(parts), margin)) for part in parts]


def _verdict(part: Part, parts: int, margin: float | None) -> str:
    if verdict(part.fewest, part.low, part.high, margin) == "better":
        return SUPPORTED
    if part.noise is None:
        return UNDECIDED
    half = part.noise.half_width(LEVEL / parts)
    low, high = min(part.low, part.gain - half), max(part.high, part.gain + half)
    return CONTRADICTED if verdict(part.fewest, low, high, margin) in ("worse", "equal") else UNDECIDED


def outcome(parts: Sequence[Part], lacking: Collection[str] = ()) -> str:
    """Return the claim's verdict: it holds if every part does, and fails if one part contradicts it.

    lacking: what the claim names and the study has not, without which it is not supported.
    """
    verdicts = {part.verdict for part in parts}
    if not verdicts:
        return NOT_TESTED
    if CONTRADICTED in verdicts:
        return CONTRADICTED
    return SUPPORTED if verdicts == {SUPPORTED} and not lacking else UNDECIDED


def weakest(parts: Sequence[Part]) -> Part:
    """Return the part that speaks most against the claim; the first one wins ties."""
    order = (CONTRADICTED, UNDECIDED, SUPPORTED)
    return min(parts, key=lambda part: (order.index(part.verdict), _lower_end(part)))


def _lower_end(part: Part) -> float:
    return part.gain if math.isnan(part.low) else part.low

"""Two sources of noise of a gain: seeds, and the videos that happen to be in the test split.

Seeds are independent between backbones. Videos are common to all methods, backbones and seeds of a data set,
so averaging over backbones removes noise of seeds alone. Two 95% intervals answer two questions: "these
clips" holds the test split fixed, "other clips" lets its videos vary, too. The second is computed from
variance components: that of seeds, and that of videos beyond what seeds leave in them (the estimator of
Cameron, Gelbach and Miller, J. Bus. Econ. Stat. 2011, with the part of videos not below 0), with degrees of
freedom by Satterthwaite (1946). It is never narrower than the first. ``tests/reports/stats/coverage.csv`` has
its coverage in simulations, beside that of the alternatives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from reports.stats.intervals import FEWEST

LEVEL, POWER = 0.05, 0.8


@dataclass(frozen=True)
class Noise:
    """Variances of a mean gain, and their degrees of freedom.

    seeds: variance from seeds with these clips. videos: further variance from other videos.
    """

    seeds: float
    seeds_freedom: float
    videos: float
    videos_freedom: float

    @property
    def variance(self) -> float:
        """The variance with other seeds and other videos."""
        return self.seeds + self.videos

    @property
    def freedom(self) -> float:
        """Satterthwaite's degrees of freedom of `variance`."""
        parts = ((self.seeds, self.seeds_freedom), (self.videos, self.videos_freedom))
        spread = sum(variance**2 / freedom for variance, freedom in parts if variance)
        return self.variance**2 / spread if spread else math.nan

    def half_width(self, level: float = LEVEL) -> float:
        """Return half the width of the t interval for other seeds and videos, of confidence 1 - level."""
        return _quantile(1 - level / 2, self.freedom) * math.sqrt(self.variance)

    def with_seeds(self, now: float, seeds: int) -> Noise:
        """Return the noise with another number of seeds per backbone. now: their number so far."""
        freedom = self.seeds_freedom * (seeds - 1) / (now - 1)
        return replace(self, seeds=self.seeds * now / seeds, seeds_freedom=freedom)

    def power(self, gain: float) -> float:
        """Return the probability that the interval excludes 0 if the true gain is this one."""
        if not self.variance:
            return 1.0
        shift = abs(gain) / math.sqrt(self.variance)
        return _share(shift - _quantile(1 - LEVEL / 2, self.freedom), self.freedom)

    def smallest_gain(self) -> float:
        """Return the gain that such a study finds with 80% probability."""
        return _reach(self.freedom) * math.sqrt(self.variance)

    def smallest_gain_of_any_seeds(self) -> float:
        """Return the same for so many seeds that only videos are left as noise."""
        return _reach(self.videos_freedom) * math.sqrt(self.videos) if self.videos else 0.0

    def seeds_for(self, factor: float, seeds: float) -> float:
        """Return how many seeds shrink the standard error by a factor; infinity if no number does.

        seeds: their number now. Degrees of freedom are taken as they are.
        """
        left = self.variance * factor**2 - self.videos
        return math.ceil(seeds * self.seeds / left - 1e-9) if left > 0 else math.inf


def noise_of(gains: Sequence[np.ndarray], moves: Sequence[np.ndarray], shares: np.ndarray) -> Noise | None:
    """Estimate the noise of the mean over strata of their mean gains; None where videos tell nothing.

    Shape:
        gains: per stratum, such as a backbone, (seeds,). moves: per stratum (seeds, videos), how far each
        video moves each gain, see `reports.stats.clips.video_moves`. shares: (videos,), shares of the clips.
    """
    freedom = sum(len(values) - 1 for values in gains)
    scale, videos_freedom = _correction(shares)
    if not freedom or not videos_freedom or not all(np.isfinite(part).all() for part in moves):
        return None
    strata = len(gains)
    seeds = sum(values.var(ddof=1) / len(values) for values in gains if len(values) > 1) / strata**2
    means = [part.mean(axis=0) for part in moves]
    total = scale * float(np.square(sum(means)).sum()) / strata**2
    # Seeds leave noise in the videos' mean moves, which is in `seeds` already.
    left = sum(
        float(np.square(part - mean).sum()) / (len(part) * (len(part) - 1))
        for part, mean in zip(moves, means, strict=True)
        if len(part) > 1
    )
    videos = max(total - scale * left / strata**2, 0.0)
    return Noise(float(seeds), float(freedom), videos, videos_freedom)


def other_clips(gain: float, these: tuple[float, float], noise: Noise) -> tuple[float, float]:
    """Return the interval for other clips, which covers the interval ``these`` for these clips."""
    half = noise.half_width()
    return min(these[0], gain - half), max(these[1], gain + half)


def verdict(seeds: int, low: float, high: float, margin: float | None = None) -> str:
    """Return one of `VERDICTS` for a gain whose interval for other clips is [low, high].

    "equal" needs a margin that the user states, and an interval within it, whatever its side of 0; "better"
    and "worse" need an interval that excludes 0. All three need three seeds: with two, an interval excludes 0
    only if both differences happen to agree. Not corrected for multiple comparisons: if no method has an
    effect, one verdict in twenty is a false positive.
    """
    if seeds < FEWEST or math.isnan(low):
        return "undecided"
    if margin is not None and -margin < low and high < margin:
        return "equal"
    return "better" if low > 0 else "worse" if high < 0 else "undecided"


def _correction(shares: np.ndarray) -> tuple[float, float]:
    """Return scale and degrees of freedom of the sum of squared moves (Bell and McCaffrey 2002).

    The scale makes the sum unbiased for unequal videos; V equal videos give V / (V - 1) and V - 1.
    Both follow from the traces of A and A A, where A = C' diag(w^2) C and C = I - 1 w', with w the shares.
    """
    w = shares[shares > 0]
    if len(w) < 2:
        return math.nan, 0.0
    s2, s3, s4, s5 = (float((w**k).sum()) for k in (2, 3, 4, 5))
    trace = s2 - 2 * s3 + s2**2
    of_square = s4 + 2 * (s2 * s4 - 2 * s5) + 2 * s4 * s2 + 2 * s3**2 + s2**4 - 4 * s2**2 * s3
    return s2 / trace, trace**2 / of_square


def _quantile(probability: float, freedom: float) -> float:
    # Imported here because importing scipy.stats takes half a second.
    from scipy.special import stdtrit

    return float(stdtrit(freedom, probability))


def _share(quantile: float, freedom: float) -> float:
    from scipy.special import stdtr

    return float(stdtr(freedom, quantile))


def _reach(freedom: float) -> float:
    """Return the gain in standard errors that a two-sided test finds with probability `POWER`."""
    return _quantile(1 - LEVEL / 2, freedom) + _quantile(POWER, freedom)

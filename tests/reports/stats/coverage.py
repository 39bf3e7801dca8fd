"""Coverage and width of intervals for a mean gain, in worlds of known noise; writes ``coverage.csv``.

A gain of 0 is measured with noise of seeds, videos, clips and their interactions. Run it as a program
(``python -m tests.reports.stats.coverage``) to make the table anew, which takes some minutes.
"""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t

from reports.stats.comparison import verdict
from reports.stats.noise import noise_of, other_clips

TABLE = Path(__file__).with_name("coverage.csv")
LIMITS = (0.935, 0.97)
DRAWS = 2000
# Standard deviations of seeds (of the mean over clips), videos, videos per backbone, and clips per seed.
WORLDS = {
    "seeds": (0.4, 0.3, 0.1, 0.1),
    "seeds alone": (0.4, 0.0, 0.0, 0.5),
    "videos": (0.04, 1.0, 0.3, 0.3),
    "both": (0.2, 1.0, 0.5, 0.5),
    "equal": (0.12, 1.0, 0.5, 1.0),
    "noise": (0.01, 0.05, 0.05, 1.5),
}
GRID = list(itertools.product((3, 5, 10), (12, 31, 300), (1, 2, 6)))


def draw(world, seeds, videos, backbones, generator):
    """Draw gains (backbones, seeds), moves (backbones, seeds, videos) and the shares of videos."""
    of_seeds, of_videos, of_pairs, of_clips = WORLDS[world]
    # As unequal as the videos of MOSI's test split: 10 to 43 clips.
    sizes = np.maximum(3, np.round(np.exp(generator.normal(np.log(20), 0.34, videos))))
    shares = sizes / sizes.sum()
    means = generator.normal(0, of_seeds, (backbones, seeds, 1))
    means = means + generator.normal(0, of_videos * np.sqrt(1 + 4 / sizes), videos)
    means = means + generator.normal(0, of_pairs, (backbones, 1, videos))
    means = means + generator.normal(0, 1, (backbones, seeds, videos)) * of_clips * np.sqrt(20 / sizes)
    gains = means @ shares
    return gains, shares * (means - gains[..., None]), shares


def halves(gains, moves, shares):
    """Half the width of each interval for the mean gain, by name."""
    noise = noise_of(list(gains), list(moves), shares)
    quantile = t.ppf(0.975, noise.seeds_freedom)
    by_seeds = quantile * np.sqrt(noise.seeds)
    _, high = other_clips(0.0, (-by_seeds, by_seeds), noise)
    recovered = np.hypot(by_seeds, t.ppf(0.975, noise.videos_freedom) * np.sqrt(noise.videos))
    return {"seeds": by_seeds, "satterthwaite": noise.half_width(), "recovery": recovered, "both": high}


def covered(world, seeds, videos, backbones, draws, generator):
    """Interval -> share of draws that cover the gain of 0, and mean half width."""
    rows = []
    for _ in range(draws):
        gains, moves, shares = draw(world, seeds, videos, backbones, generator)
        mean = abs(gains.mean())
        rows.append([(mean <= half, half) for half in halves(gains, moves, shares).values()])
    names = ("seeds", "satterthwaite", "recovery", "both")
    return dict(zip(names, np.mean(rows, axis=0).tolist(), strict=True))


def wrong_verdicts(world, seeds, videos, backbones, draws, generator):
    """Shares of draws with a wrong verdict: of a gain of 0, and "equal" for a gain at the margin."""
    counts = np.zeros(2)
    for _ in range(draws):
        gains, moves, shares = draw(world, seeds, videos, backbones, generator)
        half = halves(gains, moves, shares)["both"]
        mean = gains.mean()
        counts[0] += verdict(seeds, mean - half, mean + half) != "undecided"
        margin = 2 * half
        shifted = mean + margin
        counts[1] += verdict(seeds, shifted - half, shifted + half, margin) == "equal"
    return counts / draws


def simulated():
    """Yield the rows of the table."""
    for k, (world, (seeds, videos, backbones)) in enumerate(itertools.product(WORLDS, GRID)):
        found = covered(world, seeds, videos, backbones, DRAWS, np.random.default_rng(k))
        place = {"world": world, "seeds": seeds, "videos": videos, "backbones": backbones}
        for interval, (share, width) in found.items():
            yield {**place, "interval": interval, "coverage": share, "width": width}


def load():
    """The committed table."""
    return pd.read_csv(TABLE)


if __name__ == "__main__":
    pd.DataFrame(simulated()).round(5).to_csv(TABLE, index=False)

"""Two sources of noise: the estimator against a double loop, and its coverage in worlds of known noise."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from reports.stats.intervals import t_interval
from reports.stats.noise import Noise, noise_of, other_clips
from tests.reports.stats.coverage import GRID, LIMITS, WORLDS, covered, load, simulated, wrong_verdicts


def slow_noise(gains, moves, shares):
    """The variances of seeds and videos by loops over strata, seeds and videos, with explicit matrices."""
    strata, videos = len(gains), len(shares)
    centre = np.eye(videos) - np.outer(np.ones(videos), shares)
    matrix = centre.T @ np.diag(shares**2) @ centre
    scale = sum(share**2 for share in shares) / np.trace(matrix)
    of_seeds = of_videos = left = 0.0
    for values in gains:
        mean = sum(values) / len(values)
        of_seeds += sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values) / strata**2
    for video in range(videos):
        means = [sum(seed[video] for seed in stratum) / len(stratum) for stratum in moves]
        of_videos += scale * (sum(means) / strata) ** 2
        for stratum, mean in zip(moves, means, strict=True):
            spread = sum((seed[video] - mean) ** 2 for seed in stratum) / (len(stratum) - 1)
            left += scale * spread / len(stratum) / strata**2
    freedom = np.trace(matrix) ** 2 / np.trace(matrix @ matrix)
    return of_seeds, sum(len(v) - 1 for v in gains), max(of_videos - left, 0), freedom


@pytest.mark.parametrize("strata", [1, 3])
@pytest.mark.parametrize("sizes", [(5, 5, 5, 5), (1, 9, 4, 2, 20)])
def test_the_estimator_equals_a_double_loop(strata, sizes):
    generator = np.random.default_rng(strata)
    shares = np.array(sizes) / sum(sizes)
    seeds = [3 + k for k in range(strata)]
    common = generator.normal(size=len(sizes))
    gains = [generator.normal(size=n) for n in seeds]
    moves = [shares * (common + generator.normal(0, 0.3, (n, len(sizes)))) for n in seeds]
    noise = noise_of(gains, moves, shares)
    expected = slow_noise(gains, moves, shares)
    assert (noise.seeds, noise.seeds_freedom, noise.videos, noise.videos_freedom) == pytest.approx(expected)
    assert noise.videos > 0
    unused = noise_of(gains, [np.c_[part, np.zeros(len(part))] for part in moves], np.r_[shares, 0])
    assert unused == noise, "a video without clips counts for nothing"


def test_equal_videos_and_no_noise_of_seeds_give_the_t_interval_over_videos():
    means, shares = np.array([0.1, 0.4, -0.2, 0.3, 0.9]), np.full(5, 0.2)
    moves = [np.tile(shares * (means - means.mean()), (3, 1))]
    noise = noise_of([np.full(3, means.mean())], moves, shares)
    assert (noise.seeds, noise.videos_freedom) == (0, pytest.approx(4))
    half = noise.half_width()
    assert (means.mean() - half, means.mean() + half) == pytest.approx(t_interval(means))


def test_without_noise_of_videos_the_interval_is_that_of_seeds():
    gains = np.array([0.1, 0.4, -0.2])
    noise = noise_of([gains], [np.zeros((3, 5))], np.full(5, 0.2))
    assert noise.videos == 0
    assert other_clips(gains.mean(), t_interval(gains), noise) == pytest.approx(t_interval(gains))
    assert noise.smallest_gain_of_any_seeds() == 0


@pytest.mark.parametrize(
    ("seeds", "shares", "moves"),
    [(1, [0.5, 0.5], 0.0), (3, [1.0], 0.0), (3, [0.5, 0.5], math.nan)],
    ids=["one seed", "one video", "an undefined score"],
)
def test_what_tells_nothing_of_videos_gives_no_noise(seeds, shares, moves):
    gains = np.arange(seeds, dtype=float)
    assert noise_of([gains], [np.full((seeds, len(shares)), moves)], np.array(shares)) is None


def test_the_outlook_is_what_a_power_calculation_gives():
    noise = Noise(seeds=0.04, seeds_freedom=4, videos=0.01, videos_freedom=30)
    freedom = 0.05**2 / (0.04**2 / 4 + 0.01**2 / 30)
    assert noise.freedom == pytest.approx(freedom)
    reach = t.ppf(0.975, freedom) + t.ppf(0.8, freedom)
    assert noise.smallest_gain() == pytest.approx(reach * math.sqrt(0.05))
    assert noise.smallest_gain_of_any_seeds() == pytest.approx((t.ppf(0.975, 30) + t.ppf(0.8, 30)) * 0.1)
    # A quarter of the variance is 0.0125: 0.01 stays, and 0.0025 is left for 16 times as many seeds.
    assert noise.seeds_for(0.5, 5) == 80
    assert noise.seeds_for(1, 5) == 5
    assert noise.seeds_for(0.4, 5) == math.inf
    assert math.isnan(Noise(0, 2, 0, 9).half_width())


def test_power_is_the_share_of_significant_studies():
    """By simulation of the t statistic; with the smallest gain it is 80%."""
    noise = Noise(seeds=0.04, seeds_freedom=4, videos=0.01, videos_freedom=30)
    assert noise.power(noise.smallest_gain()) == pytest.approx(0.8)
    generator = np.random.default_rng(0)
    chi = np.sqrt(generator.chisquare(noise.freedom, 100_000) / noise.freedom)
    drawn = (generator.normal(0.5 / math.sqrt(0.05), 1, 100_000) / chi) > t.ppf(0.975, noise.freedom)
    # The central t distribution is shifted, which is close to the non-central one.
    assert noise.power(0.5) == pytest.approx(drawn.mean(), abs=0.05)
    more = noise.with_seeds(5, 20)
    assert (more.seeds, more.seeds_freedom) == pytest.approx((0.01, 19))
    assert (more.videos, more.videos_freedom) == (0.01, 30)
    assert Noise(0, 2, 0, 9).power(0.1) == 1


@pytest.mark.parametrize("world", ["seeds", "videos", "noise"])
def test_coverage_of_a_few_worlds(world):
    """Binomial, 400 at 95%: 380, and outside of 366 to 394 once in 1,000."""
    for seeds, videos, backbones in ((3, 31, 1), (5, 12, 2)):
        share, _ = covered(world, seeds, videos, backbones, 400, np.random.default_rng(0))["both"]
        assert 0.91 <= share <= 0.99


@pytest.mark.parametrize(("world", "seeds", "videos", "backbones"), [("both", 5, 31, 1), ("seeds", 3, 12, 2)])
def test_verdicts_are_wrong_as_seldom_as_they_say(world, seeds, videos, backbones):
    """Of 400: 5% are 20, and more than 35 once in 1,000; 2.5% are 10, and more than 21 once in 1,000."""
    claims, equal = wrong_verdicts(world, seeds, videos, backbones, 400, np.random.default_rng(1))
    assert 0 < claims <= 35 / 400
    assert equal <= 21 / 400


@pytest.mark.soak
def test_verdicts_are_wrong_as_seldom_as_they_say_everywhere():
    """Of 1,000: 5% are 50, and more than 80 once in 50,000."""
    for k, (world, place) in enumerate(itertools.product(WORLDS, GRID)):
        claims, equal = wrong_verdicts(world, *place, 1000, np.random.default_rng(k))
        assert claims <= 0.08, (world, place)
        assert equal <= 0.06, (world, place)


def test_the_committed_table_holds_the_bounds():
    table = load()
    low, high = LIMITS
    kept = table[table["interval"] == "both"]
    assert len(kept) == 6 * 27
    # Of 2,000 draws, the share has a standard error of 0.005.
    assert kept["coverage"].between(low - 0.01, high + 0.01).all()
    assert kept["coverage"].mean() == pytest.approx(0.95, abs=0.01)
    keys = ["world", "seeds", "videos", "backbones"]
    fair = table[table["coverage"].between(low, high)]
    narrowest = fair.groupby(keys)["width"].min()
    widths = kept.set_index(keys)["width"]
    assert (widths / narrowest).mean() < 1.02
    alone = table[(table["interval"] == "seeds") & (table["world"] == "videos")]
    assert alone["coverage"].max() < 0.9, "seeds alone are too narrow"


@pytest.mark.soak
def test_the_committed_table_is_what_the_simulation_gives():
    pd.testing.assert_frame_equal(pd.DataFrame(simulated()), load(), rtol=1e-3)

"""Frames of scores and of pairs for the tests of comparisons, small enough to follow by hand."""

import itertools
import zlib

import numpy as np
import pandas as pd

from reports.stats.clips import ClipErrors
from reports.stats.comparison import PAIRS, SCORES

VIDEOS = 10
CLIPS = np.array([f"{k // 2}$_${k % 2}" for k in range(2 * VIDEOS)])


def score(method, value, dataset="mosi", backbone="misa", seed=0, metric="acc2", **others):
    """One row of scores, clean and of the CPU unless ``others`` say otherwise."""
    names = {"dataset": dataset, "backbone": backbone, "method": method, "seed": seed, "metric": metric}
    usual = {"occlusion_protocol": "test", "occlusion_ratio": 0.0, "environment": "cpu"}
    return {**usual, **names, "value": value, **others}


def scores_of(rows):
    return pd.DataFrame(rows, columns=list(SCORES))


def world(methods=("a", "b", "none"), backbones=("misa", "mult"), seeds=3, datasets=("mosi", "sims"), seed=0):
    """Return noise, with method a better by 1 everywhere."""
    rng = np.random.default_rng(seed)
    grid = itertools.product(datasets, backbones, methods, range(seeds))
    return scores_of([score(m, rng.normal(0, 0.1) + (m == "a"), d, b, s) for d, b, m, s in grid])


def of_gains(gains, method="a", dataset="mosi", backbone="misa", moves=None):
    """Return pairs with these gains, one per seed; moves: effect of each video on each gain."""
    rows = [(dataset, backbone, method, seed, gain, gain) for seed, gain in enumerate(gains)]
    moves = [np.zeros(VIDEOS)] * len(rows) if moves is None else list(moves)
    return pd.DataFrame(rows, columns=list(PAIRS)).assign(moves=pd.Series(moves, dtype=object))


class StillClips:
    """Clips of which no video moves a score, so that seeds are the only noise."""

    def moves(self, scores, metric):
        return [np.zeros(VIDEOS)] * len(scores)

    def shares(self, dataset):
        return np.full(VIDEOS, 1 / VIDEOS)

    def errors(self, dataset):
        return None


class SwingingClips(StillClips):
    """Clips of which each video moves the scores of some runs by a constant times ``size``.

    named: function of a run's id that says whether its scores move.
    """

    def __init__(self, size, named):
        self.size, self.named = size, named

    def moves(self, scores, metric):
        return [np.linspace(-1, 1, VIDEOS) * self.size * self.named(name) for name in scores["run_id"]]


class DrawnErrors(StillClips):
    """Two clips a video, on which each run has errors of its own."""

    def errors(self, dataset):
        return ClipErrors(CLIPS, np.linspace(-3, 3, len(CLIPS)), np.repeat(range(VIDEOS), 2), True, Drawn())


class Drawn:
    """Errors of any run, which its id determines."""

    def get(self, run_id):
        return np.random.default_rng(zlib.crc32(run_id.encode())).random(len(CLIPS))


STILL = StillClips()

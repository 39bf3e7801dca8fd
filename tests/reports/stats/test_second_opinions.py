"""Ranks beside those of autorank, and verdicts beside the probabilities of baycomp."""

import math

import numpy as np
import pandas as pd
import pytest

from reports.stats.comparison import intervals
from reports.stats.ranking import ranks
from tests.support.scores import VIDEOS, StillClips, of_gains, score, scores_of

SURE, MARGIN = 0.95, 0.1
METHODS = ("none", "mixup", "powmix", "ms_mix")


def pairs_of(gains):
    """Pairs in MAE with these gains. Shape: (seeds, videos)."""
    means = gains.mean(axis=1, keepdims=True)
    pairs = of_gains(gains.mean(axis=1), moves=list((gains - means) / VIDEOS))
    pairs.attrs = {"metric": "mae"}
    return pairs


def our_verdict(gains, margin=None):
    margins = {} if margin is None else {"mae": margin}
    [word] = intervals(pairs_of(gains), StillClips(), margins)["verdict"]
    return word


def bayesian_verdict(gains, margin=None):
    """The most probable word of baycomp's signed-rank test over videos if it is sure, else "undecided"."""
    from baycomp import two_on_multiple

    options = {"rope": margin or 0, "random_state": 0, "nsamples": 1000}
    found = two_on_multiple(gains.mean(axis=0), np.zeros(VIDEOS), **options)
    words = ("better", "equal", "worse")
    sure = [word for word, probability in zip(words, found, strict=True) if probability > SURE]
    return sure[0] if sure else "undecided"


def world(gain, noise, seed=0, seeds=5):
    """Gains of seeds on videos: a true gain, and noise of seeds, of videos and of both together."""
    generator = np.random.default_rng(seed)
    parts = (generator.normal(0, noise, shape) for shape in ((seeds, 1), (1, VIDEOS), (seeds, VIDEOS)))
    return gain + sum(parts)


@pytest.mark.parametrize(
    ("gain", "noise", "margin", "word"),
    [
        (0.5, 0.05, None, "better"),
        (-0.5, 0.05, None, "worse"),
        (0.5, 0.05, MARGIN, "better"),
        (-0.5, 0.05, MARGIN, "worse"),
        (0.0, 0.01, MARGIN, "equal"),
        (0.03, 0.01, MARGIN, "equal"),
    ],
)
def test_clear_worlds_have_the_verdict_that_baycomp_gives(gain, noise, margin, word):
    for seed in range(3):
        gains = world(gain, noise, seed)
        assert our_verdict(gains, margin) == bayesian_verdict(gains, margin) == word


@pytest.mark.parametrize("margin", [None, MARGIN])
def test_nothing_is_claimed_where_baycomp_is_not_sure(margin):
    """Gains at the border: 0 without a margin, the margin with one; noise is as large as either."""
    unsure = 0
    for seed in range(30):
        gains = world(margin or 0.0, MARGIN, seed)
        if bayesian_verdict(gains, margin) == "undecided":
            unsure += 1
            assert our_verdict(gains, margin) in ("undecided", *(["better"] if margin else []))
    assert unsure > 10


def test_a_world_without_an_effect_and_with_much_noise_is_undecided_to_both():
    for seed in range(3):
        gains = world(0.0, 1.0, seed)
        assert our_verdict(gains, MARGIN) == bayesian_verdict(gains, MARGIN) == "undecided"


def errors(effects, noise, blocks=12):
    """MAE of each method on each combination of data set and backbone, and the scores of two seeds of it."""
    generator = np.random.default_rng(1)
    level = generator.normal(1, 0.2, blocks)
    table = pd.DataFrame({m: level + effects[m] + generator.normal(0, noise, blocks) for m in METHODS})
    rows = [
        score(method, table[method][block], backbone=f"b{block}", seed=seed, metric="mae")
        for block in range(blocks)
        for method in METHODS
        for seed in range(2)
    ]
    return table, scores_of(rows)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("effects", "apart"),
    [((0.3, 0.28, 0.1, 0.0), True), ((0.0, 0.0, 0.0, 0.0), False)],
    ids=["clear", "equal"],
)
def test_ranks_and_their_test_are_those_of_autorank(effects, apart):
    from autorank import autorank

    table, scores = errors(dict(zip(METHODS, effects, strict=True)), 0.05)
    ours = ranks(scores, "mae")
    theirs = autorank(table, order="ascending", approach="frequentist", force_mode="nonparametric")
    average = dict(zip(ours.methods, ours.average, strict=True))
    assert average == pytest.approx(theirs.rankdf["meanrank"].to_dict())
    assert theirs.omnibus == "friedman"
    assert ours.p == pytest.approx(theirs.pvalue)
    assert (ours.p <= theirs.alpha) == apart
    if apart:
        # autorank's table of critical values has three digits.
        assert ours.critical_difference == pytest.approx(theirs.cd, rel=1e-3)
        together = {frozenset(group) for group in ours.cliques}
        assert frozenset(("none", "mixup")) in together or frozenset(("powmix", "mixup", "none")) in together
        assert not math.isnan(ours.critical_difference)

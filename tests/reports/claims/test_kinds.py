"""Each kind of claim in worlds where it is true, false, undecidable or not tested by construction."""

import dataclasses

import numpy as np
import pytest

from reports.claims.claim import KINDS, judged, outcome
from reports.claims.kinds import TESTS, Evidence, without
from tests.reports.claims.worlds import CLAIMS, MS, NONE, WORLDS, claim, rows, scores, world
from tests.support.scores import STILL, VIDEOS


def found(kind, evidence, margin=None, lacking=()):
    """The outcome of the kind's claim, and its parts."""
    parts = judged(TESTS[kind](CLAIMS[kind], evidence), margin)
    return outcome(parts, lacking), parts


@pytest.mark.parametrize("kind", KINDS)
def test_a_claim_is_supported_where_it_is_true_and_contradicted_where_it_is_false(kind):
    for effect, wanted in ((0.3, "supported"), (-0.3, "contradicted")):
        verdict, [part] = found(kind, WORLDS[kind](effect))
        assert verdict == wanted
        assert part.gain == pytest.approx(effect, abs=0.05)
        assert part.low < part.gain < part.high
        assert part.dataset == "mosi"


@pytest.mark.parametrize("kind", KINDS)
def test_noise_and_few_seeds_decide_nothing(kind):
    verdict, [part] = found(kind, WORLDS[kind](0.0, noise=0.3))
    assert verdict == "undecided"
    assert part.low < 0 < part.high
    assert part.noise.smallest_gain() > 0
    for effect in (0.3, -0.3):
        assert found(kind, WORLDS[kind](effect, seeds=2))[0] == "undecided"


@pytest.mark.parametrize("kind", KINDS)
def test_without_its_methods_a_claim_is_not_tested(kind):
    evidence = WORLDS[kind](0.3)
    alone = evidence.rows[evidence.rows["method"] == "mixup"]
    assert found(kind, Evidence(alone, STILL)) == ("not tested", [])


def test_robustness_needs_the_ratio_and_ignores_who_is_better_on_clean_input():
    clean = scores(0.3)
    assert found("robust", world(clean))[0] == "not tested"
    assert found("robust", world(clean, scores(0.3, 0.3)))[0] == "not tested"
    # ms_mix stays better, but it loses more.
    assert found("robust", world(clean, scores(0.1, 0.5)))[0] == "contradicted"


def test_a_diagnostic_may_be_claimed_to_be_higher():
    evidence = WORLDS["diagnostic"](0.3)
    higher = dataclasses.replace(CLAIMS["diagnostic"], lower=False)
    assert outcome(judged(TESTS["diagnostic"](higher, evidence))) == "contradicted"


def test_a_metric_that_should_be_high_counts_upwards():
    better = dataclasses.replace(CLAIMS["better"], metrics=("corr",))
    evidence = world(rows(MS, 0.8, metric="corr"), rows(NONE, 0.6, metric="corr"))
    assert outcome(judged(TESTS["better"](better, evidence))) == "supported"


class ShakenClips(type(STILL)):
    """Clips of which the videos move the scores of ms_mix, whatever the seed."""

    def moves(self, scores, metric):
        signs = np.where(scores["method"] == "ms_mix", 1.0, 0.0)
        return [sign * np.linspace(-0.2, 0.2, VIDEOS) for sign in signs]


def test_other_clips_undo_what_seeds_show_and_without_predictions_nothing_is_decided():
    assert found("better", world(scores(0.2), clips=ShakenClips()))[0] == "undecided"
    verdict, [part] = found("better", world(scores(0.2), clips=None))
    assert (verdict, part.noise) == ("undecided", None)


def test_a_margin_makes_a_small_gain_contradict_the_claim_to_be_better():
    evidence = world(scores(0.01, noise=0.001))
    assert found("better", evidence)[0] == "supported"
    assert found("better", evidence, margin=0.05)[0] == "contradicted"


def test_a_claim_about_several_methods_needs_all_of_them_and_falls_with_one():
    others = ("none", "mixup")
    several = claim("better", than=others)
    good = world(scores(0.3), rows(("mixup", "{}"), 1.0))
    assert outcome(judged(TESTS["better"](several, good))) == "supported"
    mixed = world(scores(0.3), rows(("mixup", "{}"), 0.4))
    verdicts = {part.against: part.verdict for part in judged(TESTS["better"](several, mixed))}
    assert verdicts == {"none": "supported", "mixup": "contradicted"}
    assert outcome(judged(TESTS["better"](several, mixed))) == "contradicted"
    parts = judged(TESTS["better"](several, world(scores(0.3))))
    assert outcome(parts, ["mixup"]) == "undecided", "one of its methods was not trained"


def test_a_true_claim_about_many_methods_is_seldom_contradicted():
    """One of 20 parts below 0 by a 95% interval is chance; the claim needs more to fall."""
    [part] = TESTS["better"](CLAIMS["better"], WORLDS["better"](-0.3))
    barely = dataclasses.replace(part, gain=-1.05 * part.noise.half_width())
    barely = dataclasses.replace(barely, low=2 * barely.gain, high=0.05 * barely.gain)
    assert outcome(judged([barely])) == "contradicted"
    assert outcome(judged([barely] * 20)) == "undecided"


def test_a_component_is_switched_off_as_the_ablation_does():
    assert without("ms_mix", "sass") == "ms_mix[sig,sal]"
    assert without("powmix", "dynamic") == "powmix[random_n,reweight,anisotropic,cross_modal_labels]"

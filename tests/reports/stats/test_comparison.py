"""Methods against the baseline: pairs, intervals, marks, wins, on frames small enough to follow by hand."""

import itertools
import math
import re
import statistics

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from harness.errors import UserError
from harness.metrics import DIRECTION
from reports.stats.comparison import (
    IMPROVEMENT,
    INTERVALS,
    OUTLOOK,
    OVERALL,
    PAIRS,
    SCORES,
    WINS,
    clean,
    improvement,
    intervals,
    overall,
    paired,
    paired_everywhere,
    verdict,
    wins,
)
from reports.stats.intervals import probability_of_improvement, stratified_interval
from reports.stats.permutation import holm, wilcoxon_p
from reports.stats.ranking import ranks
from tests.support.scores import STILL, of_gains, score, scores_of, world

NAN = math.nan


@pytest.mark.parametrize("metric", ["acc2", "mae"])
def test_pairs_equal_a_loop_over_all_rows(metric):
    scores = world().assign(metric=metric).sample(frac=1, random_state=1)
    wanted = []
    for one, other in itertools.product(scores.to_dict("records"), repeat=2):
        same = all(one[name] == other[name] for name in ("dataset", "backbone", "seed", "environment"))
        if same and other["method"] == "none" != one["method"]:
            difference = one["value"] - other["value"]
            key = tuple(one[name] for name in ("dataset", "backbone", "method", "seed"))
            wanted.append((*key, difference, difference * DIRECTION[metric]))
    found = paired(scores, metric)
    assert list(found.columns) == [*PAIRS, "moves"]
    assert list(found[list(PAIRS)].itertuples(index=False, name=None)) == sorted(wanted)
    assert len(found) == 24
    assert found.attrs == {"metric": metric, "unpaired": 0, "environments": 0}


def test_clean_scores_are_of_the_whole_test_split_and_pairs_everywhere_of_each_metric_and_condition():
    whole = [score("a", 0.5), score("none", 0.4)]
    others = [score("a", 1, occlusion_ratio=0.1), score("a", 2, occlusion_protocol="train")]
    pd.testing.assert_frame_equal(clean(scores_of([*others, *whole[::-1]])), scores_of(whole))
    scores = world(seeds=2)
    parts = {("test", 0.0, "acc2"): scores, ("test", 0.3, "mae"): scores.assign(value=-2 * scores["value"])}
    everything = pd.concat(
        part.assign(occlusion_ratio=ratio, metric=metric) for (_, ratio, metric), part in parts.items()
    )
    groups = paired_everywhere(everything).groupby(["occlusion_protocol", "occlusion_ratio", "metric"])
    assert set(groups.groups) == set(parts)
    table = intervals(paired_everywhere(everything))
    conditions = ["occlusion_protocol", "occlusion_ratio", "metric"]
    assert list(table.columns) == [*INTERVALS[:2], *conditions, *INTERVALS[2:]]
    for key, found in groups:
        wanted = paired(parts[key].assign(metric=key[-1]), key[-1])
        columns = [*PAIRS, "moves"]
        pd.testing.assert_frame_equal(found[columns].reset_index(drop=True), wanted)
        rows = table[(table[conditions] == list(key)).all(axis=1)]
        pd.testing.assert_frame_equal(rows[list(INTERVALS)].reset_index(drop=True), intervals(wanted))


def test_environments_and_undefined_values_are_never_paired():
    rows = [score("a", 3.0, environment="cpu"), score("b", 3.0, environment="gpu")]
    rows += [score("none", 1.0, environment=name) for name in ("gpu", "tpu")]
    scores = scores_of([*rows, *(score("c", 5.0, seed=seed, environment="gpu") for seed in (1, 2))])
    found = paired(scores, "acc2")
    assert found[["method", "seed", "gain"]].to_numpy().tolist() == [["b", 0, 2.0]]
    assert found.attrs == {"metric": "acc2", "unpaired": 3, "environments": 1}
    assert improvement(scores, "acc2")["method"].tolist() == ["b", "c"]
    for hole in (NAN, math.inf, -math.inf):
        scores = [score("a", hole), score("none", 1.0), score("b", 2.0, seed=1), score("none", hole, seed=1)]
        found = paired(scores_of(scores), "acc2")
        assert found.empty
        assert found.attrs == {"metric": "acc2", "unpaired": 1, "environments": 0}
        assert paired(scores_of([*scores, score("a", 4.0)]), "acc2")["gain"].tolist() == [3.0]


@given(order=st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=3)
def test_nothing_depends_on_the_order_of_rows_or_changes_what_it_is_given(order):
    scores = pd.concat([world(seeds=2), world(seeds=1, seed=7), world(("c",), seeds=1)], ignore_index=True)
    places = list(range(len(scores)))
    order.shuffle(places)
    shuffled, before = scores.iloc[places], scores.copy()
    pairs, others = paired(scores, "acc2"), paired(shuffled, "acc2")
    pd.testing.assert_frame_equal(pairs, others, check_exact=True)
    turned = pairs.sample(frac=1, random_state=order.randrange(99))
    for call in (intervals, overall):
        pd.testing.assert_frame_equal(call(pairs), call(turned), check_exact=True)
    pd.testing.assert_frame_equal(pairs, others)
    pd.testing.assert_frame_equal(wins(intervals(pairs)), wins(intervals(pairs).iloc[::-1]))
    pd.testing.assert_frame_equal(clean(scores), clean(shuffled))
    chances = (improvement(frame, "acc2") for frame in (scores, shuffled))
    pd.testing.assert_frame_equal(*chances, check_exact=True)
    assert ranks(scores, "acc2") == ranks(shuffled, "acc2")
    pd.testing.assert_frame_equal(scores, before)


def test_categories_that_no_row_has_make_no_rows():
    plain = pd.concat([world(seeds=3), world(("c",), seeds=1)], ignore_index=True)
    names = ["dataset", "backbone", "method", "environment"]
    scores = plain.assign(**{n: pd.Categorical(plain[n], [*plain[n].unique(), "another"]) for n in names})
    pairs, wanted = (paired(frame, "acc2") for frame in (scores, plain))
    results = [(pairs, wanted), (paired_everywhere(scores), paired_everywhere(plain))]
    results += [(intervals(pairs), intervals(wanted)), (overall(pairs), overall(wanted))]
    results += [(wins(intervals(pairs)), wins(intervals(wanted)))]
    results += [(improvement(scores, "acc2"), improvement(plain, "acc2"))]
    for found, frame in results:
        assert found.astype(str).to_numpy().tolist() == frame.astype(str).to_numpy().tolist()
    assert ranks(scores, "acc2") == ranks(plain, "acc2")


def test_repetitions_of_a_seed_are_one_pair_and_their_mean_has_no_order():
    repeated = [score("a", 3.0), score("a", 4.0), score("none", 1.0), score("none", 2.0)]
    gpu = [score("a", 10.0, environment="gpu"), score("none", 2.0, environment="gpu")]
    found = paired(scores_of([*repeated, *gpu, score("a", 99.0, environment="tpu")]), "acc2")
    # 3.5 - 1.5 on the CPU and 10 - 2 on the GPU.
    assert found["gain"].tolist() == [5.0]
    assert found.attrs == {"metric": "acc2", "unpaired": 0, "environments": 0}
    orders = list(itertools.permutations([0.1, 1e16, 0.3, -1e16]))
    rows = [score("a", value, backbone=f"b{k}") for k, order in enumerate(orders) for value in order]
    rows += [score("none", 0.0, backbone=f"b{k}") for k in range(len(orders))]
    assert paired(scores_of(rows), "acc2")["gain"].nunique() == 1


def test_intervals_equal_the_paired_t_test_of_scipy():
    scores = world(seeds=5)
    for found in intervals(paired(scores, "acc2", clips=STILL), STILL).itertuples():
        part = scores[(scores["dataset"] == found.dataset) & (scores["backbone"] == found.backbone)]
        values = part.pivot(index="seed", columns="method", values="value")
        own, base = values[found.method].to_numpy(), values["none"].to_numpy()
        wanted = ttest_rel(own, base)
        bounds = pytest.approx(tuple(wanted.confidence_interval(0.95)))
        assert (found.low_seeds, found.high_seeds) == bounds
        assert (found.low, found.high) == bounds, "no video moves a score"
        assert found.n == 5
        assert found.gain == pytest.approx(statistics.fmean(own) - statistics.fmean(base))
        assert (found.verdict != "undecided") == (wanted.pvalue < 0.05)


def test_one_seed_claims_nothing():
    scores = world(seeds=1)
    pairs = paired(scores, "acc2", clips=STILL)
    table, pooled = intervals(pairs, STILL), overall(pairs, STILL)
    for found in (table, pooled, improvement(scores, "acc2")):
        assert found[["low", "high"]].isna().all(axis=None)
    assert {*table["verdict"], *pooled["verdict"]} == {"undecided"}
    assert pooled[["p", "p_holm", "low_seeds", *OUTLOOK]].isna().all(axis=None)
    assert pooled["gain"].notna().all()
    assert wins(table)[["better", "worse", "equal"]].to_numpy().sum() == 0


def test_marks_say_on_which_side_of_nothing_the_interval_of_three_seeds_that_differ_lies():
    sides = {"better": [1.0, 1.1, 0.9], "worse": [-1.0, -1.1, -0.9], "undecided": [1.0, -1.0, 0.5]}
    for word, gains in sides.items():
        [found] = intervals(of_gains(gains), STILL).itertuples()
        assert (found.n, found.verdict) == (3, word)
        [found] = intervals(of_gains(gains)).itertuples()
        assert found.verdict == "undecided", "the predictions are not known"
        assert np.isnan([found.low, found.high]).all()
        assert (found.low_seeds < found.gain) & (found.gain < found.high_seeds)
    [found] = intervals(of_gains([1.0, 1.01]), STILL).itertuples()
    assert (found.n, found.verdict) == (2, "undecided")
    assert 0 < found.low < found.high
    for gain in (0.0, -0.25, 0.1):
        pairs = of_gains([gain] * 3)
        pairs.loc[1, "gain"] *= 1 + 1e-15
        for [found] in (intervals(pairs, STILL).itertuples(), overall(pairs, STILL).itertuples()):
            assert found.gain == pytest.approx(gain)
            assert np.isnan([found.low_seeds, found.high_seeds, found.low, found.high]).all()
            assert found.verdict == "undecided"


def test_overall_weighs_backbones_the_same_and_uses_the_stratified_bootstrap():
    many, few = [0.5, 0.7, 0.6, 0.8, 0.4], [0.1, 0.2, 0.15]
    pairs = pd.concat([of_gains(many), of_gains(few, backbone="mult")])
    [found] = overall(pairs, STILL).itertuples()
    assert found.gain == pytest.approx((0.6 + 0.15) / 2)
    expected = stratified_interval(np.array(many + few), "aaaaabbb")
    assert (found.low_seeds, found.high_seeds) == pytest.approx(expected)
    assert (found.n, found.seeds, found.strata, found.verdict, found.p) == (8, 5, 2, "better", 0.5)
    assert overall(pairs.assign(gain=-pairs["gain"]), STILL)["verdict"].tolist() == ["worse"]
    # A verdict needs three seeds everywhere.
    for sizes, word in (((3, 4), "better"), ((2, 2), "undecided"), ((5, 2), "undecided")):
        parts = [of_gains(1 + 1e-3 * np.arange(n), backbone=f"b{k}") for k, n in enumerate(sizes)]
        [found] = overall(pd.concat(parts), STILL).itertuples()
        assert found.low > 0
        assert found.verdict == word


def test_moves_follow_their_scores_into_pairs():
    """Averaged over repetitions and environments, subtracted from the baseline's, signed like the gain."""

    class Clips:
        """A video moves a score by its value."""

        def moves(self, scores, metric):
            return [None if v == 99 else np.array([v, -v]) for v in scores["value"]]

        def shares(self, dataset):
            return np.array([0.5, 0.5])

    rows = [score("a", 3.0), score("a", 4.0), score("none", 1.0), score("a", 5.0, seed=1)]
    rows += [score("a", 10.0, environment="gpu"), score("none", 2.0, environment="gpu")]
    rows += [score("none", 99.0, seed=1), score("a", 99.0, seed=2), score("none", 1.0, seed=2)]
    for metric, sign in (("acc2", 1), ("mae", -1)):
        scores = scores_of(rows).assign(metric=metric).sample(frac=1, random_state=0)
        one, everywhere = paired(scores, metric, clips=Clips()), paired_everywhere(scores, clips=Clips())
        for pairs in (one, everywhere):
            first, *others = pairs["moves"]
            gain = pairs["gain"].iloc[0]
            assert gain == sign * ((3.5 - 1) + (10 - 2)) / 2
            assert first.tolist() == [gain, -gain]
            assert others == [None, None], "one side has no predictions"


def test_another_baseline_is_compared_in_its_place():
    scores = world(("a", "b", "none"), seeds=3)
    found = paired(scores, "acc2", "b").groupby("method")["gain"].mean()
    plain = paired(scores, "acc2").groupby("method")["gain"].mean()
    assert found.to_dict() == pytest.approx({"a": plain["a"] - plain["b"], "none": -plain["b"]})


@pytest.mark.parametrize(
    ("seeds", "low", "high", "margin", "word"),
    [
        (3, 0.1, 0.3, None, "better"),
        (3, -0.3, -0.1, None, "worse"),
        (3, -0.1, 0.1, None, "undecided"),
        (3, 0.0, 0.1, None, "undecided"),
        (3, -0.1, 0.1, 0.2, "equal"),
        (3, 0.1, 0.15, 0.2, "equal"),
        (3, 0.1, 0.2, 0.2, "better"),
        (3, -0.2, 0.1, 0.2, "undecided"),
        (2, 0.1, 0.3, 0.5, "undecided"),
        (3, NAN, NAN, 0.5, "undecided"),
    ],
)
def test_verdicts_need_three_seeds_and_an_interval_on_one_side_of_0_or_within_the_margin(
    seeds, low, high, margin, word
):
    assert verdict(seeds, low, high, margin) == word


def test_margins_and_videos_reach_the_verdicts():
    gains = np.array([1.0, 1.1, 0.9])
    still = [np.zeros(10)] * 3
    shaken = [np.linspace(-0.5, 0.5, 10)] * 3
    for moves, words in ((still, ("better", "equal")), (shaken, ("undecided", "undecided"))):
        pairs = of_gains(gains, moves=moves)
        pairs.attrs["metric"] = "acc2"
        for margins, word in zip(({}, {"acc2": 2.0, "mae": 0.1}), words, strict=True):
            for call in (intervals, overall):
                [found] = call(pairs, STILL, margins).itertuples()
                assert found.verdict == word
                assert found.low <= found.low_seeds < found.high_seeds <= found.high
    [found] = overall(of_gains(gains, moves=shaken), STILL).itertuples()
    assert found.halving_seeds == math.inf
    assert 0 < found.smallest_gain_of_any_seeds < found.smallest_gain


def test_p_values_are_wilcoxons_over_means_of_backbones_and_holms_within_a_dataset():
    rng, shifts = np.random.default_rng(3), {"a": 0.5, "b": 0.2, "c": 0.0}
    grid = itertools.product(("mosi", "sims"), shifts, range(7))
    pairs = pd.concat([of_gains(rng.normal(shifts[m], 0.3, size=3), m, d, f"b{k}") for d, m, k in grid])
    found = overall(pairs)
    assert list(found.columns) == list(OVERALL)
    for dataset, table in found.groupby("dataset"):
        means = pairs[pairs["dataset"] == dataset].groupby(["method", "backbone"])["gain"].mean()
        wanted = [wilcoxon_p(means[method].to_numpy()) for method in "abc"]
        assert table["method"].tolist() == ["a", "b", "c"]
        np.testing.assert_allclose(table["p"], wanted)
        np.testing.assert_allclose(table["p_holm"], holm(wanted))
    # A method without a test does not count for Holm's correction.
    lone = overall(pd.concat([pairs, of_gains([0.3], "lone")])).query("method != 'lone'")
    pd.testing.assert_frame_equal(lone.reset_index(drop=True), found)


def test_wins_count_backbones():
    spread = np.array([-0.1, 0.0, 0.1])
    parts = [of_gains(1 + spread, backbone=f"b{k}") for k in range(4)]
    parts += [of_gains(spread - 1, backbone=f"w{k}") for k in range(3)]
    parts += [of_gains(spread, backbone=f"i{k}") for k in range(2)]
    parts += [of_gains([1.0, 1.01], backbone="two"), of_gains([1.0] * 3, backbone="equal")]
    parts += [of_gains(spread - 1, dataset="sims"), of_gains(spread, method="b")]
    found = wins(intervals(pd.concat(parts), STILL))
    assert list(found.columns) == list(WINS)
    assert found.to_numpy().tolist() == [
        ["mosi", "a", 4, 3, 0, 4],
        ["mosi", "b", 0, 0, 0, 1],
        ["sims", "a", 0, 1, 0, 0],
    ]


@pytest.mark.parametrize("metric", ["acc2", "mae"])
def test_improvement_is_that_of_the_matrices(metric):
    scores = world(("b", "none"), seeds=4).assign(metric=metric)
    # The first backbone of the first dataset lacks a run.
    scores = scores.drop(index=scores[(scores["method"] == "b")].index[0])
    x, y = (
        scores[scores["method"] == name].pivot(index="seed", columns=["dataset", "backbone"], values="value")
        for name in ("b", "none")
    )
    wanted = probability_of_improvement(x.to_numpy() * DIRECTION[metric], y.to_numpy() * DIRECTION[metric])
    assert improvement(scores, metric).to_numpy().tolist() == [["b", *wanted, 4, 15]]
    scores = world(("a", "none"))
    scores = scores[(scores["method"] == "a") | (scores["dataset"] == "mosi")]
    [found] = improvement(scores, "acc2").itertuples()
    assert (found.probability, found.tasks, found.n) == (1.0, 2, 6), "of the tasks of both"
    assert np.isnan([found.low, found.high]).all(), "without spread"
    assert improvement(world(("a", "b")), "acc2").empty


@pytest.mark.parametrize("empty", [pd.DataFrame(columns=list(SCORES)), world().iloc[:0]])
def test_no_scores_give_empty_frames_with_their_columns_and_no_baseline_no_pairs(empty):
    pairs = paired(clean(empty), "acc2")
    table = intervals(pairs)
    frames = (clean(empty), pairs, table, overall(pairs), wins(table), improvement(empty, "acc2"))
    names = (SCORES, (*PAIRS, "moves"), INTERVALS, OVERALL, WINS, IMPROVEMENT)
    assert [list(found.columns) for found in frames] == list(map(list, names))
    assert all(found.empty for found in frames)
    assert pairs.attrs == {"metric": "acc2", "unpaired": 0, "environments": 0}
    assert not (table["low"] > 0).any()
    without = paired(world(("a", "b")), "acc2")
    assert (len(without), without.attrs) == (0, {"metric": "acc2", "unpaired": 24, "environments": 0})
    assert paired(world(("none",)), "acc2").attrs == {"metric": "acc2", "unpaired": 0, "environments": 0}


@pytest.mark.parametrize("call", [paired, ranks, improvement])
def test_wrong_scores_are_refused(call):
    scores = world()
    wrong = {
        "scores lack value, environment; they have "
        "['dataset', 'backbone', 'method', 'seed', 'occlusion_protocol', 'occlusion_ratio', 'metric']":
            scores.drop(columns=["environment", "value"]),
        "scores must have one occlusion protocol and ratio (see clean), got [['test', 0.0], ['test', 0.3]]":
            scores_of([score("a", 1.0, occlusion_ratio=0.3), score("a", 1.0)]),
        "scores must name dataset, backbone, method, seed, environment in every row":
            scores_of([score("a", 1.0, environment=None)]),
    }  # fmt: skip
    for sentence, frame in wrong.items():
        with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
            call(frame, "acc2")
    allowed = ", ".join(sorted(DIRECTION))
    with pytest.raises(UserError) as refused:
        call(scores, "acc22")
    assert str(refused.value) == f"Unknown metric 'acc22'; allowed: {allowed}. Did you mean 'acc2'?"

"""Methods against the baseline: pairs, intervals, marks, ranks, on frames small enough to follow by hand."""

import itertools
import math
import statistics

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import friedmanchisquare, ttest_rel

from harness.errors import UserError
from harness.metrics import DIRECTION
from reports.stats.comparison import (
    IMPROVEMENT,
    INTERVALS,
    OVERALL,
    PAIRS,
    SCORES,
    WINS,
    clean,
    improvement,
    intervals,
    overall,
    paired,
    ranks,
    wins,
)
from reports.stats.intervals import nemenyi_difference, probability_of_improvement, stratified_interval
from reports.stats.permutation import holm, wilcoxon_p

NAN = math.nan


def row(method, value, dataset="mosi", backbone="misa", seed=0, metric="acc2", **others):
    names = {"dataset": dataset, "backbone": backbone, "method": method, "seed": seed, "metric": metric}
    usual = {"occlusion_protocol": "test", "occlusion_ratio": 0.0, "environment": "cpu"}
    return {**usual, **names, "value": value, **others}


def frame(rows):
    return pd.DataFrame(rows, columns=list(SCORES))


def world(methods=("a", "b", "none"), backbones=("misa", "mult"), seeds=3, datasets=("mosi", "sims"), seed=0):
    """Noise, and method a better by 1 everywhere."""
    rng = np.random.default_rng(seed)
    grid = itertools.product(datasets, backbones, methods, range(seeds))
    return frame([row(m, rng.normal(0, 0.1) + (m == "a"), d, b, s) for d, b, m, s in grid])


def of_gains(gains, method="a", dataset="mosi", backbone="misa"):
    """Pairs with these gains, one a seed."""
    rows = [(dataset, backbone, method, seed, gain, gain) for seed, gain in enumerate(gains)]
    return pd.DataFrame(rows, columns=list(PAIRS))


def only(table):
    assert len(table) == 1
    return table.iloc[0]


def test_clean_scores_are_those_of_the_whole_test_split():
    kept = [row("a", 0.5), row("none", 0.4)]
    others = [row("a", 1, occlusion_ratio=0.1), row("a", 2, occlusion_protocol="train")]
    found = clean(frame([others[0], kept[1], others[1], kept[0]]))
    pd.testing.assert_frame_equal(found, frame(kept))


@pytest.mark.parametrize("metric", ["acc2", "mae"])
def test_pairs_equal_a_loop_over_all_rows(metric):
    scores = world().assign(metric=metric).sample(frac=1, random_state=1)
    wanted = []
    for one in scores.to_dict("records"):
        for other in scores.to_dict("records"):
            same = all(one[name] == other[name] for name in ("dataset", "backbone", "seed", "environment"))
            if same and other["method"] == "none" != one["method"]:
                difference = one["value"] - other["value"]
                key = tuple(one[name] for name in ("dataset", "backbone", "method", "seed"))
                wanted.append((*key, difference, difference * DIRECTION[metric]))
    found = paired(scores, metric)
    assert list(found.columns) == list(PAIRS)
    assert list(found.itertuples(index=False, name=None)) == sorted(wanted)
    assert len(found) == 24
    assert found.attrs == {"unpaired": 0, "environments": 0}


def test_another_baseline_and_another_metric():
    scores = frame([row("a", 3.0), row("b", 1.0), row("none", 0.0), row("a", 9.0, metric="mae")])
    found = paired(scores, "acc2", baseline="b")
    assert found[["method", "gain"]].to_numpy().tolist() == [["a", 2.0], ["none", -1.0]]


def test_environments_are_never_paired():
    scores = frame(
        [
            row("a", 3.0, environment="cpu"),
            row("none", 1.0, environment="gpu"),
            row("none", 1.0, environment="tpu"),
            row("b", 3.0, environment="gpu"),
            row("c", 5.0, seed=1, environment="gpu"),
            row("c", 5.0, seed=2, environment="gpu"),
        ]
    )
    found = paired(scores, "acc2")
    assert found[["method", "seed", "gain"]].to_numpy().tolist() == [["b", 0, 2.0]]
    assert found.attrs == {"unpaired": 3, "environments": 1}
    assert improvement(scores, "acc2")["method"].tolist() == ["b", "c"]


def test_repetitions_of_a_seed_are_one_pair():
    scores = frame(
        [
            row("a", 3.0),
            row("a", 4.0),
            row("none", 1.0),
            row("none", 2.0),
            row("a", 10.0, environment="gpu"),
            row("none", 2.0, environment="gpu"),
            row("a", 99.0, environment="tpu"),
        ]
    )
    found = paired(scores, "acc2")
    # 3.5 - 1.5 on the CPU and 10 - 2 on the GPU.
    assert only(found)["gain"] == 5.0
    assert found.attrs == {"unpaired": 0, "environments": 0}


@pytest.mark.parametrize("hole", [NAN, math.inf, -math.inf])
def test_undefined_values_give_no_pair(hole):
    scores = [row("a", hole), row("none", 1.0), row("b", 2.0, seed=1), row("none", hole, seed=1)]
    found = paired(frame(scores), "acc2")
    assert found.empty
    assert found.attrs == {"unpaired": 1, "environments": 0}
    repeated = paired(frame([*scores, row("a", 4.0)]), "acc2")
    assert only(repeated)["gain"] == 3.0


@given(order=st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=6)
def test_nothing_depends_on_the_order_of_rows(order):
    scores = pd.concat([world(seeds=2), world(seeds=1, seed=7), world(("c",), seeds=1)], ignore_index=True)
    places = list(range(len(scores)))
    order.shuffle(places)
    shuffled = scores.iloc[places]
    pairs, others = paired(scores, "acc2"), paired(shuffled, "acc2")
    pd.testing.assert_frame_equal(pairs, others, check_exact=True)
    turned = pairs.sample(frac=1, random_state=order.randrange(99))
    for call in (intervals, overall):
        pd.testing.assert_frame_equal(call(pairs), call(turned), check_exact=True)
    pd.testing.assert_frame_equal(wins(intervals(pairs)), wins(intervals(pairs).iloc[::-1]))
    pd.testing.assert_frame_equal(clean(scores), clean(shuffled))
    pd.testing.assert_frame_equal(
        improvement(scores, "acc2"), improvement(shuffled, "acc2"), check_exact=True
    )
    assert ranks(scores, "acc2") == ranks(shuffled, "acc2")


def test_a_mean_does_not_depend_on_the_order_of_its_sum():
    values = [0.1, 1e16, 0.3, -1e16]
    found = {
        paired(frame([row("none", 0.0), *(row("a", value) for value in order)]), "acc2")["gain"].iloc[0]
        for order in itertools.permutations(values)
    }
    assert len(found) == 1


def test_intervals_equal_the_paired_t_test_of_scipy():
    scores = world(seeds=5)
    for found in intervals(paired(scores, "acc2")).itertuples():
        part = scores[(scores["dataset"] == found.dataset) & (scores["backbone"] == found.backbone)]
        own, base = (
            part[part["method"] == name].sort_values("seed")["value"] for name in (found.method, "none")
        )
        wanted = ttest_rel(own.to_numpy(), base.to_numpy())
        assert (found.low, found.high) == pytest.approx(tuple(wanted.confidence_interval(0.95)))
        assert found.n == 5
        assert found.gain == pytest.approx(statistics.fmean(own) - statistics.fmean(base))
        assert (found.outside != "") == (wanted.pvalue < 0.05)


def test_marks_say_on_which_side_of_nothing_the_interval_lies():
    parts = [
        of_gains([1.0, 1.1, 0.9], "better"),
        of_gains([-1.0, -1.1, -0.9], "worse"),
        of_gains([1.0, -1.0, 0.5], "noise"),
    ]
    found = intervals(pd.concat(parts)).set_index("method")["outside"]
    assert found.to_dict() == {"better": "better", "worse": "worse", "noise": ""}
    scores = [
        row(m, value, metric="mae", seed=seed)
        for seed in range(3)
        for m, value in (("a", 0.5), ("none", 0.9))
    ]
    scores = frame(scores)
    scores["value"] += np.arange(6) * 1e-3 * (scores["method"] == "a")
    assert only(intervals(paired(scores, "mae")))["outside"] == "better"


def test_two_seeds_have_an_interval_and_never_a_mark():
    found = only(intervals(of_gains([1.0, 1.01])))
    assert 0 < found["low"] < found["high"]
    assert (found["n"], found["outside"]) == (2, "")


def test_one_seed_claims_nothing():
    scores = world(seeds=1)
    pairs = paired(scores, "acc2")
    table = intervals(pairs)
    assert table[["low", "high"]].isna().all(axis=None)
    assert (table["outside"] == "").all()
    for by in (("dataset",), ()):
        pooled = overall(pairs, by)
        assert pooled[["low", "high", "p", "p_holm"]].isna().all(axis=None)
        assert (pooled["outside"] == "").all()
        assert pooled["gain"].notna().all()
    assert wins(table)[["better", "worse", "inside"]].to_numpy().sum() == 0
    assert improvement(scores, "acc2")[["low", "high"]].isna().all(axis=None)
    found = ranks(scores, "acc2")
    assert found.blocks == 4
    assert found.methods[0] == "a"
    assert all(map(math.isnan, (found.statistic, found.p, found.critical_difference)))
    assert found.cliques == ()


@pytest.mark.parametrize("gain", [0.0, 1.0, -0.25, 0.1])
def test_equal_differences_are_no_measure_of_noise(gain):
    pairs = of_gains([gain] * 3)
    pairs.loc[1, "gain"] *= 1 + 1e-15
    for found in (only(intervals(pairs)), only(overall(pairs))):
        assert found["gain"] == pytest.approx(gain)
        assert math.isnan(found["low"])
        assert math.isnan(found["high"])
        assert found["outside"] == ""
    assert only(wins(intervals(pairs)))["untested"] == 1


def test_overall_weighs_backbones_the_same_and_uses_the_stratified_bootstrap():
    many, few = [0.5, 0.7, 0.6, 0.8, 0.4], [0.1, 0.2, 0.15]
    pairs = pd.concat([of_gains(many), of_gains(few, backbone="mult")])
    found = only(overall(pairs))
    assert found["gain"] == pytest.approx((0.6 + 0.15) / 2)
    bounds = stratified_interval(np.array(many + few), "aaaaabbb")
    assert (found["low"], found["high"]) == pytest.approx(bounds)
    assert (found["n"], found["seeds"], found["strata"], found["outside"]) == (8, 5, 2, "better")
    assert found["p"] == 0.5
    turned = only(overall(pairs.assign(gain=-pairs["gain"])))
    assert turned["outside"] == "worse"


@pytest.mark.parametrize(
    ("sizes", "marked"), [((3,), True), ((3, 4), True), ((2,), False), ((2, 2), False), ((5, 2), False)]
)
def test_overall_marks_need_three_seeds_everywhere(sizes, marked):
    parts = [of_gains(1 + 1e-3 * np.arange(n), backbone=f"b{k}") for k, n in enumerate(sizes)]
    found = only(overall(pd.concat(parts)))
    assert found["low"] > 0
    assert found["outside"] == ("better" if marked else "")


def gains_of_methods():
    rng = np.random.default_rng(3)
    grid = itertools.product(("mosi", "sims"), "abc", range(7))
    parts = [
        of_gains(rng.normal(shift, 0.3, size=3), method, dataset, f"b{backbone}")
        for dataset, method, backbone in grid
        for shift in ({"a": 0.5, "b": 0.2, "c": 0.0}[method],)
    ]
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("by", [("dataset",), ("backbone",), ("dataset", "backbone"), ()])
def test_p_values_are_wilcoxons_over_means_of_strata_and_holms_within_by(by):
    pairs = gains_of_methods()
    found = overall(pairs, by)
    assert list(found.columns) == [*by, *OVERALL]
    groups = found.groupby(list(by)) if by else [((), found)]
    for names, table in groups:
        part, wanted = pairs, []
        for name, value in zip(by, names, strict=True):
            part = part[part[name] == value]
        for method in "abc":
            own = part[part["method"] == method]
            wanted.append(wilcoxon_p(own.groupby(["dataset", "backbone"])["gain"].mean().to_numpy()) or NAN)
        assert table["method"].tolist() == ["a", "b", "c"]
        np.testing.assert_allclose(table["p"], wanted)
        if not math.isnan(wanted[0]):
            np.testing.assert_allclose(table["p_holm"], holm(wanted))
        else:
            assert table["p_holm"].isna().all()


def test_methods_without_a_test_do_not_count_for_holm():
    pairs = gains_of_methods()
    lone = of_gains([0.3], "lone")
    with_lone = overall(pd.concat([pairs, lone])).query("method != 'lone'").reset_index(drop=True)
    pd.testing.assert_frame_equal(with_lone, overall(pairs))


def test_by_must_name_what_there_is():
    with pytest.raises(ValueError, match=r"by must hold some of dataset, backbone, however: .'seed'"):
        overall(of_gains([1.0]), ("seed",))


@pytest.mark.parametrize("metric", ["acc2", "mae"])
def test_ranks_equal_those_of_the_means_over_seeds(metric):
    scores = world(("a", "b", "c", "none"), ("misa", "mult", "almt"), datasets=("mosi", "mosei", "sims"))
    scores = scores.assign(metric=metric)
    found = ranks(scores, metric)
    means = scores.groupby(["dataset", "backbone", "method"])["value"].mean().unstack() * DIRECTION[metric]
    average = means.rank(axis=1, ascending=False).mean().sort_values()
    assert found.methods == tuple(average.index)
    assert found.average == pytest.approx(average.tolist())
    wanted = friedmanchisquare(*means.to_numpy().T)
    assert (found.statistic, found.p) == pytest.approx((wanted.statistic, wanted.pvalue))
    assert found.critical_difference == pytest.approx(nemenyi_difference(4, 9))
    assert (found.blocks, found.left_out, found.dropped) == (9, 0, ())
    others = tuple(name for name in found.methods if name != "a")
    assert found.methods[0 if metric == "acc2" else -1] == "a"
    assert others in found.cliques
    assert not any(
        {"a", found.methods[-1 if metric == "acc2" else 0]} <= set(group) for group in found.cliques
    )


def test_ranks_use_only_runs_that_all_methods_have():
    rows = []
    for backbone in ("misa", "mult"):
        for seed in range(2):
            rows += [
                row("a", 2.0 + seed, backbone=backbone, seed=seed),
                row("none", 1.0, backbone=backbone, seed=seed),
            ]
        # Seeds and environments that the other lacks would turn the order.
        rows.append(row("none", 99.0, backbone=backbone, seed=2))
        rows.append(row("none", 99.0, backbone=backbone, seed=3, environment="gpu"))
        rows.append(row("a", 0.0, backbone=backbone, seed=3, environment="cpu"))
    found = ranks(frame(rows), "acc2")
    assert (found.methods, found.average, found.blocks) == (("a", "none"), (1.0, 2.0), 2)


def test_equal_methods_share_a_rank_and_stand_in_order_of_names():
    scores = world(("b", "a", "none"), backbones=("x", "y", "z"))
    found = ranks(scores.assign(value=0.5), "acc2")
    assert (found.methods, found.average) == (("a", "b", "none"), (2.0, 2.0, 2.0))
    assert (found.statistic, found.p, found.cliques) == (0.0, 1.0, (("a", "b", "none"),))


def test_without_a_rejection_all_methods_are_one_clique():
    # The first method always wins and the last always loses; those between take turns.
    between = np.arange(1.0, 9.0)
    values = [between, between[::-1], between]
    rows = [
        row(f"m{k}", value, backbone=f"b{block}", seed=seed)
        for block, part in enumerate(values)
        for k, value in enumerate([10.0, *part, 0.0])
        for seed in range(2)
    ]
    found = ranks(frame(rows), "acc2")
    assert found.average[-1] - found.average[0] > found.critical_difference
    assert found.p > 0.05
    assert found.cliques == (found.methods,)


def test_incomplete_blocks_are_left_out():
    scores = world(("a", "b", "none"), ("u", "v", "w"), datasets=("mosi",))
    holes = (scores["method"] == "b") & (scores["backbone"] == "w")
    scores.loc[holes, "value"] = NAN
    found = ranks(scores, "acc2")
    assert (found.blocks, found.left_out, found.dropped) == (2, 1, ())
    assert sorted(found.methods) == ["a", "b", "none"]


@pytest.mark.parametrize("kept", range(5))
def test_a_method_absent_from_most_blocks_is_dropped(kept):
    scores = world(("a", "b", "none"), tuple("stuvw"), datasets=("mosi",))
    gone = (scores["method"] == "a") & scores["backbone"].isin(list("stuvw")[kept:])
    found = ranks(scores.assign(value=scores["value"].where(~gone)), "acc2")
    if kept < 2.5:
        assert (found.dropped, found.blocks, found.left_out) == (("a",), 5, 0)
        assert sorted(found.methods) == ["b", "none"]
    else:
        assert (found.dropped, found.blocks, found.left_out) == ((), kept, 5 - kept)


def test_methods_of_another_environment_are_dropped_as_a_group():
    scores = world(("a", "b", "c", "x", "z"), ("u", "v"))
    scores.loc[scores["method"].isin(["a", "x"]), "environment"] = "gpu"
    found = ranks(scores, "acc2")
    assert (found.dropped, found.blocks, found.left_out) == (("a", "x"), 4, 0)


def test_a_method_that_shares_no_run_goes_before_one_that_is_often_absent():
    scores = world(("b", "none", "often", "x"), ("t", "u", "v", "w"), datasets=("mosi",))
    scores.loc[scores["method"] == "x", "environment"] = "gpu"
    gone = (scores["method"] == "often") & scores["backbone"].isin(["t", "u"])
    found = ranks(scores[~gone], "acc2")
    assert (found.dropped, found.blocks, found.left_out) == (("x",), 2, 2)


def test_of_equally_absent_methods_the_last_goes_first():
    scores = world(("a", "b", "none"), ("t", "u", "v", "w"), datasets=("mosi",))
    gone = ((scores["method"] == "a") & scores["backbone"].isin(["t", "u"])) | (
        (scores["method"] == "b") & scores["backbone"].isin(["v", "w"])
    )
    found = ranks(scores[~gone], "acc2")
    assert (found.dropped, found.blocks, found.left_out) == (("b",), 2, 2)


def test_two_methods_are_never_dropped_and_one_has_no_rank():
    scores = world(("a", "none"), ("t", "u", "v", "w"), datasets=("mosi",))
    found = ranks(scores[(scores["method"] == "a") | (scores["backbone"] == "t")], "acc2")
    assert (found.methods, found.dropped, found.blocks, found.left_out) == (("a", "none"), (), 1, 3)
    assert math.isnan(found.p)
    assert math.isnan(found.critical_difference)
    assert found.cliques == ()
    alone = ranks(scores.assign(value=scores["value"].where(scores["method"] == "a")), "acc2")
    assert (alone.methods, alone.dropped, alone.blocks, alone.left_out) == ((), ("none",), 0, 4)


def test_wins_count_backbones():
    spread = np.array([-0.1, 0.0, 0.1])
    parts = [of_gains(1 + spread, backbone=f"b{k}") for k in range(4)]
    parts += [of_gains(spread - 1, backbone=f"w{k}") for k in range(3)]
    parts += [of_gains(spread, backbone=f"i{k}") for k in range(2)]
    parts += [of_gains([1.0, 1.01], backbone="two"), of_gains([1.0] * 3, backbone="equal")]
    parts += [of_gains(spread - 1, dataset="sims"), of_gains(spread, method="b")]
    found = wins(intervals(pd.concat(parts)))
    assert list(found.columns) == list(WINS)
    assert found.to_numpy().tolist() == [
        ["mosi", "a", 4, 3, 2, 2],
        ["mosi", "b", 0, 0, 1, 0],
        ["sims", "a", 0, 1, 0, 0],
    ]


@pytest.mark.parametrize("metric", ["acc2", "mae"])
def test_improvement_is_that_of_the_matrices(metric):
    scores = world(("b", "none"), seeds=4).assign(metric=metric)
    # The first backbone of the first dataset lacks a run.
    scores = scores.drop(index=scores[(scores["method"] == "b")].index[0])
    found = only(improvement(scores, metric))
    tables = [
        scores[scores["method"] == name].pivot(index="seed", columns=["dataset", "backbone"], values="value")
        for name in ("b", "none")
    ]
    x, y = (table.to_numpy() * DIRECTION[metric] for table in tables)
    wanted = probability_of_improvement(x, y)
    assert (found["probability"], found["low"], found["high"]) == wanted
    assert (found["method"], found["tasks"], found["n"]) == ("b", 4, 15)


def test_improvement_takes_only_tasks_of_both_and_gives_no_interval_without_spread():
    scores = world(("a", "none"))
    scores = scores[(scores["method"] == "a") | (scores["dataset"] == "mosi")]
    found = only(improvement(scores, "acc2"))
    assert (found["probability"], found["tasks"], found["n"]) == (1.0, 2, 6)
    assert math.isnan(found["low"])
    assert math.isnan(found["high"])
    assert improvement(scores, "acc2", baseline="absent").empty


@pytest.mark.parametrize("empty", [pd.DataFrame(columns=list(SCORES)), world().iloc[:0]])
def test_no_scores_give_empty_frames_with_their_columns(empty):
    pairs = paired(clean(empty), "acc2")
    table = intervals(pairs)
    expected = [
        (clean(empty), SCORES),
        (pairs, PAIRS),
        (table, INTERVALS),
        (overall(pairs), ("dataset", *OVERALL)),
        (overall(pairs, ()), OVERALL),
        (wins(table), WINS),
        (improvement(empty, "acc2"), IMPROVEMENT),
    ]
    for found, columns in expected:
        assert found.empty
        assert list(found.columns) == list(columns)
    assert pairs.attrs == {"unpaired": 0, "environments": 0}
    assert not (table["low"] > 0).any()
    found = ranks(empty, "acc2")
    assert (found.methods, found.blocks, found.left_out, found.dropped) == ((), 0, 0, ())


def test_a_study_without_the_baseline_has_no_pairs():
    found = paired(world(("a", "b")), "acc2")
    assert found.empty
    assert found.attrs == {"unpaired": 24, "environments": 0}
    assert paired(world(("none",)), "acc2").attrs == {"unpaired": 0, "environments": 0}


@pytest.mark.parametrize("call", [paired, ranks, improvement])
def test_wrong_scores_are_refused(call):
    with pytest.raises(UserError, match=r"Unknown metric 'acc22'.*Did you mean 'acc2'"):
        call(world(), "acc22")
    with pytest.raises(ValueError, match="scores lack environment; they have"):
        call(world().drop(columns="environment"), "acc2")
    mixed = frame([row("a", 1.0), row("a", 1.0, occlusion_ratio=0.3)])
    with pytest.raises(ValueError, match=r"one occlusion protocol and ratio.*\['test', 0.3\]"):
        call(mixed, "acc2")
    with pytest.raises(ValueError, match=r"scores must name.*environment"):
        call(frame([row("a", 1.0, environment=None)]), "acc2")


def test_wrong_tables_are_refused():
    with pytest.raises(ValueError, match="pairs lack gain"):
        intervals(of_gains([1.0]).drop(columns="gain"))
    with pytest.raises(ValueError, match="pairs lack seed"):
        overall(of_gains([1.0]).drop(columns="seed"))
    with pytest.raises(ValueError, match="intervals lack n, gain"):
        wins(of_gains([1.0]).drop(columns="gain"))
    with pytest.raises(ValueError, match="scores lack occlusion_ratio"):
        clean(world().drop(columns="occlusion_ratio"))


def test_the_given_frames_stay_as_they_are():
    scores = world()
    before = scores.copy()
    pairs = paired(clean(scores), "acc2")
    pairs_before = pairs.copy()
    intervals(pairs), overall(pairs), ranks(scores, "acc2"), improvement(scores, "mae")
    pd.testing.assert_frame_equal(scores, before)
    pd.testing.assert_frame_equal(pairs, pairs_before)


def test_marks_are_false_alarms_in_one_of_twenty_cases():
    rng = np.random.default_rng(5)
    pairs = pd.concat([of_gains(rng.normal(size=3), backbone=f"b{k:03}") for k in range(600)])
    found = intervals(pairs)
    # Binomial, 600 at 5%: 30, and outside of 14..48 once in 1,000.
    assert 14 <= (found["outside"] != "").sum() <= 48
    parts = [of_gains(rng.normal(size=3), f"m{m:03}", backbone=f"b{k}") for m in range(200) for k in range(3)]
    # 200 at 5%: 10.
    assert 2 <= (overall(pd.concat(parts))["outside"] != "").sum() <= 22

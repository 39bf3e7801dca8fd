"""Average ranks, their test and cliques: scipy, the tables of Demsar, all sets, and worlds of few methods."""

import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import friedmanchisquare

from harness.metrics import DIRECTION
from reports.stats import ranking
from reports.stats.ranking import Ranks, cliques, friedman, nemenyi_difference, ranks
from tests.support.scores import score, scores_of, world

SCORES = st.lists(st.lists(st.integers(0, 4), min_size=4, max_size=4), min_size=2, max_size=8)


@given(scores=SCORES.filter(lambda rows: any(len(set(row)) > 1 for row in rows)))
def test_friedman_equals_that_of_scipy_and_ranks_equal_counting(scores):
    average, statistic, p = friedman(np.array(scores, float))
    wanted = friedmanchisquare(*np.array(scores).T)
    assert (statistic, p) == pytest.approx((wanted.statistic, wanted.pvalue), abs=1e-12)
    for method in range(4):
        ahead = [sum(x > row[method] for x in row) for row in scores]
        equal = [sum(x == row[method] for x in row) for row in scores]
        mean = statistics.fmean(a + (e + 1) / 2 for a, e in zip(ahead, equal, strict=True))
        assert average[method] == pytest.approx(mean)


def test_sums_in_another_order_are_ties_and_two_methods_have_the_squared_sign_test():
    for scores, wanted in (
        ([0.1 + 0.2, 0.3, 0.9], [2.5, 2.5, 1.0]),
        ([1e9 + 1e-7, 1e9, 0.0], [1.5, 1.5, 3.0]),
        ([0.0, 0.0, 0.0], [2.0, 2.0, 2.0]),
        ([-3e-9, -1e-9, -2e-9], [3.0, 1.0, 2.0]),
    ):
        average, statistic, p = friedman(np.array([scores]))
        assert average.tolist() == wanted
        assert np.isnan([statistic, p]).all(), "one block is not tested"
    scores = np.array([[1.0, 2], [3, 1], [5, 1], [5, 2], [9, 3]])
    assert friedman(scores)[1] == pytest.approx((4 - 1) ** 2 / 5)


def test_nemenyi_equals_the_table_of_demsar(monkeypatch):
    table = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]
    for methods, q in enumerate(table, start=2):
        blocks = 7 * methods
        wanted = q * math.sqrt(methods * (methods + 1) / (6 * blocks))
        assert nemenyi_difference(methods, blocks) == pytest.approx(wanted, rel=6e-4)
    # The example in section 3.2.4 of the paper.
    assert nemenyi_difference(4, 14) == pytest.approx(1.25, abs=0.01)
    monkeypatch.setattr(ranking, "LEVEL", 0.1)
    assert nemenyi_difference(4, 14) == pytest.approx(1.12, abs=0.01)


@given(
    average=st.lists(st.sampled_from([1, 1.5, 2, 2.25, 3, 4, 5.5]), min_size=1, max_size=7).map(sorted),
    steps=st.integers(1, 9),
)
def test_cliques_equal_a_search_of_all_sets(average, steps):
    """Sets of two methods or more that fit into the difference and into no larger such set."""
    fitting = [
        set(group)
        for size in range(2, len(average) + 1)
        for group in itertools.combinations(range(len(average)), size)
        if all(abs(average[a] - average[b]) < steps / 2 for a in group for b in group)
    ]
    wanted = [sorted(group) for group in fitting if not any(group < other for other in fitting)]
    assert [list(group) for group in cliques(np.array(average), steps / 2)] == sorted(wanted)


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
    best, farthest = (0, -1) if metric == "acc2" else (-1, 0)
    assert found.methods[best] == "a"
    assert tuple(name for name in found.methods if name != "a") in found.cliques
    assert not any({"a", found.methods[farthest]} <= set(group) for group in found.cliques)


def test_ranks_use_only_runs_that_all_methods_have():
    rows = []
    for backbone in ("misa", "mult"):
        for seed in range(2):
            rows += [score(m, v, backbone=backbone, seed=seed) for m, v in (("a", 2.0 + seed), ("none", 1.0))]
        # Seeds and environments that the other lacks would turn the order.
        rows.append(score("none", 99.0, backbone=backbone, seed=2))
        rows.append(score("none", 99.0, backbone=backbone, seed=3, environment="gpu"))
        rows.append(score("a", 0.0, backbone=backbone, seed=3, environment="cpu"))
    found = ranks(scores_of(rows), "acc2")
    assert (found.methods, found.average, found.blocks) == (("a", "none"), (1.0, 2.0), 2)
    # Equal methods share a rank and stand in the order of names.
    scores = world(("b", "a", "none"), backbones=("x", "y", "z"))
    found = ranks(scores.assign(value=0.5), "acc2")
    assert (found.methods, found.average) == (("a", "b", "none"), (2.0, 2.0, 2.0))
    assert (found.statistic, found.p, found.cliques) == (0.0, 1.0, (("a", "b", "none"),))


def test_without_a_rejection_all_methods_are_one_clique_and_without_a_test_there_is_none():
    # The first method always wins and the last always loses; those between take turns.
    between = np.arange(1.0, 9.0)
    rows = [
        score(f"m{k}", value, backbone=f"b{block}", seed=seed)
        for block, part in enumerate([between, between[::-1], between])
        for k, value in enumerate([10.0, *part, 0.0])
        for seed in range(2)
    ]
    found = ranks(scores_of(rows), "acc2")
    assert found.average[-1] - found.average[0] > found.critical_difference
    assert found.p > 0.05
    assert found.cliques == (found.methods,)
    # One seed is ranked and not tested.
    found = ranks(world(seeds=1), "acc2")
    assert (found.blocks, found.methods[0], found.cliques) == (4, "a", ())
    assert np.isnan([found.statistic, found.p, found.critical_difference]).all()


def test_two_blocks_are_tested_and_many_equal_methods_stand_in_the_order_of_names():
    found = ranks(world(datasets=("mosi",)), "acc2")
    assert found.blocks == 2
    assert 0 < found.p < 1
    assert found.critical_difference == pytest.approx(nemenyi_difference(3, 2))
    names = tuple(f"m{k:03}" for k in range(120))
    rows = [score(name, 0.5 + (k % 2), seed=seed) for k, name in enumerate(names) for seed in range(2)]
    assert ranks(scores_of(rows), "acc2").methods == names[1::2] + names[::2]


def of_mosi(methods, backbones, *gone):
    """A world of one data set; ``gone``: (method, backbones) without a defined value."""
    scores = world(methods, backbones, datasets=("mosi",))
    for method, places in gone:
        scores.loc[(scores["method"] == method) & scores["backbone"].isin(list(places)), "value"] = math.nan
    return scores


@pytest.mark.parametrize(
    ("backbones", "gone", "dropped", "blocks", "left_out"),
    [
        ("uvw", [("b", "w")], (), 2, 1),
        ("stuvw", [("a", "stuvw")], ("a",), 5, 0),
        ("stuvw", [("a", "uvw")], ("a",), 5, 0),
        ("stuvw", [("a", "vw")], (), 3, 2),
        ("tuvw", [("a", "tu"), ("b", "vw")], ("b",), 2, 2),  # the last by name
    ],
)
def test_a_method_absent_from_most_blocks_is_dropped_and_else_the_blocks(
    backbones, gone, dropped, blocks, left_out
):
    found = ranks(of_mosi(("a", "b", "none"), backbones, *gone), "acc2")
    assert (found.dropped, found.blocks, found.left_out) == (dropped, blocks, left_out)
    assert sorted(found.methods) == sorted({"a", "b", "none"} - set(dropped))


def test_methods_that_share_no_run_are_dropped_as_a_group_and_before_one_that_is_often_absent():
    scores = world(("a", "b", "c", "x", "z"), ("u", "v"))
    scores.loc[scores["method"].isin(["a", "x"]), "environment"] = "gpu"
    found = ranks(scores, "acc2")
    assert (found.dropped, found.blocks, found.left_out) == (("a", "x"), 4, 0)
    scores = of_mosi(("b", "none", "often", "x"), "tuvw", ("often", "tu"))
    scores.loc[scores["method"] == "x", "environment"] = "gpu"
    found = ranks(scores, "acc2")
    assert (found.dropped, found.blocks, found.left_out) == (("x",), 2, 2)


def test_two_methods_are_never_dropped_and_one_has_no_rank():
    scores = of_mosi(("a", "none"), "tuvw", ("none", "uvw"))
    found = ranks(scores, "acc2")
    assert (found.methods, found.dropped, found.blocks, found.left_out) == (("a", "none"), (), 1, 3)
    assert np.isnan([found.p, found.critical_difference]).all()
    assert found.cliques == ()
    alone = ranks(of_mosi(("a", "none"), "tuvw", ("none", "tuvw")), "acc2")
    assert (alone.methods, alone.dropped, alone.blocks, alone.left_out) == ((), ("none",), 0, 4)
    assert ranks(scores.iloc[:0], "acc2") == Ranks(0, 0, ())

"""Summaries, intervals and ranks: other libraries, closed forms, slow loops, and properties."""

import itertools
import math
import statistics

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import friedmanchisquare, mannwhitneyu, norm, ttest_1samp
from scipy.stats import t as student

from reports.stats.intervals import (
    COLUMNS,
    bootstrap_interval,
    check_frame,
    cliques,
    friedman,
    nemenyi_difference,
    performance_profile,
    probability_of_improvement,
    stratified_interval,
    summarise,
    t_interval,
)

VALUES = st.lists(st.floats(-10, 10), min_size=2, max_size=8)


@given(defined=VALUES, holes=st.integers(0, 3))
@settings(deadline=None)
def test_summary_equals_the_standard_library(defined, holes):
    summary = summarise(np.array(defined + [math.nan] * holes))
    assert summary.mean == pytest.approx(statistics.fmean(defined), abs=1e-12)
    assert summary.std == pytest.approx(statistics.stdev(defined), abs=1e-12)
    assert (summary.n, summary.n_undefined) == (len(defined), holes)


def test_one_value_has_no_spread_and_none_has_no_mean():
    one = summarise(np.array([0.5, math.nan]))
    assert (one.mean, one.n, one.n_undefined) == (0.5, 1, 1)
    assert math.isnan(one.std)
    for nothing in (np.array([]), np.array([math.nan])):
        summary = summarise(nothing)
        assert summary.n == 0
        assert math.isnan(summary.mean)
        assert math.isnan(summary.std)


@pytest.mark.parametrize("values", [[], [0.5], [math.nan, 0.5], [math.nan, math.nan]])
def test_no_interval_from_less_than_two_values(values):
    assert all(math.isnan(bound) for bound in bootstrap_interval(np.array(values)))


@given(values=VALUES, seed=st.integers(0, 9))
@settings(deadline=None, max_examples=40)
def test_interval_lies_within_the_values_and_ignores_their_order(values, seed):
    low, high = bootstrap_interval(np.array(values), resamples=200, seed=seed)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    assert (low, high) == bootstrap_interval(np.array(values[::-1]), resamples=200, seed=seed)


@given(values=VALUES, shift=st.floats(-5, 5), scale=st.floats(0.1, 5))
@settings(deadline=None, max_examples=40)
def test_interval_moves_with_the_values(values, shift, scale):
    low, high = bootstrap_interval(np.array(values), resamples=200)
    moved = bootstrap_interval(np.array(values) * scale + shift, resamples=200)
    assert moved == pytest.approx((low * scale + shift, high * scale + shift), abs=1e-9)


def test_equal_values_give_an_interval_of_no_width():
    assert bootstrap_interval(np.array([0.25, 0.25, 0.25])) == (0.25, 0.25)


def test_more_confidence_means_a_wider_interval():
    values = np.array([0.1, 0.3, 0.35, 0.4, 0.9])
    wide, narrow = bootstrap_interval(values, 0.99), bootstrap_interval(values, 0.5)
    assert wide[0] < narrow[0] < values.mean() < narrow[1] < wide[1]


def test_undefined_values_are_left_out():
    with_hole = bootstrap_interval(np.array([0.1, math.nan, 0.4, 0.2]))
    assert with_hole == bootstrap_interval(np.array([0.1, 0.4, 0.2]))


def test_interval_equals_a_bootstrap_written_as_a_loop():
    values = [0.1, 0.4, 0.2, 0.9]
    generator = np.random.default_rng(7)
    means = sorted(
        statistics.fmean(values[generator.integers(len(values))] for _ in values) for _ in range(4000)
    )
    low, high = bootstrap_interval(np.array(values))
    # Two independent sets of resamples: the bounds differ by sampling error only.
    assert low == pytest.approx(means[100], abs=0.03)
    assert high == pytest.approx(means[3899], abs=0.03)


@pytest.mark.parametrize("arguments", [{"confidence": 1.0}, {"confidence": 0.0}, {"resamples": 0}])
def test_senseless_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}.*however"):
        bootstrap_interval(np.array([1.0, 2.0]), **arguments)


def test_frame_must_have_its_columns():
    check_frame(pd.DataFrame(columns=COLUMNS))
    with pytest.raises(ValueError, match="value, run_id"):
        check_frame(pd.DataFrame(columns=[name for name in COLUMNS if name not in ("value", "run_id")]))


@pytest.mark.parametrize("column", ["value", "occlusion_ratio"])
def test_numbers_must_be_numbers(column):
    row = dict.fromkeys(COLUMNS, 0.5)
    check_frame(pd.DataFrame([row]))
    with pytest.raises(ValueError, match=f"'{column}'.*numbers"):
        check_frame(pd.DataFrame([{**row, column: "0.5"}]))


@given(values=VALUES.filter(lambda values: len(set(values)) > 1), confidence=st.floats(0.5, 0.99))
@settings(deadline=None, max_examples=50)
def test_t_interval_equals_that_of_scipy(values, confidence):
    wanted = ttest_1samp(values, 0).confidence_interval(confidence)
    assert t_interval(np.array([*values, math.nan]), confidence) == pytest.approx(tuple(wanted), abs=1e-9)


def test_t_interval_of_two_values_in_closed_form():
    # With one degree of freedom Student's t is Cauchy's distribution.
    low, high = t_interval(np.array([1.0, 3.0]), 0.9)
    assert (low, high) == pytest.approx((2 - math.tan(0.45 * math.pi), 2 + math.tan(0.45 * math.pi)))
    assert t_interval(np.array([0.5, 0.5, 0.5])) == (0.5, 0.5)


@pytest.mark.parametrize("values", [[], [0.5], [math.nan, 0.5], [math.inf, 0.5]])
def test_no_t_interval_from_less_than_two_values(values):
    assert all(math.isnan(bound) for bound in t_interval(np.array(values)))


STRATA = st.lists(st.lists(st.floats(-10, 10), min_size=1, max_size=5), min_size=1, max_size=4)
# Whole numbers are moved without rounding, so that the order of strata stays as it is.
STRATA_OF_WHOLES = st.lists(st.lists(st.integers(-9, 9), min_size=1, max_size=5), min_size=1, max_size=4)


def long(parts):
    """Values and the names of their strata."""
    return np.array([x for part in parts for x in part]), [k for k, part in enumerate(parts) for _ in part]


def test_stratified_interval_equals_a_bootstrap_written_as_a_loop():
    parts = [[0.1, 0.4, 0.2, 0.9], [1.2, 1.0], [3.0]]
    generator = np.random.default_rng(7)
    growth = student.ppf(0.975, 4) / norm.ppf(0.975)
    resampled = []
    for _ in range(6000):
        total = 0.0
        for part in parts:
            drawn = statistics.fmean(part[generator.integers(len(part))] for _ in part)
            grown = math.sqrt(len(part) / max(len(part) - 1, 1)) * growth
            total += statistics.fmean(part) + grown * (drawn - statistics.fmean(part))
        resampled.append(total / 3)
    resampled.sort()
    low, high = stratified_interval(*long(parts))
    # Two independent sets of resamples: the bounds differ by sampling error only.
    assert low == pytest.approx(resampled[150], abs=0.03)
    assert high == pytest.approx(resampled[5849], abs=0.03)


@given(parts=STRATA, seed=st.integers(0, 9), order=st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=50)
def test_stratified_interval_ignores_the_order_of_rows_and_names(parts, seed, order):
    wanted = stratified_interval(*long(parts), resamples=99, seed=seed)
    rows = [(x, ("name", -k)) for x, k in zip(*long(parts), strict=True)]
    order.shuffle(rows)
    values, names = zip(*rows, strict=True)
    found = stratified_interval(np.array(values), names, resamples=99, seed=seed)
    np.testing.assert_array_equal(found, wanted)


@given(parts=STRATA_OF_WHOLES, shift=st.integers(-5, 5), scale=st.sampled_from([0.5, 2, 8]))
@settings(deadline=None, max_examples=50)
def test_stratified_interval_moves_with_the_values(parts, shift, scale):
    values, strata = long(parts)
    bounds = np.array(stratified_interval(values, strata, resamples=99))
    moved = stratified_interval(values * scale + shift, strata, resamples=99)
    np.testing.assert_allclose(moved, bounds * scale + shift, atol=1e-9)


def test_each_stratum_weighs_the_same_and_a_lone_value_has_no_noise():
    lone = stratified_interval(np.array([1.0, 2.0, 3.0]), "aaa")
    with_lone = stratified_interval(np.array([1.0, 2.0, 3.0, 10.0]), "aaab")
    assert with_lone == pytest.approx([(bound + 10) / 2 for bound in lone])
    # 20 values near 0 weigh as much as 10 values near 1.
    uneven = stratified_interval(
        np.r_[np.linspace(-0.1, 0.1, 20), np.linspace(0.9, 1.1, 10)], "a" * 20 + "b" * 10
    )
    assert statistics.fmean(uneven) == pytest.approx(0.5, abs=0.01)


def test_seeds_stay_within_their_stratum():
    # Between the strata lies a gap of 100, within each there is no spread.
    assert stratified_interval(np.array([0.0, 0.0, 100.0, 100.0]), "aabb") == (50.0, 50.0)


@pytest.mark.parametrize(
    "values", [[], [0.5], [0.5, 0.7], [math.nan, 0.5, 0.7], [math.nan] * 3, [0.5, math.inf]]
)
def test_no_stratified_interval_without_two_values_in_a_stratum(values):
    strata = ["a", "b", "b"] if len(values) == 3 else ["a", "b"][: len(values)]
    values = np.where([name == "b" for name in strata], math.nan, values) if len(values) == 3 else values
    assert all(math.isnan(bound) for bound in stratified_interval(np.array(values), strata))


def test_undefined_values_leave_their_stratum():
    with_holes = stratified_interval(np.array([0.1, math.nan, 0.4, 0.2, 0.3, math.inf, math.nan]), "aaabbbc")
    assert with_holes == stratified_interval(np.array([0.1, 0.4, 0.2, 0.3]), "aabb")


@pytest.mark.parametrize("strata", [["a"], ["a", None], ["a", math.nan], []])
def test_each_value_needs_a_stratum(strata):
    with pytest.raises(ValueError, match=r"strata must name one.*however"):
        stratified_interval(np.array([1.0, 2.0]), strata)


@pytest.mark.parametrize("arguments", [{"confidence": 1.0}, {"confidence": 0.0}, {"resamples": 0}])
def test_senseless_resampling_is_refused_everywhere(arguments):
    table = np.ones((2, 2))
    for call in (
        lambda: stratified_interval(np.ones(2), "aa", **arguments),
        lambda: probability_of_improvement(table, table, **arguments),
        lambda: performance_profile(table, np.zeros(1), **arguments),
    ):
        with pytest.raises(ValueError, match=f"{next(iter(arguments))}.*however"):
            call()


@pytest.mark.parametrize("sizes", [(3,), (5,), (3, 3), (2, 2, 2, 2, 2), (3, 3, 3, 3, 3), (5, 5, 5, 2, 1)])
def test_stratified_interval_covers_the_mean_in_95_of_100_cases(sizes):
    rng = np.random.default_rng(11)
    strata = [k for k, size in enumerate(sizes) for _ in range(size)]
    covered = 0
    for _ in range(400):
        # The lone value has no noise, as the interval takes for granted.
        values = np.array([rng.normal() * (sizes[k] > 1) + 7 * k for k in strata])
        low, high = stratified_interval(values, strata, resamples=400)
        covered += low <= 7 * (len(sizes) - 1) / 2 <= high
    # Binomial, 400 at 95%: 380, and outside of 366..394 once in 1,000; few values cost one in 100.
    assert 364 <= covered <= 394


SCORES = st.lists(st.lists(st.integers(0, 4), min_size=4, max_size=4), min_size=2, max_size=8)


@given(scores=SCORES.filter(lambda rows: any(len(set(row)) > 1 for row in rows)), higher=st.booleans())
@settings(deadline=None, max_examples=60)
def test_friedman_equals_that_of_scipy_and_ranks_equal_counting(scores, higher):
    found = friedman(np.array(scores), higher)
    wanted = friedmanchisquare(*np.array(scores).T)
    assert (found.statistic, found.p) == pytest.approx((wanted.statistic, wanted.pvalue), abs=1e-12)
    for method in range(4):
        ahead = [sum((x > row[method]) if higher else (x < row[method]) for x in row) for row in scores]
        equal = [sum(x == row[method] for x in row) for row in scores]
        mean = statistics.fmean(a + (e + 1) / 2 for a, e in zip(ahead, equal, strict=True))
        assert found.average_ranks[method] == pytest.approx(mean)


@pytest.mark.parametrize("higher", [True, False])
def test_sums_in_another_order_are_ties(higher):
    scores = np.array([[0.1 + 0.2, 0.3, 0.9], [1e9 + 1e-7, 1e9, 0.0], [0.0, 0.0, 0.0], [-3e-9, -1e-9, -2e-9]])
    ranks = [friedman(row[None], higher).average_ranks.tolist() for row in scores]
    ends = (2.5, 1.0) if higher else (1.5, 3.0)
    others = (1.5, 3.0) if higher else (2.5, 1.0)
    assert ranks[0] == [ends[0], ends[0], ends[1]]
    assert ranks[1] == [others[0], others[0], others[1]]
    assert ranks[2] == [2.0, 2.0, 2.0]
    assert ranks[3] == ([3.0, 1.0, 2.0] if higher else [1.0, 3.0, 2.0])


def test_friedman_has_nothing_to_test_with_one_block_or_method():
    for scores in (np.array([[1.0, 2.0, 3.0]]), np.array([[1.0], [2.0]])):
        found = friedman(scores)
        assert math.isnan(found.statistic)
        assert math.isnan(found.p)
        assert sorted(found.average_ranks) == list(range(1, scores.shape[1] + 1))
    tied = friedman(np.ones((5, 3)))
    assert (tied.statistic, tied.p) == (0.0, 1.0)


def test_friedman_of_two_methods_is_the_squared_sign_test():
    scores = np.array([[1, 2], [3, 1], [5, 1], [5, 2], [9, 3]])
    assert friedman(scores).statistic == pytest.approx((4 - 1) ** 2 / 5)


@pytest.mark.parametrize("scores", [np.ones(3), np.ones((0, 3)), [[1.0, math.nan]], [[1.0, math.inf]]])
def test_friedman_needs_complete_blocks(scores):
    with pytest.raises(ValueError, match=r"scores must.*however"):
        friedman(scores)


def test_nemenyi_equals_the_table_of_demsar():
    table = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]
    for methods, q in enumerate(table, start=2):
        blocks = 7 * methods
        wanted = q * math.sqrt(methods * (methods + 1) / (6 * blocks))
        assert nemenyi_difference(methods, blocks) == pytest.approx(wanted, rel=6e-4)
    # The example in section 3.2.4 of the paper.
    assert nemenyi_difference(4, 14) == pytest.approx(1.25, abs=0.01)
    assert nemenyi_difference(4, 14, 0.1) == pytest.approx(1.12, abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [((1, 5), "methods"), ((3, 0), "blocks"), ((3, 5, 0.0), "alpha"), ((3, 5, 1.0), "alpha")],
)
def test_nemenyi_refuses_senseless_numbers(arguments, name):
    with pytest.raises(ValueError, match=rf"{name} must.*however"):
        nemenyi_difference(*arguments)


def slow_cliques(ranks, difference):
    """All sets of two methods or more that fit into the difference and into no larger such set."""
    fitting = [
        set(group)
        for size in range(2, len(ranks) + 1)
        for group in itertools.combinations(range(len(ranks)), size)
        if all(abs(ranks[a] - ranks[b]) < difference for a in group for b in group)
    ]
    return [group for group in fitting if not any(group < other for other in fitting)]


@given(
    ranks=st.lists(st.sampled_from([1, 1.5, 2, 2.25, 3, 4, 5.5]), min_size=1, max_size=7),
    steps=st.integers(1, 9),
)
@settings(deadline=None)
def test_cliques_equal_a_search_of_all_sets(ranks, steps):
    difference = steps / 2
    found = cliques(np.array(ranks), difference)
    assert sorted(map(sorted, found)) == sorted(map(sorted, slow_cliques(ranks, difference)))
    assert all([ranks[k] for k in group] == sorted(ranks[k] for k in group) for group in found)
    assert [ranks[group[0]] for group in found] == sorted(ranks[group[0]] for group in found)


@pytest.mark.parametrize("difference", [0.0, -1.0, math.nan])
def test_cliques_need_a_difference(difference):
    with pytest.raises(ValueError, match="difference must be a positive number, however"):
        cliques(np.array([1.0, 2.0]), difference)


def test_improvement_equals_counting_of_pairs_and_the_u_of_mann_and_whitney():
    rng = np.random.default_rng(12)
    x, y = rng.integers(0, 5, size=(4, 3)).astype(float), rng.integers(0, 4, size=(6, 3)).astype(float)
    x[1, 0] = y[2, 1] = y[5, 1] = math.nan
    found = probability_of_improvement(x, y)[0]
    chances, us = [], []
    for k in range(3):
        a, b = x[np.isfinite(x[:, k]), k], y[np.isfinite(y[:, k]), k]
        chances.append(statistics.fmean((p > q) + (p == q) / 2 for p in a for q in b))
        us.append(mannwhitneyu(a, b).statistic / len(a) / len(b))
    assert found == pytest.approx(statistics.fmean(chances))
    assert found == pytest.approx(statistics.fmean(us))


def test_interval_of_improvement_equals_a_bootstrap_written_as_a_loop():
    rng = np.random.default_rng(13)
    x, y = rng.normal(0.5, size=(4, 2)), rng.normal(size=(3, 2))
    generator, resampled = np.random.default_rng(7), []
    for _ in range(4000):
        chances = []
        for k in range(2):
            a = [x[generator.integers(4), k] for _ in range(4)]
            b = [y[generator.integers(3), k] for _ in range(3)]
            chances.append(statistics.fmean(float(p > q) for p in a for q in b))
        resampled.append(statistics.fmean(chances))
    resampled.sort()
    chance, low, high = probability_of_improvement(x, y)
    assert low < chance < high
    assert low == pytest.approx(resampled[100], abs=0.03)
    assert high == pytest.approx(resampled[3899], abs=0.03)
    assert statistics.fmean(resampled) == pytest.approx(chance, abs=0.01)


@given(seed=st.integers(0, 99), shift=st.integers(-5, 5))
@settings(deadline=None, max_examples=30)
def test_improvement_ignores_orders_and_levels_and_turns_with_the_sides(seed, shift):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 5, size=(3, 4)).astype(float), rng.integers(0, 5, size=(2, 4)).astype(float)
    chance, low, high = probability_of_improvement(x, y, resamples=300)
    assert 0 <= low <= high <= 1
    tasks, runs = rng.permutation(4), rng.permutation(3)
    assert probability_of_improvement(x[runs][:, tasks], y[:, tasks], resamples=300) == (chance, low, high)
    levels = shift * np.arange(4)
    # The order of tasks changes, and with it the draws and the last bits.
    moved = probability_of_improvement(x + levels, y + levels, resamples=300)
    assert moved[0] == pytest.approx(chance)
    assert moved[1:] == pytest.approx((low, high), abs=0.1)
    turned = probability_of_improvement(y, x, resamples=300)
    assert turned[0] == pytest.approx(1 - chance)
    assert probability_of_improvement(np.exp(x), np.exp(y), resamples=300) == (chance, low, high)


def test_improvement_with_little_to_go_on():
    nan = math.nan
    one = probability_of_improvement(np.array([[1.0, 2.0]]), np.array([[0.0, 2.0], [0.0, 2.0]]))
    assert one[0] == 0.75
    assert all(map(math.isnan, one[1:]))
    assert all(map(math.isnan, probability_of_improvement(np.full((2, 3), nan), np.ones((2, 3)))))
    assert all(map(math.isnan, probability_of_improvement(np.ones((2, 0)), np.ones((2, 0)))))
    # The task without a run of y is no task.
    found = probability_of_improvement(np.array([[1.0, 9.0], [3.0, 9.0]]), np.array([[2.0, nan], [2.0, nan]]))
    assert found == probability_of_improvement(np.array([[1.0], [3.0]]), np.array([[2.0], [2.0]]))
    assert probability_of_improvement(np.full((2, 3), 1.0), np.zeros((2, 3))) == (1.0, 1.0, 1.0)


def test_improvement_needs_matrices_of_the_same_tasks():
    with pytest.raises(ValueError, match="same tasks, however: 2 and 3"):
        probability_of_improvement(np.ones((2, 2)), np.ones((2, 3)))
    with pytest.raises(ValueError, match="y must have two dimensions"):
        probability_of_improvement(np.ones((2, 2)), np.ones(2))


def test_profile_equals_counting_and_its_band_a_bootstrap_written_as_a_loop():
    scores = np.array([[0.1, 0.8], [0.5, 0.6], [0.9, math.nan]])
    taus = np.array([0.0, 0.5, 0.7, 1.0])
    shares, low, high = performance_profile(scores, taus)
    np.testing.assert_allclose(shares, [1.0, (2 / 3 + 1) / 2, (1 / 3 + 1 / 2) / 2, 0.0])
    generator, resampled = np.random.default_rng(7), []
    for _ in range(4000):
        first = [[0.1, 0.5, 0.9][generator.integers(3)] for _ in range(3)]
        second = [[0.8, 0.6][generator.integers(2)] for _ in range(2)]
        resampled.append([statistics.fmean(x >= 0.7 for x in part) for part in (first, second)])
    means = sorted(map(statistics.fmean, resampled))
    assert low[2] == pytest.approx(means[100], abs=0.05)
    assert high[2] == pytest.approx(means[3899], abs=0.05)
    assert (low[0], high[0], low[3], high[3]) == (1, 1, 0, 0)


@given(seed=st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_profile_falls_within_its_band_whatever_the_order(seed):
    rng = np.random.default_rng(seed)
    scores, taus = rng.normal(size=(4, 3)), np.linspace(-2, 2, 9)
    shares, low, high = performance_profile(scores, taus, resamples=300)
    assert (np.diff(shares) <= 0).all()
    assert ((low >= 0) & (low <= shares) & (shares <= high) & (high <= 1)).all()
    again = performance_profile(scores[rng.permutation(4)][:, rng.permutation(3)], taus, resamples=300)
    np.testing.assert_array_equal(again, (shares, low, high))


def test_profile_with_little_to_go_on():
    shares, low, high = performance_profile(np.array([[0.2, 0.4]]), np.array([0.3, 0.4]))
    assert shares.tolist() == [0.5, 0.5]
    assert np.isnan([low, high]).all()
    for nothing in (np.full((2, 2), math.nan), np.ones((0, 2)), np.ones((2, 0))):
        assert np.isnan(performance_profile(nothing, np.array([0.5]))).all()
    with pytest.raises(ValueError, match="scores must have two dimensions"):
        performance_profile(np.ones(3), np.zeros(1))

"""Summaries, intervals and the permutation test: properties, closed forms, and slow loops."""

import itertools
import math
import statistics

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import f as f_distribution
from scipy.stats import ttest_1samp, ttest_rel
from statsmodels.stats.anova import AnovaRM

from reports.stats import (
    COLUMNS,
    bootstrap_interval,
    check_frame,
    identical_columns,
    permutation_p,
    smallest_p,
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


def two_way_f(rows):
    """F of settings in the two-way layout without interaction, by its definition."""
    seeds, columns = len(rows), len(rows[0])
    grand = statistics.fmean(x for row in rows for x in row)
    seed_means = [statistics.fmean(row) for row in rows]
    setting_means = [statistics.fmean(row[k] for row in rows) for k in range(columns)]
    between = seeds * sum((mean - grand) ** 2 for mean in setting_means)
    rest = sum(
        (rows[s][k] - seed_means[s] - setting_means[k] + grand) ** 2
        for s in range(seeds)
        for k in range(columns)
    )
    freedom = (columns - 1) * (seeds - 1)
    return math.inf if rest < 1e-12 else (between / (columns - 1)) / (rest / freedom)


def slow_p(rows):
    """The share of all arrangements within all seeds whose F is at least as large."""
    reached = total = 0
    for arrangement in itertools.product(*(itertools.permutations(row) for row in rows)):
        total += 1
        reached += two_way_f(arrangement) >= two_way_f(rows) * (1 - 1e-9)
    return reached / total


@pytest.mark.parametrize("shape", [(2, 2), (2, 3), (3, 2), (2, 4), (3, 3), (4, 2), (6, 2)])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("whole", [False, True])
def test_exact_p_equals_all_arrangements_written_as_a_loop(shape, seed, whole):
    rng = np.random.default_rng(seed)
    # Whole numbers make many arrangements tie.
    values = rng.integers(0, 3, size=shape) + np.arange(shape[1]) if whole else rng.normal(size=shape)
    assert permutation_p(values) == pytest.approx(slow_p(values.tolist()))


@given(seed=st.integers(0, 99), shift=st.floats(-1e3, 1e3), scale=st.sampled_from([-2.0, 1e-200, 1e200]))
@settings(deadline=None, max_examples=30)
def test_p_ignores_levels_of_seeds_and_scale_and_order(seed, shift, scale):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(3, 4))
    p = permutation_p(values)
    assert permutation_p(values + shift * np.arange(3)[:, None]) == p
    assert permutation_p(values * scale) == p
    assert permutation_p(values[rng.permutation(3)][:, rng.permutation(4)]) == p


def test_random_arrangements_come_close_to_all():
    rng = np.random.default_rng(3)
    for shape in ((2, 6), (3, 4), (5, 3)):
        values = rng.normal(size=shape) + np.linspace(0, 1.5, shape[1])
        exact = permutation_p(values)
        drawn = [permutation_p(values, draws=500, seed=seed) for seed in range(4)]
        assert 0 < exact < 0.9
        # Four sets of 500: standard error below 0.012.
        assert statistics.fmean(drawn) == pytest.approx(exact, abs=0.045)
        assert len(set(drawn)) > 1
        assert drawn[0] == permutation_p(values, draws=500)


def test_random_arrangements_never_give_zero():
    values = np.arange(12.0) + np.array([[0.0], [5.0], [1.0]])
    assert permutation_p(values) == 1 / 10_000
    assert permutation_p(values, draws=99) == 1 / 100


@pytest.mark.parametrize("shape", [(5, 6), (3, 8)])
def test_p_is_close_to_the_parametric_one_for_normal_noise(shape):
    seeds, columns = shape
    for seed in range(3):
        values = np.random.default_rng(seed).normal(size=shape) + np.linspace(0, 1, columns) * seed
        long = pd.DataFrame(
            [(s, k, values[s, k]) for s in range(seeds) for k in range(columns)],
            columns=["seed", "setting", "y"],
        )
        wanted = AnovaRM(long, "y", "seed", within=["setting"]).fit().anova_table["Pr > F"].iloc[0]
        by_hand = f_distribution.sf(two_way_f(values.tolist()), columns - 1, (columns - 1) * (seeds - 1))
        assert by_hand == pytest.approx(wanted)
        assert permutation_p(values) == pytest.approx(wanted, abs=0.03)


def test_two_settings_are_a_sign_flip_test_of_paired_differences():
    pairs = np.random.default_rng(5).normal(size=(8, 2)) + np.array([0, 0.8])
    difference = pairs[:, 0] - pairs[:, 1]
    flips = np.array(list(itertools.product([1, -1], repeat=8))) * difference
    wanted = (np.abs(flips.mean(axis=1)) >= abs(difference.mean()) - 1e-12).mean()
    assert permutation_p(pairs) == pytest.approx(wanted)
    assert permutation_p(pairs) == pytest.approx(ttest_rel(*pairs.T).pvalue, abs=0.05)


@pytest.mark.parametrize("shape", [(2, 5), (2, 10), (4, 4)])
def test_one_in_twenty_is_a_false_alarm(shape):
    rng = np.random.default_rng(6)
    p = [permutation_p(rng.normal(size=shape) + 9 * rng.normal(size=(shape[0], 1)), 199) for _ in range(500)]
    # Binomial, 500 at 5%: 25, and outside of 10..42 once in 1,000.
    assert 10 <= sum(x <= 0.05 for x in p) <= 42
    assert statistics.fmean(p) == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("shape", [(2, 4), (3, 3), (2, 2), (5, 2)])
def test_no_p_is_below_the_smallest_and_a_clear_effect_reaches_it(shape):
    clear = np.array([0.0, 1.0, 3.0, 7.0])[: shape[1]] + np.arange(shape[0])[:, None]
    assert permutation_p(clear) == pytest.approx(smallest_p(*shape))
    rng = np.random.default_rng(7)
    assert all(permutation_p(rng.normal(size=shape)) >= smallest_p(*shape) - 1e-12 for _ in range(20))
    assert smallest_p(9, 200) == 0


def test_settings_that_are_all_equal_have_p_one():
    assert permutation_p(np.full((3, 4), 0.1)) == 1.0
    assert permutation_p(np.array([[0.1] * 5, [0.7] * 5])) == 1.0
    assert permutation_p(np.array([[0.1] * 4, [0.1, 0.1, 0.1, 0.2]])) == 1.0


@pytest.mark.parametrize("values", [np.ones((1, 5)), np.ones((5, 1)), np.ones((0, 0)), np.ones((0, 3))])
def test_one_seed_or_one_setting_gives_no_p(values):
    assert permutation_p(values) is None


def test_settings_with_a_hole_are_left_out():
    values = np.random.default_rng(8).normal(size=(3, 4))
    holes = np.c_[values[:, :2], [0.0, math.nan, 9.0], values[:, 2:], [math.inf, 0.0, 1.0]]
    assert permutation_p(holes) == permutation_p(values)
    assert permutation_p(np.array([[1.0, math.nan, 2.0], [math.nan, 1.0, 3.0]])) is None


def test_the_given_values_stay_as_they_are():
    values = np.random.default_rng(9).normal(size=(2, 3))
    before = values.copy()
    permutation_p(values)
    np.testing.assert_array_equal(values, before)


def test_columns_are_identical_to_the_last_bit_or_not_at_all():
    nan = math.nan
    table = pd.DataFrame({"a": [0.3, nan], "b": [0.1 + 0.2, nan], "c": [0.3, nan], "d": [nan, 0.3]})
    assert identical_columns(table) == [["a", "c"], ["b"], ["d"]]
    assert identical_columns(pd.DataFrame()) == []

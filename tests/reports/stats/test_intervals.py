"""Means and intervals: other libraries, closed forms, bootstraps as slow loops, and properties."""

import math
import statistics
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, norm, ttest_1samp
from scipy.stats import t as student

from reports.stats.intervals import (
    mean_and_std,
    performance_profile,
    probability_of_improvement,
    stratified_interval,
    t_interval,
)

NAN = math.nan
VALUES = st.lists(st.floats(-10, 10), min_size=2, max_size=8)


@given(defined=VALUES, holes=st.integers(0, 3))
def test_mean_and_std_equal_the_standard_library(defined, holes):
    wanted = (statistics.fmean(defined), statistics.stdev(defined), len(defined))
    assert mean_and_std(np.array(defined + [NAN] * holes)) == pytest.approx(wanted, abs=1e-12)


def test_one_value_has_no_spread_and_none_has_no_mean():
    for values, mean, n in (([0.5, NAN], 0.5, 1), ([], NAN, 0), ([NAN, NAN], NAN, 0), ([math.inf], NAN, 0)):
        with warnings.catch_warnings(action="error"):
            assert mean_and_std(np.array(values)) == pytest.approx((mean, NAN, n), nan_ok=True)
            assert np.isnan(t_interval(np.array(values))).all()
    assert t_interval(np.array([0.5, 0.5, 0.5])) == (0.5, 0.5)


@given(values=VALUES.filter(lambda values: len(set(values)) > 1))
def test_t_interval_equals_that_of_scipy(values):
    wanted = ttest_1samp(values, 0).confidence_interval(0.95)
    assert t_interval(np.array([*values, NAN])) == pytest.approx(tuple(wanted), abs=1e-9)


STRATA = st.lists(st.lists(st.integers(-9, 9), min_size=1, max_size=5), min_size=1, max_size=4)


def long(parts):
    """Values and the names of their strata."""
    return np.array([x for part in parts for x in part]), [k for k, part in enumerate(parts) for _ in part]


def percentiles(resampled):
    """The bounds of the middle 95% of resamples."""
    ordered = sorted(resampled)
    return ordered[len(ordered) // 40], ordered[-len(ordered) // 40 - 1]


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
    # Two independent sets of resamples: the bounds differ by sampling error only.
    assert stratified_interval(*long(parts)) == pytest.approx(percentiles(resampled), abs=0.03)
    values = np.array([0.1, 0.3, 0.35, 0.4, 0.9])
    wide, narrow = (stratified_interval(values, "aaaaa", confidence) for confidence in (0.99, 0.5))
    assert wide[0] < narrow[0] < values.mean() < narrow[1] < wide[1]


@given(
    parts=STRATA,
    order=st.randoms(use_true_random=False),
    shift=st.integers(-5, 5),
    scale=st.sampled_from([0.5, 2, 8]),
)
def test_stratified_interval_ignores_orders_and_names_and_moves_with_the_values(parts, order, shift, scale):
    values, strata = long(parts)
    bounds = np.array(stratified_interval(values / 10, strata, resamples=99))
    rows = [(x / 10, ("name", -k)) for x, k in zip(values, strata, strict=True)]
    order.shuffle(rows)
    shuffled, names = zip(*rows, strict=True)
    np.testing.assert_array_equal(stratified_interval(np.array(shuffled), names, resamples=99), bounds)
    # Whole numbers are moved without rounding, so that the order of strata stays as it is.
    moved = stratified_interval(values * scale + shift, strata, resamples=99)
    np.testing.assert_allclose(moved, 10 * bounds * scale + shift, atol=1e-9)


def test_no_stratified_interval_without_two_values_in_a_stratum_and_undefined_ones_leave():
    few = {
        "": [],
        "a": [0.5],
        "ab": [0.5, 0.7],
        "abb": [NAN, 0.5, NAN],
        "abc": [NAN] * 3,
        "aa": [0.5, math.inf],
    }
    for strata, values in few.items():
        assert np.isnan(stratified_interval(np.array(values), strata)).all()
    with_holes = stratified_interval(np.array([0.1, NAN, 0.4, 0.2, 0.3, math.inf, NAN]), "aaabbbc")
    assert with_holes == stratified_interval(np.array([0.1, 0.4, 0.2, 0.3]), "aabb")


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


def test_improvement_equals_the_u_of_mann_and_whitney_also_with_little_to_go_on():
    rng = np.random.default_rng(12)
    x, y = rng.integers(0, 5, size=(4, 3)).astype(float), rng.integers(0, 4, size=(6, 3)).astype(float)
    x[1, 0] = y[2, 1] = y[5, 1] = NAN
    columns = [(a[np.isfinite(a)], b[np.isfinite(b)]) for a, b in zip(x.T, y.T, strict=True)]
    wanted = statistics.fmean(mannwhitneyu(a, b).statistic / len(a) / len(b) for a, b in columns)
    assert probability_of_improvement(x, y)[0] == pytest.approx(wanted)
    one = probability_of_improvement(np.array([[1.0, 2.0]]), np.array([[0.0, 2.0], [0.0, 2.0]]))
    assert one == pytest.approx((0.75, NAN, NAN), nan_ok=True)
    other = probability_of_improvement(np.array([[0.0, 2.0], [0.0, 2.0]]), np.array([[1.0, 2.0]]))
    assert other == pytest.approx((0.25, NAN, NAN), nan_ok=True)
    for x, y in ((np.full((2, 3), NAN), np.ones((2, 3))), (np.ones((2, 0)), np.ones((2, 0)))):
        assert np.isnan(probability_of_improvement(x, y)).all()
    # The task without a run of y is no task.
    hole = probability_of_improvement(np.array([[1.0, 9.0], [3.0, 9.0]]), np.array([[2.0, NAN], [2.0, NAN]]))
    assert hole == probability_of_improvement(np.array([[1.0], [3.0]]), np.array([[2.0], [2.0]]))
    assert probability_of_improvement(np.full((2, 3), 1.0), np.zeros((2, 3))) == (1.0, 1.0, 1.0)


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
    chance, low, high = probability_of_improvement(x, y)
    assert low < chance < high
    assert (low, high) == pytest.approx(percentiles(resampled), abs=0.03)
    assert statistics.fmean(resampled) == pytest.approx(chance, abs=0.01)


@given(seed=st.integers(0, 99), shift=st.integers(-5, 5))
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
    assert probability_of_improvement(y, x, resamples=300)[0] == pytest.approx(1 - chance)
    assert probability_of_improvement(np.exp(x), np.exp(y), resamples=300) == (chance, low, high)


def test_profile_equals_counting_and_its_band_a_bootstrap_written_as_a_loop():
    scores = np.array([[0.1, 0.8], [0.5, 0.6], [0.9, NAN]])
    shares, low, high = performance_profile(scores, np.array([0.0, 0.5, 0.7, 1.0]))
    np.testing.assert_allclose(shares, [1.0, (2 / 3 + 1) / 2, (1 / 3 + 1 / 2) / 2, 0.0])
    generator, resampled = np.random.default_rng(7), []
    for _ in range(4000):
        first = [[0.1, 0.5, 0.9][generator.integers(3)] for _ in range(3)]
        second = [[0.8, 0.6][generator.integers(2)] for _ in range(2)]
        resampled.append(statistics.fmean(statistics.fmean(x >= 0.7 for x in p) for p in (first, second)))
    assert (low[2], high[2]) == pytest.approx(percentiles(resampled), abs=0.05)
    assert (low[0], high[0], low[3], high[3]) == (1, 1, 0, 0)


@given(seed=st.integers(0, 99))
def test_profile_falls_within_its_band_whatever_the_order(seed):
    rng = np.random.default_rng(seed)
    scores, taus = rng.normal(size=(4, 3)), np.linspace(-2, 2, 9)
    shares, low, high = performance_profile(scores, taus, resamples=300)
    assert (np.diff(shares) <= 0).all()
    assert ((low >= 0) & (low <= shares) & (shares <= high) & (high <= 1)).all()
    again = performance_profile(scores[rng.permutation(4)][:, rng.permutation(3)], taus, resamples=300)
    np.testing.assert_array_equal(again, (shares, low, high))


def test_values_without_a_stratum_and_tasks_without_a_rival_are_refused():
    with pytest.raises(ValueError, match="zip"):
        stratified_interval(np.array([0.1, 0.2, 0.3]), "aa")
    with pytest.raises(ValueError, match="zip"):
        probability_of_improvement(np.ones((2, 3)), np.ones((2, 2)))


def test_profile_with_little_to_go_on():
    shares, *band = performance_profile(np.array([[0.2, 0.4]]), np.array([0.3, 0.4]))
    assert shares.tolist() == [0.5, 0.5]
    assert np.isnan(band).all()
    for shape in ((2, 2), (0, 2), (2, 0)):
        assert np.isnan(performance_profile(np.full(shape, NAN), np.array([0.5]))).all()


def test_resamples_are_those_of_one_seed():
    """So a report made again has the same bounds."""
    values = np.array([0.1, 0.4, 0.2, 0.9, 1.2, 1.0])
    bounds = (0.4862601629415681, 1.054632969318011)
    assert stratified_interval(values, "aaaabb") == pytest.approx(bounds, rel=1e-9)
    x, y = np.array([[1.0, 5.0], [3.0, 2.0], [2.5, 4.0]]), np.array([[2.0, 3.0], [0.0, 4.5]])
    found = probability_of_improvement(x, y, resamples=99)
    assert found == pytest.approx((2 / 3, 1 / 3, 0.9625), rel=1e-9)
    shares, low, high = performance_profile(x, np.array([2.0, 3.0]), resamples=99)
    np.testing.assert_allclose([shares, low, high], [[5 / 6, 1 / 2], [1 / 2, 1 / 6], [1, 1]])
    assert performance_profile(x, np.array([2.0, 3.0]))[1].tolist() == [0.5, 1 / 6]


def test_single_precision_is_computed_in_double():
    single = np.array([0.1, 0.2, 0.7, 0.3], np.float32)
    double = single.astype(np.float64)
    assert mean_and_std(single) == mean_and_std(double)
    assert t_interval(single) == t_interval(double)
    assert stratified_interval(single, "aabb") == stratified_interval(double, "aabb")
    _, *bounds = performance_profile(single[:, None], np.array([0.1, 0.7], np.float32))
    np.testing.assert_array_equal(bounds, performance_profile(double[:, None], double[[0, 2]])[1:])

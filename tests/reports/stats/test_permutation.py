"""p-values: all arrangements and all signs as loops, other libraries, and properties."""

import itertools
import math
import statistics
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata
from statsmodels.stats.multitest import multipletests

from reports.stats.permutation import holm, permutation_p, smallest_p, wilcoxon_p


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


@pytest.mark.parametrize("shape", [(2, 2), (2, 3), (3, 2), (2, 4), (3, 3), (4, 2), (6, 2)])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("whole", [False, True])
def test_exact_p_equals_all_arrangements_written_as_a_loop(shape, seed, whole):
    rng = np.random.default_rng(seed)
    # Whole numbers make many arrangements tie.
    values = rng.integers(0, 3, size=shape) + np.arange(shape[1]) if whole else rng.normal(size=shape)
    orders = itertools.product(*(itertools.permutations(row) for row in values.tolist()))
    seen = two_way_f(values.tolist()) * (1 - 1e-9)
    assert permutation_p(values) == pytest.approx(statistics.fmean(two_way_f(o) >= seen for o in orders))


@given(seed=st.integers(0, 99), shift=st.floats(-1e3, 1e3), scale=st.sampled_from([-2.0, 1e-200, 1e200]))
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
    # None of the random ones is as extreme, and p is not 0 for that.
    values = np.arange(12.0) + np.array([[0.0], [5.0], [1.0]])
    assert (permutation_p(values), permutation_p(values, draws=99)) == (1 / 10_000, 1 / 100)


@pytest.mark.parametrize("shape", [(2, 5), (4, 4)])
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


def test_equal_settings_have_p_one_and_one_seed_or_setting_without_a_hole_no_p():
    for values in ([[0.1] * 4] * 3, [[0.1] * 5, [0.7] * 5], [[0.1] * 4, [0.1, 0.1, 0.1, 0.2]]):
        assert permutation_p(np.array(values)) == 1.0
    for shape in ((1, 5), (5, 1), (0, 0), (0, 3)):
        assert permutation_p(np.ones(shape)) is None
    values = np.random.default_rng(8).normal(size=(3, 4))
    holes = np.c_[values[:, :2], [0.0, math.nan, 9.0], values[:, 2:], [math.inf, 0.0, 1.0]]
    before = holes.copy()
    assert permutation_p(holes) == permutation_p(values)
    np.testing.assert_array_equal(holes, before)
    assert permutation_p(np.array([[1.0, math.nan, 2.0], [math.nan, 1.0, 3.0]])) is None


@given(st.lists(st.integers(-4, 4), min_size=2, max_size=7).filter(lambda x: sum(map(bool, x)) > 1))
def test_signed_rank_p_equals_all_signs_written_as_a_loop(differences):
    """The share of all signs of the ranks that lie at least as far from the middle; zeros by Pratt."""
    ranks = rankdata(np.abs(differences))
    kept = [(rank, x > 0) for rank, x in zip(ranks, differences, strict=True) if x]
    middle = sum(rank for rank, _ in kept) / 2
    seen = abs(sum(rank for rank, positive in kept if positive) - middle)
    signs = itertools.product([0, 1], repeat=len(kept))
    sums = [sum(rank for (rank, _), sign in zip(kept, choice, strict=True) if sign) for choice in signs]
    share = statistics.fmean(abs(total - middle) >= seen - 1e-9 for total in sums)
    assert wilcoxon_p(np.array(differences)) == pytest.approx(share, abs=1e-12)


def test_one_difference_is_no_test_and_differences_that_are_equal_on_paper_are_ties():
    for differences in ([], [1.0], [0.0] * 3, [0.0, 2.0, 0.0], [math.nan, 2.0, math.inf]):
        assert math.isnan(wilcoxon_p(np.array(differences)))
    assert wilcoxon_p(np.array([1.0, 2.0, 3.0, 4.0, 5.0, math.nan, math.inf])) == 0.0625
    decimals = np.array([0.3 - 0.2, 0.2 - 0.1, -(0.4 - 0.3), 0.5 - 0.4 + 0.3, (0.1 + 0.2) - 0.3])
    assert len(set(np.abs(decimals[:3]))) == 3
    assert wilcoxon_p(decimals) == wilcoxon_p(np.array([1.0, 1.0, -1.0, 4.0, 0.0]))


@given(
    differences=st.lists(st.integers(-9, 9).filter(bool), min_size=2, max_size=7),
    scale=st.sampled_from([-1.0, 0.1, 1e-200, 1e200]),
    order=st.randoms(use_true_random=False),
)
@settings(deadline=None, max_examples=20)
def test_signed_rank_p_ignores_order_scale_and_side(differences, scale, order):
    p = wilcoxon_p(np.array(differences))
    order.shuffle(differences)
    assert wilcoxon_p(np.array(differences) * scale) == pytest.approx(p, abs=1e-12)
    assert 0 < p <= 1


@given(p_values=st.lists(st.one_of(st.just(math.nan), st.floats(0, 1)), max_size=9))
def test_holm_equals_that_of_statsmodels(p_values):
    raw = np.array(p_values)
    adjusted = holm(raw)
    np.testing.assert_array_equal(raw, p_values)
    tested = ~np.isnan(raw)
    np.testing.assert_array_equal(~np.isnan(adjusted), tested)
    if tested.any():
        with mock.patch("gc.collect"):  # it is called each time, and takes a second in a large process
            wanted = multipletests(raw[tested], method="holm")[1]
        np.testing.assert_allclose(adjusted[tested], wanted, atol=1e-12)


def test_holm_in_single_precision_is_computed_in_double():
    adjusted = holm(np.array([0.01, 0.02], np.float32))
    assert adjusted.dtype == np.float64
    assert adjusted.tolist() == [2 * float(np.float32(0.01))] * 2


def test_a_level_far_above_the_differences_changes_nothing():
    rng = np.random.default_rng(4)
    for _ in range(20):
        # Steps of a 1024th, so that adding the level does not round.
        values = np.round(rng.normal(size=(3, 3)) * 1024) / 1024
        assert permutation_p(values + 2.0**30) == permutation_p(values)


def test_as_many_draws_as_arrangements_are_all_arrangements():
    values = np.random.default_rng(5).normal(size=(2, 4))
    assert permutation_p(values, draws=24) == permutation_p(values)
    drawn = permutation_p(values, draws=23)
    assert drawn * 24 == pytest.approx(round(drawn * 24)), "(1 + reached) / (1 + draws)"
    assert {permutation_p(values, draws=23, seed=seed) for seed in range(9)} != {permutation_p(values)}


def test_random_arrangements_are_those_of_the_seed():
    values = np.add.outer(np.arange(3.0), [0.0, 0.3, 0.1, 0.5])
    values += [[0, 0, 0.3, 0], [0, 0.2, 0, 0], [0.4, 0, 0, 0]]
    assert permutation_p(values, draws=199) == permutation_p(values, draws=199, seed=0) == 0.165
    assert permutation_p(values, draws=199, seed=1) == 0.17


def test_single_precision_is_tested_in_double():
    rng = np.random.default_rng(6)
    for _ in range(20):
        values = rng.normal(size=(3, 4)).astype(np.float32)
        assert permutation_p(values) == permutation_p(values.astype(np.float64))
    # Divided by 2.9 in single precision, some of these neighbours would be equal.
    neighbours = np.float32(1.5) + np.arange(6, dtype=np.float32) * np.float32(2.0**-23)
    differences = np.append(neighbours * np.float32([1, -1, 1, 1, -1, 1]), np.float32(2.9))
    assert wilcoxon_p(differences) == wilcoxon_p(np.float32([1, -2, 3, 4, -5, 6, 7]))

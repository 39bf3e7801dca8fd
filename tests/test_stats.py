"""Summaries and bootstrap intervals: properties, and a slow bootstrap with a loop."""

import math
import statistics

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reports.stats import COLUMNS, bootstrap_interval, check_frame, summarise

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

"""The time that is left: cells of each data set and backbone by those that ended."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.study.forecast import Forecast, duration

PAIRS = st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"))


@given(st.lists(st.tuples(PAIRS, st.floats(0.1, 100))), st.lists(PAIRS))
def test_it_is_the_sum_of_means(ended, left):
    forecast = Forecast()
    for pair, seconds in ended:
        forecast.measured(pair, seconds)
    total, whole = 0.0, True
    for pair in left:
        times = [seconds for other, seconds in ended if other == pair]
        if times:
            total += sum(times) / len(times)
        else:
            whole = False
    assert forecast.left(left) == (pytest.approx(total), whole)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (5_000, "83 min"), (36_000, "10.0 h")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text

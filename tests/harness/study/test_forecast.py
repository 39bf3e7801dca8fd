"""The time that is left: cells of each data set and backbone by those that ended."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cli import make_console
from harness.study.display import LiveDisplay
from harness.study.forecast import Forecast, duration
from tests.support.cells import make_cell

PAIRS = st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"))


@given(st.lists(st.tuples(PAIRS, st.floats(0.1, 100))), st.lists(PAIRS))
def test_it_is_the_sum_of_means(ended, left):
    forecast = Forecast()
    for pair, seconds in ended:
        forecast.measured(pair, seconds)
    total, unknown = 0.0, 0
    for pair in left:
        times = [seconds for other, seconds in ended if other == pair]
        if times:
            total += sum(times) / len(times)
        else:
            unknown += 1
    assert forecast.left(left) == (pytest.approx(total), unknown)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (5_000, "83 min"), (36_000, "10.0 h")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_cells_that_nothing_was_measured_of_are_counted_apart(monkeypatch, capsys):
    """Two cells of TFN in flight took 4 s each; one of TFN and three of MulT are left."""
    now = [0.0]
    monkeypatch.setattr("harness.study.display.time.monotonic", lambda: now[0])
    display = LiveDisplay(make_console())
    quick, slow = ([make_cell(backbone=name, seed=seed) for seed in range(3)] for name in ("tfn", "mult"))
    display.begin(6, 0, [*quick, *slow])
    for cell in quick[:2]:
        display.started(cell)
    now[0] = 4.0
    for cell in quick[:2]:
        display.ended(cell, "")
    assert "2 s left, and 3 cells of unknown time" in capsys.readouterr().out
    display.started(slow[0])
    now[0] = 14.0
    display.ended(slow[0], "")
    assert capsys.readouterr().out.endswith(" 12 s left\n")

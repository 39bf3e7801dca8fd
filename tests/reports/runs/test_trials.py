"""The tidy frame of trials."""

import math

import pytest

from reports.runs.trials import COLUMNS, load_trials
from tests.support.sweeps import Sweep, table_of

NAN = math.nan


def test_frame_has_a_row_per_number_of_each_seed_and_none_without_a_sweep():
    sweep = Sweep().add(
        {"xi2": 0.1, "xi1": 0.5},
        {"valid/loss": 0.5, "test/mae": 0.7, "test_r0.50/mae": 0.9, "cell/epoch_s": 3.0, "epoch/loss": 1.0},
        {"valid/loss": 0.6, "test/mae": NAN},
        default="true",
    )
    empty, frame = load_trials(Sweep()), load_trials(sweep)
    assert list(frame.columns) == list(empty.columns) == list(COLUMNS)
    assert empty.empty
    assert set(frame["params"]) == {'{"xi1": 0.5, "xi2": 0.1}'}
    values = frame.dropna(subset="value").set_index(["seed", "split", "metric"])["value"].to_dict()
    assert values == {
        (1111, "valid", "loss"): 0.5,
        (1111, "test", "mae"): 0.7,
        (1111, "test_r0.50", "mae"): 0.9,
        (1112, "valid", "loss"): 0.6,
    }
    assert len(frame) == 5
    assert frame[["default", "synthetic"]].all(axis=None)
    assert (frame["objective_value"] == 0.55).all()


@pytest.mark.parametrize("backwards", [False, True])
def test_a_retried_trial_counts_once_and_the_complete_one_at_that(backwards):
    sweep = Sweep().add({"a": 1, "b": 2}, (0.9, 0.9), state="failed", reason="killed")
    sweep.add({"b": 2, "a": 1}, (0.5, 0.6)).add({"a": 1, "b": 2}, (0.7, 0.6), state="pruned")
    sweep.add({"a": 1, "b": 3}, state="failed", reason="x").add({"a": 1, "b": 3}, (0.7, 0.6), state="pruned")
    if backwards:
        sweep.runs.reverse()
    table = table_of(sweep)
    assert list(table["state"]) == ["complete", "pruned"]
    assert list(table["trial"]) == [1, 4]
    assert table["objective_value"].iloc[0] == 0.5

"""Settings of a sweep: their ranks and their table."""

import json
import math
import statistics

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from reports.runs.trials import load_trials
from reports.stats.settings import Verdict, identical_columns, ranked, settings_table, value_text, verdicts
from tests.support.sweeps import SMALL, Sweep, delta_sweep, table_of, verdict

NAN = math.nan


def test_no_trials_have_no_verdict_and_an_empty_table():
    empty = load_trials(Sweep())
    assert verdicts(empty) == []
    assert settings_table(empty).empty


COLUMNS = (
    "sweep dataset backbone method rank params default state reason trial seeds objective "
    "objective_value objective_value_std objective_value_low objective_value_high "
    "test_mae test_mae_std test_mae_low test_mae_high test_corr test_corr_std test_corr_low test_corr_high"
)


def test_a_whole_table_and_verdict_by_hand():
    """The deviation of two seeds is their difference over sqrt 2, and half the interval t / 2 times it."""
    sweep = delta_sweep(SMALL[:, [0, 2]]).add({"delta": 0.8}, state="failed", reason="no memory")
    table = table_of(sweep.add({"delta": 0.9}, (0.1, 0.2), state="pruned"))
    assert list(table.columns) == COLUMNS.split()
    assert table["rank"].dtype == "Int64"
    group, t = ("delta", "synthetic_mosi", "misa", "ms_mix"), 12.7062047
    low, high = SMALL[:, 2].mean(), SMALL[:, 0].mean()
    best = [low, 0.045 * 2**0.5, low - 0.045 * t, low + 0.045 * t]
    usual = [high, 0.05 * 2**0.5, high - 0.05 * t, high + 0.05 * t]
    corr = [0.5, 0.0, 0.5, 0.5]
    wanted = [
        [1, '{"delta": 0.1}', False, "complete", "", 1, 2, "valid/loss",
         *best, 0.555, best[1], best[2] + 0.1, best[3] + 0.1, *corr],
        [2, '{"delta": 0.0}', True, "complete", "", 0, 2, "valid/loss",
         *usual, 0.65, usual[1], usual[2] + 0.1, usual[3] + 0.1, *corr],
        [pd.NA, '{"delta": 0.8}', False, "failed", "no memory", 2, 0, "valid/loss", *12 * [NAN]],
        [pd.NA, '{"delta": 0.9}', False, "pruned", "", 3, 1, "valid/loss",
         *4 * [NAN], 0.2, *3 * [NAN], 0.5, *3 * [NAN]],
    ]  # fmt: skip
    frame = pd.DataFrame([[*group, *row] for row in wanted], columns=COLUMNS.split())
    pd.testing.assert_frame_equal(table, frame.astype({"rank": "Int64"}), rtol=1e-6)
    found = [[row["cost"], row["objective_value_n"], row["test_mae_n"]] for row in ranked(load_trials(sweep))]
    assert found == [[low, 2, 2], [high, 2, 2], [math.inf, 0, 0], [math.inf, 1, 1]]
    assert verdict(sweep) == Verdict(
        *group,
        best='{"delta": 0.1}',
        value=low,
        default_value=high,
        p=0.5,
        seeds=2,
        flat=False,
        states={"complete": 2, "pruned": 1, "failed": 1},
        sentence=(
            "delta on MISA, synthetic MOSI: 2 different settings over 2 seeds are too few to tell a "
            "difference from noise: try more (seeds=[...]). The permutation test runs over the 2 settings "
            "trained to their end. On the validation split, the best setting is delta=0.1 (valid loss "
            "0.455); the default, delta=0, has valid loss 0.550. On the test split, the best setting "
            "(delta=0.1) has MAE 0.555, the default 0.650 (difference -0.095, 95% interval over seeds "
            "-0.159 to -0.031, n = 2): undecided. Of 4 settings 1 pruned and 1 failed (first reason: no "
            "memory)."
        ),
    )


def test_equal_settings_stand_in_the_order_of_their_numbers_and_then_texts():
    sweep = Sweep()
    for value in ("b", 10, None, 3, "a"):
        sweep.add({"a": value}, (0.5, 0.5))
    assert [json.loads(params)["a"] for params in table_of(sweep)["params"]] == [3, 10, "a", "b", None]


def test_values_as_people_read_them():
    texts = {"a b": "a b", True: "true", 8: "8", 0.123456: "0.1235", 1e-7: "1e-07"}
    assert [value_text(value) for value in texts] == list(texts.values())
    assert value_text([0, None]) == "[0, null]"


def test_equal_params_of_different_groups_stay_apart():
    places = {("delta", "synthetic_mosi", "misa"): 0.5, ("delta", "synthetic_mosi", "tfn"): 0.6,
              ("delta", "mosi", "misa"): 0.7, ("other", "synthetic_mosi", "misa"): 0.8}  # fmt: skip
    all_of_them = Sweep()
    for (name, dataset, backbone), loss in places.items():
        one = Sweep(name, dataset=dataset, backbone=backbone, runs=all_of_them.runs, cells=all_of_them.cells)
        one.add({"delta": 0.1}, (loss, 0.5))
    found = verdicts(load_trials(all_of_them))
    assert {(v.sweep, v.dataset, v.backbone): v.value for v in found} == places


@given(st.integers(2, 5), st.integers(1, 4), st.integers(0, 99))
@settings(deadline=None, max_examples=10)
def test_settings_equal_a_table_written_as_a_loop(columns, seeds, seed):
    values = np.random.default_rng(seed).normal(size=(seeds, columns))
    ordered = sorted(range(columns), key=lambda k: statistics.fmean(values[:, k]))
    rows = table_of(delta_sweep(values)).to_dict("records")
    for rank, (k, row) in enumerate(zip(ordered, rows, strict=True), 1):
        column = list(values[:, k])
        assert (row["rank"], row["params"], row["seeds"]) == (rank, json.dumps({"delta": k / 10}), seeds)
        assert row["objective_value"] == pytest.approx(statistics.fmean(column))
        assert row["test_mae"] == pytest.approx(statistics.fmean(column) + 0.1)
        assert row["test_corr"] == 0.5
        assert row["default"] == (k == 0)
        if seeds == 1:
            assert all(math.isnan(row[f"objective_value{end}"]) for end in ("_std", "_low", "_high"))
            continue
        assert row["objective_value_std"] == pytest.approx(statistics.stdev(column))
        for name, shift in (("objective_value", 0.0), ("test_mae", 0.1)):
            wanted = scipy_stats.ttest_1samp(np.array(column) + shift, 0).confidence_interval(0.95)
            assert (row[f"{name}_low"], row[f"{name}_high"]) == pytest.approx(tuple(wanted))


def test_ranks_follow_the_metric_and_equals_share_one_with_the_default_first_among_them():
    sweep = Sweep(objective="valid/corr")
    for delta, corr in ((0.1, 0.3), (0.2, 0.6), (0.3, 0.5)):
        sweep.add({"delta": delta}, {"valid/corr": corr, "test/mae": 1.0})
    assert verdict(sweep).best == '{"delta": 0.2}'
    assert list(table_of(sweep)["rank"]) == [1, 2, 3]
    sweep = Sweep()
    for number, loss in ((1, 0.6), (8, 0.5), (10, 0.5), (2, 0.5), (4, 0.5)):
        sweep.add({"heads": number}, (loss, 0.1 * number), default=json.dumps(number == 4))
    table = table_of(sweep)
    assert list(table["rank"]) == [1, 1, 1, 1, 5]
    assert [json.loads(text)["heads"] for text in table["params"]] == [4, 2, 8, 10, 1]


def test_what_did_not_complete_has_no_rank_however_good_it_was_and_is_counted():
    sweep = Sweep().add({"delta": 0.1}, (0.5, 0.5)).add({"delta": 0.2}, (0.1, 0.1), state="pruned")
    sweep.runs[-1].metrics["objective"] = 0.1
    sweep.add({"delta": 0.3}, {"valid/loss": NAN, "test/mae": 0.1})
    sweep.add({"delta": 0.4}, state="failed", reason="no memory")
    lost = load_trials(sweep).query("state == 'failed'")
    assert lost["reason"].tolist() == ["no memory"]
    assert lost[["seed", "value", "objective_value"]].isna().all(axis=None)
    assert table_of(sweep)["rank"].tolist() == [1, pd.NA, pd.NA, pd.NA]
    assert verdict(sweep).best == '{"delta": 0.1}'
    assert verdict(sweep).states == {"complete": 2, "pruned": 1, "failed": 1}
    sweep = Sweep().add({"delta": 0.8}, (0.1, 0.1), state="pruned", reason="hopeless")
    for delta in (0.6, 0.7):
        sweep.add({"delta": delta}, state="failed", reason=f"loss is not finite at {delta}.")
    found = verdict(sweep)
    assert (found.best, found.value, found.default_value, found.p) == (None, None, None, None)
    assert found.sentence == (
        "delta on MISA, synthetic MOSI: no trial is complete. "
        "Of 3 settings 1 pruned and 2 failed (first reason: loss is not finite at 0.6)."
    )


def test_columns_are_identical_to_the_last_bit_or_not_at_all():
    table = pd.DataFrame({"a": [0.3, NAN], "b": [0.1 + 0.2, NAN], "c": [0.3, NAN], "d": [NAN, 0.3]})
    assert identical_columns(table) == [["a", "c"], ["b"], ["d"]]
    sweep = Sweep()
    for k in range(5):
        sweep.add({"delta": k}, (0.5, 0.1 * k), (0.6, 0.2 * k))
    found = verdict(sweep)
    assert (found.flat, found.p) == (False, 1.0), "their test scores differ"
    assert "no setting is better than the others" in found.sentence

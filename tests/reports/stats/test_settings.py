"""Settings of a sweep: their ranks, their table, and what a verdict says of them."""

import json
import math
import statistics

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from reports.stats.permutation import permutation_p
from reports.stats.settings import identical_columns, settings_table, verdicts
from reports.trials import load_trials
from tests.support.sweeps import SMALL, Sweep, delta_sweep, sentence, table_of, verdict

NAN = math.nan


def test_no_trials_have_no_verdict_and_an_empty_table():
    empty = load_trials(Sweep())
    assert verdicts(empty) == []
    assert settings_table(empty).empty


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
        "delta on misa, synthetic_mosi: no trial is complete. "
        "Of 3 settings 1 pruned and 2 failed (first reason: loss is not finite at 0.6)."
    )


@pytest.mark.parametrize("seeds", [2, 3])
def test_noise_is_called_noise_and_two_seeds_of_it_few(seeds):
    values = np.random.default_rng(7).normal(size=(seeds, 6))
    found = verdict(delta_sweep(values))
    assert found.p > 0.05
    said = f"no setting is better than the others beyond the noise between seeds (p = {found.p:.2g}; 6"
    assert f"{said} settings, {seeds} seeds), so nothing speaks against the default. " in found.sentence
    hint = "Two seeds show only large effects: try more (seeds=[...])."
    assert (hint in found.sentence) == (seeds == 2)
    assert "nothing speaks" not in sentence(delta_sweep(values, default=None))
    clear = np.linspace(1, 0.7, 10) + np.random.default_rng(1).normal(0, 0.02, (seeds, 10))
    said = f"some are better than others (p < 0.001; 10 settings, {seeds} seeds)"
    assert said in sentence(delta_sweep(clear))


def test_with_pruned_trials_the_test_is_of_the_others_and_p_at_the_level_a_claim(monkeypatch):
    said, sweep = "The permutation test runs over", delta_sweep(SMALL)
    assert said not in sentence(sweep.add({"delta": 0.8}, state="failed"))
    sweep.add({"delta": 0.9}, (0.1, 0.1), (0.1, 0.1), state="pruned")
    assert f"{said} the 5 settings trained to their end." in sentence(sweep)
    flat = delta_sweep(np.tile([[0.5], [0.7]], 4)).add({"delta": 0.9}, state="pruned")
    assert said not in sentence(flat)
    # p at the level is still a claim: 2 seeds and 4 settings have 24 arrangements.
    sweep = delta_sweep(SMALL[:, :4])
    for level, word in ((verdict(sweep).p, "matters"), (verdict(sweep).p - 1e-9, "tell a difference")):
        monkeypatch.setattr("reports.stats.settings.LEVEL", level)
        assert word in sentence(sweep)


@pytest.mark.parametrize(
    ("default", "best", "first_seed", "said"),
    [
        ([(0.9, 0.7), (0.8, 0.9)], [(0.5, 0.66), (0.5, 0.91)], 1111, ", n = 2), inside the noise."),
        ([(0.9, 0.7), (0.8, 0.9)], [(0.5, 0.6), (0.5, 99.0)], 1110,
         "has MAE 99.000, the default 0.700 (difference +98.300, one seed)."),
        ([(0.9, NAN), (0.8, 0.9)], [(0.5, 0.6), (0.5, 0.8)], 1111,
         "has MAE 0.800, the default 0.900 (difference -0.100, one seed)."),
        ([(0.9, 0.7)], [(0.5, 0.6)], 1110, None),
    ],
)  # fmt: skip
def test_only_seeds_with_a_score_of_both_are_pairs(default, best, first_seed, said):
    sweep = Sweep().add({"delta": 0.3}, *default, default="true")
    text = sentence(sweep.add({"delta": 0.4}, *best, first_seed=first_seed))
    assert text.endswith(said) if said else "On the test split" not in text
    assert "nan" not in text.lower()


def test_a_default_that_is_best_failed_or_was_not_tried_is_said_and_not_compared():
    found = verdict(delta_sweep(SMALL, default=2))
    assert found.sentence.endswith(" the best setting is the default, delta=0.2 (valid loss 0.455).")
    assert found.value == found.default_value == pytest.approx(0.455)
    untried = verdict(delta_sweep(SMALL, default=None))
    assert untried.sentence.endswith("The default was not tried.")
    assert untried.default_value is None
    failed = delta_sweep(SMALL, default=None).add({"delta": 0.9}, state="failed", default="true", reason="x.")
    assert "The default has no complete trial. Of 6 settings 1 failed (first reason: x)." in sentence(failed)


FLAT = np.tile([[0.5], [0.7]], 4)
FEW = "are too few to tell a difference from noise: try more (seeds=[...])."
ON, SAME = "On the validation", "every setting gives exactly the same result"


@pytest.mark.parametrize(
    ("values", "p", "said"),
    [
        (SMALL[:1], None, f"no uncertainty can be given with one seed (5 settings, 1 seed). {ON}"),
        (SMALL[:, [0, 2, 3]], 1 / 6, f"3 different settings over 2 seeds {FEW}"),
        (np.c_[FLAT, [0.4, 0.6]], 0.5, f"2 different settings over 2 seeds {FEW}"),
        (
            SMALL[:, :1],
            None,
            "only one setting is complete, the default, delta=0 (valid loss 0.550): nothing",
        ),
        (FLAT, 1.0, f"{SAME} (valid loss 0.600; 4 settings, 2 seeds)"),
        (FLAT[:1], None, f"{SAME} (valid loss 0.500; 4 settings, 1 seed)"),
    ],
)
def test_what_says_nothing_is_called_by_its_name(values, p, said):
    found = verdict(delta_sweep(values))
    assert said in found.sentence
    assert found.p == (p and pytest.approx(p))
    assert found.flat == ("exactly the same" in said)
    assert "Of " not in found.sentence


def test_columns_are_identical_to_the_last_bit_or_not_at_all():
    table = pd.DataFrame({"a": [0.3, NAN], "b": [0.1 + 0.2, NAN], "c": [0.3, NAN], "d": [NAN, 0.3]})
    assert identical_columns(table) == [["a", "c"], ["b"], ["d"]]
    sweep = Sweep()
    for k in range(5):
        sweep.add({"delta": k}, (0.5, 0.1 * k), (0.6, 0.2 * k))
    found = verdict(sweep)
    assert (found.flat, found.p) == (False, 1.0), "their test scores differ"
    assert "no setting is better than the others" in found.sentence


def test_settings_that_give_the_same_numbers_count_as_one():
    sweep = Sweep(name="heads")
    for heads in (8, 1, 2, 4):
        usual = json.dumps(heads == 4)
        sweep.add({"heads": heads, "attention": "tokens"}, (0.5, 0.7), (0.6, 0.8), default=usual)
    batch = {1: (0.47, 0.55), 2: (0.46, 0.57), 4: (0.44, 0.53), 8: (0.41, 0.52)}
    for heads, losses in batch.items():
        sweep.add({"heads": heads, "attention": "batch"}, *((loss, loss) for loss in losses))
    found = verdict(sweep)
    assert found.p == pytest.approx(permutation_p(np.array([[0.5, 0.6], *batch.values()]).T))
    assert not found.flat
    same = ", ".join(f"attention=tokens heads={n}" for n in (1, 2, 4, 8))
    assert f"Exactly the same result: {same}." in found.sentence


def test_a_missing_cell_costs_its_setting_and_a_rare_seed_only_itself():
    values = np.random.default_rng(3).normal(size=(2, 6))
    assert verdict(delta_sweep(values)).p == permutation_p(values)
    hole = delta_sweep(values)
    del hole.cells["delta synthetic_mosi misa 5 1112"]
    assert verdict(hole).p == pytest.approx(permutation_p(values[:, :5]))
    row = table_of(hole).set_index("params").loc['{"delta": 0.5}']
    assert row["seeds"] == 1
    assert row["objective_value"] == pytest.approx(values[:, 5].mean())
    more = verdict(delta_sweep(values).add({"delta": 0.6}, (1.0, 1.0), (1.1, 1.1), (1.2, 1.2)))
    assert (more.seeds, more.p) == (2, pytest.approx(permutation_p(np.c_[values, [1.0, 1.1]])))
    # Trials whose cells are all gone are not called equal, nor those of which one setting is left.
    sweep = delta_sweep(SMALL)
    left = {name: run for name, run in sweep.cells.items() if " misa 0 " in name}
    sweep.cells.clear()
    found = verdict(sweep)
    assert not found.flat
    assert found.value == pytest.approx(0.455)
    assert "no uncertainty can be given where so few settings have results for all seeds" in found.sentence
    sweep.cells = left
    assert not verdict(sweep).flat

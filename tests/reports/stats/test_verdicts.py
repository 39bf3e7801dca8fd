"""What the verdict of a sweep says: the permutation test over its settings, in words."""

import json
import math

import numpy as np
import pytest

from reports.runs.trials import load_trials
from reports.stats.permutation import permutation_p
from reports.stats.settings import compared_runs, verdicts
from tests.support.scores import STILL, SwingingClips
from tests.support.sweeps import SMALL, Sweep, delta_sweep, sentence, table_of, verdict

NAN = math.nan


def said_of(sweep):
    return sentence(sweep).removeprefix("delta on MISA, synthetic MOSI: ")


def test_whole_sentences_of_one_setting_of_none_and_of_equal_ones():
    alone = "only one setting is complete, delta=0 (valid loss 0.550): nothing to compare."
    assert said_of(delta_sweep(SMALL[:, :1], default=None)) == f"{alone} The default was not tried."
    alone = "only one setting is complete, the default, no settings (valid loss 0.500): nothing to compare."
    assert said_of(Sweep().add({}, (0.5, 0.5), default="true")) == alone
    assert said_of(Sweep().add({"a": 1}, state="failed")) == "no trial is complete. Of 1 settings 1 failed."
    same = "every setting gives exactly the same result (valid loss 0.600; 3 settings, 2 seeds), so the"
    equal = delta_sweep(np.tile([[0.5], [0.7]], 3))
    assert said_of(equal) == f"{same} parameter has no effect here."


def two_settings(usual, best, **params):
    """A sweep of the default, a = 1, and of a better one, with these test scores."""
    sweep = Sweep().add({"a": 1}, *((0.6 + 0.1 * k, mae) for k, mae in enumerate(usual)), default="true")
    return sweep.add(params or {"a": 2}, *((0.4 + 0.1 * k, mae) for k, mae in enumerate(best)))


@pytest.mark.parametrize(
    ("usual", "best", "scores", "spread"),
    [
        ([0.7, 0.8], [0.8, 0.9], ("0.850", "0.750", "+0.100"),
         "n = 2): undecided."),
        ([0.7, 0.8], [0.6, 0.9], ("0.750", "0.750", "+0.000"),
         "95% interval over seeds -1.271 to +1.271, n = 2): undecided."),
        ([0.7, 0.8], [0.7, 0.8], ("0.750", "0.750", "+0.000"),
         "n = 2): undecided."),
        ([0.7], [0.6], ("0.600", "0.700", "-0.100"), "one seed)."),
    ],
)  # fmt: skip
def test_the_whole_sentence_of_the_test_split(usual, best, scores, spread):
    text = sentence(two_settings(usual, best, a=0.123456, mode="x"))
    assert "On the validation split, the best setting is a=0.1235 mode=x (valid loss 0.4" in text
    found, default, difference = scores
    said = f"MAE {found}, the default {default} (difference {difference}, {spread}"
    assert text.endswith(f" On the test split, the best setting (a=0.1235 mode=x) has {said}")


def of_best(run_id):
    return " misa 1 " in run_id


THREE = [0.7, 0.8, 0.9], [0.6, 0.69, 0.8]


@pytest.mark.parametrize(
    ("clips", "margins", "wide", "word"),
    [
        (STILL, {}, "-0.118 to -0.089", "better"),
        (SwingingClips(0.001, of_best), {}, "-0.118 to -0.089", "better"),
        (SwingingClips(0.1, of_best), {}, "-0.585 to +0.378", "undecided"),
        (STILL, {"mae": 0.12}, "-0.118 to -0.089", "equal"),
        (None, {}, None, "undecided"),
    ],
)
def test_a_setting_is_better_only_where_it_is_on_other_clips_too(clips, margins, wide, word):
    frame = load_trials(two_settings(*THREE))
    assert compared_runs(frame) == set(frame["run_id"])
    [found] = verdicts(frame, clips, margins)
    said = found.sentence.partition("the default 0.800 (")[2]
    other = f"for other seeds and clips {wide}, " * (wide is not None)
    assert said == f"difference -0.103, 95% interval over seeds -0.118 to -0.089, {other}n = 3): {word}."


def test_a_setting_may_be_worse_and_predictions_of_others_are_not_needed():
    sweep = two_settings(*reversed(THREE)).add({"a": 3}, (0.9, 0.1), (0.9, 0.1), (0.9, 0.1))
    frame = load_trials(sweep)
    [found] = verdicts(frame, STILL)
    assert found.sentence.endswith("+0.089 to +0.118, n = 3): worse.")
    assert compared_runs(frame) == set(frame.loc[frame["params"] != '{"a": 3}', "run_id"])
    assert compared_runs(frame[:0]) == set()


@pytest.mark.parametrize(
    ("p", "said"), [(0.0009, "p < 0.001"), (0.001, "p = 0.001"), (0.00124, "p = 0.0012")]
)
def test_a_p_of_at_least_a_thousandth_is_given(monkeypatch, p, said):
    monkeypatch.setattr("reports.stats.settings.permutation_p", lambda values: p)
    assert f"are better than others ({said}; 5 settings, 2 seeds). On the" in sentence(delta_sweep(SMALL))


def test_the_smallest_p_at_the_level_is_not_too_few(monkeypatch):
    for level, few in ((1 / 24, False), (1 / 24 - 1e-9, True)):
        monkeypatch.setattr("reports.stats.settings.LEVEL", level)
        assert ("are too few" in sentence(delta_sweep(SMALL[:, :4]))) == few


def twins(groups, size):
    """Sweeps in which groups of so many settings each have equal results."""
    sweep = Sweep()
    for group in range(groups):
        for k in range(size):
            sweep.add({"g": group, "k": k}, (0.5 + 0.1 * group, 0.5), (0.6 + 0.2 * group, 0.5))
    return sweep


def test_equal_results_are_listed_up_to_three_groups_of_eight():
    for groups, more in ((3, ""), (4, "; ...")):
        lists = "; ".join(f"g={g} k=0, g={g} k=1" for g in range(3))
        assert f" Exactly the same result: {lists}{more}. The default" in sentence(twins(groups, 2))
    for size, more in ((8, ""), (9, ", ...")):
        lists = "; ".join(", ".join(f"g={g} k={k}" for k in range(8)) + more for g in range(2))
        assert f" Exactly the same result: {lists}. The default" in sentence(twins(2, size))


def test_the_first_reason_is_of_the_first_failed_setting_that_has_one():
    sweep = Sweep().add({"a": 1}, (0.5, 0.5), default="true").add({"a": 2}, state="pruned", reason="hopeless")
    sweep.add({"a": 3}, state="failed").add({"a": 4}, state="failed", reason="full...")
    sweep.add({"a": 5}, state="failed", reason="other")
    assert sentence(sweep).endswith(" Of 5 settings 1 pruned and 3 failed (first reason: full).")


def test_settings_of_one_seed_have_no_permutation_test_and_are_compared_all_the_same():
    text = sentence(delta_sweep(SMALL[:1, :2]).add({"delta": 0.9}, (0.1, 0.1), state="pruned"))
    assert "The permutation test" not in text
    text = text.partition(": ")[2]
    assert text.startswith(
        "no uncertainty can be given with one seed (2 settings, 1 seed). On the validation split, "
    )


def test_a_seed_counts_if_more_than_half_of_the_settings_have_it():
    for number, seeds, settings_left in ((2, 2, 4), (3, 3, 3)):
        sweep = Sweep()
        for k in range(4):
            scores = [(0.5 + 0.1 * k, 0.5), (0.6 + 0.1 * k, 0.5), (0.9 - 0.1 * k, 0.5)]
            sweep.add({"a": k}, *scores[: 3 if k < number else 2])
        found = verdict(sweep)
        assert found.seeds == seeds
        values = [[0.5 + 0.1 * k, 0.6 + 0.1 * k, 0.9 - 0.1 * k][:seeds] for k in range(settings_left)]
        assert found.p == pytest.approx(permutation_p(np.array(values).T))


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
        ([(0.9, 0.7), (0.8, 0.9)], [(0.5, 0.66), (0.5, 0.91)], 1111,
         ", n = 2): undecided."),
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

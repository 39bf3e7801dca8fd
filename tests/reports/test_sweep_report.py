"""What a sweep shows: frame, settings, verdicts and files, from trackers that are plain objects."""

import dataclasses
import io
import json
import math
import re
import statistics
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from reports.stats.permutation import permutation_p
from reports.stats.settings import identical_columns, settings_table, verdicts
from reports.tables.sweeps import file_name, sweep_tables
from reports.tables.table import write_table
from reports.trials import COLUMNS, load_trials
from tests.support.studies import empty_study

NAN = math.nan


@dataclass
class Sweep:
    """A tracker: trials are added one by one, with (valid loss, test MAE) or a dict of metrics per seed."""

    name: str = "delta"
    study: str = "s"
    objective: str = "valid/loss"
    dataset: str = "synthetic_mosi"
    backbone: str = "misa"
    runs: list = field(default_factory=list)
    cells: dict = field(default_factory=dict)

    def trials(self):
        return list(self.runs)

    def complete(self):
        return dict(self.cells)

    def add(self, params, *scores, state="complete", first_seed=1111, **tags):
        number, names = len(self.runs), {}
        for seed, score in enumerate(scores, first_seed):
            usual = {"test/corr": 0.5, "cell/train_s": number}
            metrics = score if isinstance(score, dict) else {
                "valid/loss": score[0], "test/mae": score[1], **usual}  # fmt: skip
            names[str(seed)] = f"{self.name} {self.dataset} {self.backbone} {number} {seed}"
            self.cells[names[str(seed)]] = SimpleNamespace(metrics=metrics)
        means = [self.cells[cell_id].metrics[self.objective] for cell_id in names.values()]
        metrics = {"objective": statistics.fmean(means)} if means and state == "complete" else {}
        own = {"sweep": self.name, "dataset": self.dataset, "backbone": self.backbone, "method": "ms_mix"}
        own |= {"objective": self.objective, "trial": str(number), "state": state, "synthetic": "true"}
        own |= {"params": json.dumps(params), "cells": json.dumps(names)}
        self.runs.append(SimpleNamespace(run_id=f"r{number}", tags=own | tags, metrics=metrics))
        return self


def delta_sweep(values, default=0, **options):
    sweep = Sweep(**options)
    for k in range(values.shape[1]):
        tag = {"default": "true"} if k == default else {}
        sweep.add({"delta": k / 10}, *((v, v + 0.1) for v in values[:, k]), **tag)
    return sweep


def verdict(sweep):
    (found,) = verdicts(load_trials(sweep))
    return found


def sentence(sweep):
    return verdict(sweep).sentence


def table_of(sweep):
    return settings_table(load_trials(sweep))


def written(sweep, folder):
    """The files of the sweep's tables: CSV, Markdown, LaTeX."""
    folder.mkdir(exist_ok=True)
    study = dataclasses.replace(empty_study(), name=sweep.study, trials=load_trials(sweep))
    return [path for table in sweep_tables(study) for path in write_table(table, folder)]


def texts(sweep, folder):
    return [path.read_text(encoding="utf-8") for path in written(sweep, folder)]


SMALL = np.array([[0.50, 0.46, 0.41, 0.44, 0.49], [0.60, 0.57, 0.50, 0.55, 0.58]])


def test_frame_has_a_row_per_number_of_each_seed_and_none_without_a_sweep(tmp_path):
    sweep = Sweep().add(
        {"xi2": 0.1, "xi1": 0.5},
        {"valid/loss": 0.5, "test/mae": 0.7, "test_r0.50/mae": 0.9, "cell/epoch_s": 3.0, "epoch/loss": 1.0},
        {"valid/loss": 0.6, "test/mae": NAN},
        default="true",
    )
    empty, frame = load_trials(Sweep()), load_trials(sweep)
    assert list(frame.columns) == list(empty.columns) == list(COLUMNS)
    assert verdicts(empty) == written(Sweep(), tmp_path) == []
    assert settings_table(empty).empty
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


def test_ranks_follow_the_metric_and_equals_share_one_with_the_default_first_among_them(tmp_path):
    sweep = Sweep(objective="valid/corr")
    for delta, corr in ((0.1, 0.3), (0.2, 0.6), (0.3, 0.5)):
        sweep.add({"delta": delta}, {"valid/corr": corr, "test/mae": 1.0})
    assert verdict(sweep).best == '{"delta": 0.2}'
    assert list(table_of(sweep)["rank"]) == [1, 2, 3]
    assert "valid corr ↑" in texts(sweep, tmp_path)[1]
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
        ([(0.9, 0.7), (0.8, 0.9)], [(0.5, 0.66), (0.5, 0.91)], 1111,
         ", n = 2), inside the noise between seeds."),
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


GOLDEN = """\
### Study s: sweep delta (synthetic stand-in data)

#### ms\\_mix with misa on synthetic\\_mosi

delta on misa, synthetic\\_mosi: the setting matters beyond the noise between seeds: some are better than \
others (p = 0.0083; 5 settings, 2 seeds). On the validation split, the best setting is delta=0.2 (valid \
loss 0.455); the default, delta=0, has valid loss 0.550. On the test split, the best setting (delta=0.2) has \
MAE 0.555, the default 0.650 (difference -0.095, 95% interval over seeds -0.159 to -0.031, n = 2). Of 6 \
settings 1 failed (first reason: no memory).

| Rank | delta | Seeds | valid loss ↓ | Test MAE ↓ | Test Corr ↑ | Note |
| ---: | ---: | ---: | ---: | ---: | ---: | --- |
"""


def test_files_start_as_written_by_hand_and_hold_the_same_settings_in_any_order_of_trials(tmp_path):
    sweep = delta_sweep(SMALL).add({"delta": 0.8}, state="failed", reason="no memory")
    files = written(sweep, tmp_path)
    assert [path.name for path in files] == ["sweep_delta.csv", "sweep_delta.md", "sweep_delta.tex"]
    numbers, markdown, latex = (path.read_text(encoding="utf-8") for path in files)
    assert markdown.startswith(GOLDEN)
    rows = markdown.removeprefix(GOLDEN).split("\n\n")[0].split("\n")
    assert rows[0] == "| 1 | 0.2 | 2 | 0.455 ± 0.064 | 0.555 ± 0.064 | 0.500 ± 0.000 |  |"
    assert rows[4].endswith("| 0.500 ± 0.000 | default |")
    assert rows[5:] == ["| – | 0.8 | 0 | – | – | – | failed |"]
    caption = "Study s: sweep delta, ms\\_mix with misa on synthetic\\_mosi (synthetic stand-in data).\n"
    said = "delta on misa, synthetic\\_mosi: the setting matters"
    assert f"\\caption{{{caption}{said}" in latex
    objectives = pd.read_csv(io.StringIO(numbers))["objective_value"]
    assert objectives.tolist()[:5] == sorted(SMALL.mean(axis=0))
    sweep.runs.reverse()
    sweep.cells = dict(reversed(sweep.cells.items()))
    assert texts(sweep, tmp_path) == [numbers, markdown, latex]
    # Intervals stand where three seeds have the number. Student's t: 4.3027 * 0.1 / sqrt(3).
    _, markdown, latex = texts(Sweep().add({"delta": 0.1}, (0.4, 0.5), (0.6, NAN), (0.5, 0.8)), tmp_path)
    shown = "0.500 ± 0.100 \\[0.252, 0.748\\] | 0.650 ± 0.212 | 0.500 ± 0.000 \\[0.500, 0.500\\]"
    assert f"| 1 | 0.1 | 3 | {shown} |" in markdown
    assert "from 3 seeds on" in latex
    # Only titles of synthetic data say so.
    real = Sweep(dataset="mosi").add({"delta": 0.1}, (1, 1), synthetic="false")
    assert not any("synthetic stand-in data" in text for text in texts(real, tmp_path))
    mixed = Sweep(runs=[*real.runs], cells={**real.cells}).add({"delta": 0.1}, (1, 1))
    _, markdown, latex = texts(mixed, tmp_path)
    assert markdown.count("(includes synthetic stand-in data)") == markdown.count("stand-in") == 1
    assert latex.count("(synthetic stand-in data)") == latex.count("stand-in") == 1


def test_hostile_names_leave_neither_the_folder_nor_their_cell(tmp_path):
    name = "../a b|c_d*e<f>&g\nr`s`"
    texts(Sweep(name=name, study=name, dataset=name, backbone=name).add({name: name}, (1, 1)), tmp_path / "t")
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert {path.parent for path in files} == {tmp_path / "t"}
    assert [path.suffix for path in files] == [".csv", ".md", ".tex"]
    shown, markdown = r"../a b\|c\_d\*e&lt;f&gt;&amp;g r\`s\`", files[1].read_text()
    assert f"### Study {shown}: sweep {shown} (" in markdown
    assert f"#### ms\\_mix with {shown} on {shown}\n" in markdown
    assert f"| Rank | {shown} | Seeds |" in markdown
    assert f"| 1 | {shown} | 1 |" in markdown
    escaped = r"../a b\textbar{}c\_d*e\textless{}f\textgreater{}\&g r`s`".replace("*", "{*}")
    assert f"Rank & {escaped} & Seeds &" in files[2].read_text()
    assert f"1 & {escaped} & 1 &" in files[2].read_text()


@given(st.lists(st.text(), min_size=2, max_size=2, unique=True))
@settings(deadline=None)
def test_names_of_files_differ_and_are_safe(names):
    first, second = map(file_name, names)
    assert first != second
    assert re.fullmatch(r"[A-Za-z0-9_.~%-]*", first)
    assert len(file_name(names[0] * 100)) <= 150
    # Long names with a common start.
    assert file_name("x" * 200 + names[0]) != file_name("x" * 200 + names[1])


def test_settings_have_a_column_each_with_a_dash_where_one_has_none(tmp_path):
    sweep = Sweep().add({"alpha": 0.123456, "mode": "x"}, (1, 1)).add({"alpha": None}, (2, 1))
    sweep.add({"alpha": True, "heads": 8}, (3, 1))
    for text, start in zip(texts(sweep, tmp_path)[1:], ("| ", ""), strict=True):
        lines = text.replace(" & ", " | ").replace("--", "–").split("\n")
        rows = [line.removeprefix(start) for line in lines if re.match(r"(\| )?[123R]", line)]
        assert [row.split(" | ")[:5] for row in rows] == [
            ["Rank", "alpha", "heads", "mode", "Seeds"],
            ["1", "0.1235", "–", "x", "1"],
            ["2", "null", "–", "–", "1"],
            ["3", "true", "8", "–", "1"],
        ]

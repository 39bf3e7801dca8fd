"""A study as reports read it from MLflow: what is cached, what became of each cell, what the data are."""

import contextlib
import dataclasses
import json
import math
import re
import shutil
import socket
import sqlite3
from collections import OrderedDict
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.tracking._tracking_service import utils as mlflow_utils

import harness.train.loop
from backbones import transformer
from harness.matrix import RESULTS_VERSION
from harness.study.description import CODE_FILE, DATASETS_FILE, MATRIX_FILE
from harness.tracking.tags import KEPT_TAGS
from harness.tracking.tracker import Tracker
from harness.train.loop import Diverged
from methods import multimix
from reports import ui
from reports.figures import latents
from reports.figures import ranks as rank_figure
from reports.mlflow_links import LOCAL, Links
from reports.page import summary
from reports.page.departures import departures, notes_of
from reports.page.report import all_tables
from reports.stats import comparison
from reports.stats.ranking import ranks
from reports.study import load_study
from reports.study_runs import StudyRuns
from reports.tables.cost import cost_numbers
from reports.tables.datasets import dataset_numbers, dataset_table
from reports.tables.sweeps import page_tables
from reports.tables.table import to_latex
from tests.support.drivers.driving import exported, run
from tests.support.studies import make_study

FEW = ("methods=[none,mixup,ms_mix]", "backbones=[lmf]", "seeds=[1111,1112]")
CELLS = 6


@pytest.fixture(scope="module")
def stored(new_var):
    """A study with a diverged cell, a failed one and one that was never begun; do not write into it."""
    var = new_var()
    plain = harness.train.loop.train

    def train(cell, *rest):
        if cell.seed == 1112 and cell.method == "mixup":
            raise Diverged("a training loss is not finite at epoch 2, step 1")
        if cell.seed == 1112 and cell.method == "ms_mix":
            raise RuntimeError("no room <here>")
        return plain(cell, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.launchers.job.train", train)
        assert run(var, *FEW) == 1
    return var


@pytest.fixture
def var(stored, tmp_path, monkeypatch):
    """A copy of it to write into, with artifacts of its own."""
    copy = tmp_path / "var"
    shutil.copytree(stored, copy)
    with contextlib.closing(sqlite3.connect(copy / "mlflow.db")) as database, database:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            moved = f"UPDATE {table} SET {column} = replace({column}, ?, ?)"
            database.execute(moved, (stored.as_uri(), copy.as_uri()))
    # MLflow remembers by a run's id alone where its artifacts are.
    monkeypatch.setattr(mlflow_utils, "_artifact_repos_cache", OrderedDict())
    return copy


def tracker_of(var):
    return Tracker(None, var, "s", create=False)


def load(var):
    return load_study(StudyRuns(tracker_of(var), var / "cache"))


def plain_runs(runs):
    """By text, in which NaN equals NaN."""
    return {cell_id: (r.run_id, dict(r.tags), str(r.metrics)) for cell_id, r in runs.items()}


# The cache of runs


def asked_of_mlflow(tracker, everywhere=False):
    found = {}
    for one in tracker.runs(everywhere=everywhere):
        found.setdefault(one.tags["cell_id"], one)
    return found


def test_what_is_read_past_mlflow_is_what_it_gives(stored, tmp_path):
    tracker = tracker_of(stored)
    wanted = asked_of_mlflow(tracker)
    for read in (tracker.complete, *[StudyRuns(tracker, tmp_path).complete] * 2):
        found = read()
        assert list(found) == list(wanted), "in the order of their starts"
        assert plain_runs(found) == plain_runs(wanted)


def test_what_other_studies_hold_comes_without_numbers(var):
    tracker = tracker_of(var)
    other = Tracker(None, var, "another")
    assert other.complete() == {}
    wanted = asked_of_mlflow(other, everywhere=True)
    kept = {"kind", "complete", "cell_id", "method", "backbone", *KEPT_TAGS}
    assert set(wanted) == set(tracker.complete())
    bare = [(r.run_id, {k: v for k, v in r.tags.items() if k in kept}, {}) for r in wanted.values()]
    runs = other.complete(everywhere=True)
    assert list(runs) == list(wanted)
    assert [(r.run_id, r.tags, r.metrics) for r in runs.values()] == bare
    tracker.client.delete_experiment(tracker.experiment_id)
    assert other.complete(everywhere=True) == {}


def test_numbers_come_from_the_cache_and_tags_from_the_store(var, tmp_path, monkeypatch):
    tracker = tracker_of(var)
    first, second, *others = tracker.complete().values()
    tracker.client.log_metric(first.run_id, "test/corr", math.nan, step=1)
    assert plain_runs(StudyRuns(tracker, tmp_path).complete()) == plain_runs(tracker.complete())
    asked = []
    plain = Tracker.last_numbers
    monkeypatch.setattr(Tracker, "last_numbers", lambda self, ids: asked.extend(ids) or plain(self, ids))
    tracker.client.set_tag(first.run_id, "tuned", "abc")
    tracker.client.delete_run(second.run_id)
    runs = {run.run_id: run for run in StudyRuns(tracker, tmp_path).complete().values()}
    assert asked == []
    assert runs[first.run_id].tags["tuned"] == "abc"
    assert math.isnan(runs[first.run_id].metrics["test/corr"])
    assert math.isfinite(runs[first.run_id].metrics["test/mae"])
    assert set(runs) == {first.run_id, *(run.run_id for run in others)}
    tracker.client.restore_run(second.run_id)
    assert plain_runs(StudyRuns(tracker, tmp_path).complete()) == plain_runs(tracker.complete())


def test_a_damaged_cache_is_made_anew_and_none_costs_nothing(stored, tmp_path, monkeypatch):
    def read(folder):
        return plain_runs(StudyRuns(tracker_of(stored), folder).complete())

    wanted = read(tmp_path / "a")
    [path] = (tmp_path / "a" / "runs").iterdir()
    for damage in (b"", b"PAR1", b"x" * 1000, path.read_bytes()[:-200]):
        path.write_bytes(damage)
        assert read(tmp_path / "a") == read(tmp_path / "a") == wanted
    (tmp_path / "runs").write_text("a file in the place of the folder")
    assert read(tmp_path) == wanted
    # A server gives runs as a whole only.
    monkeypatch.setattr(Tracker, "_engine", lambda self: None)
    assert read(tmp_path / "b") == wanted
    assert not (tmp_path / "b").exists()


# Cells


def test_every_cell_asked_for_has_a_state_and_a_reason(stored):
    study = load(stored)
    states = study.outcomes.set_index("cell")[["state", "reason"]].to_dict("index")
    assert study.counts() == {"done": 4, "failed": 1, "diverged": 1, "missing": 0}
    assert states["synthetic_mosi/lmf/mixup/seed1112"]["state"] == "diverged"
    assert "not finite at epoch 2, step 1" in states["synthetic_mosi/lmf/mixup/seed1112"]["reason"]
    assert states["synthetic_mosi/lmf/ms_mix/seed1112"]["state"] == "failed"
    assert "no room <here>" in states["synthetic_mosi/lmf/ms_mix/seed1112"]["reason"]
    assert study.outcomes["requested"].all()
    complete = set(tracker_of(stored).complete())
    for frame in (study.frame, *exported(stored)):
        assert set(frame["cell_id"]) == complete, "neither a mean nor an export has a part of the others"


def test_cells_of_the_last_request_without_a_run_are_missing(var, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("harness.interrupts.signal.signal", lambda *_: None)
        patch.setattr("harness.study.driver.Driver.run", stop)
        assert run(var, "methods=[none,powmix]", "backbones=[lmf]", "seeds=[1111,1112,1113]") == 130
    study = load(var)
    assert study.counts() == {"done": 4, "failed": 1, "diverged": 1, "missing": 4}
    missing = study.outcomes[study.outcomes["state"] == "missing"]
    wanted = {("powmix", 1111), ("powmix", 1112), ("powmix", 1113), ("none", 1113)}
    assert set(zip(missing["method"], missing["seed"], strict=True)) == wanted
    assert list(study.outcomes["requested"]).count(True) == 6


def test_what_became_of_a_cell_later_counts(var):
    tracker = tracker_of(var)
    [failed] = [r for r in tracker.failures() if r.tags["outcome"] == "failed"]
    tracker.client.set_tag(failed.run_id, "sweep", "delta")
    counts = load(var).counts()
    assert (counts["failed"], counts["missing"]) == (0, 1), "a sweep's failure is not of the matrix"
    assert run(var, *FEW, "retry=diverged") == 0
    assert load(var).counts() == {"done": CELLS, "failed": 0, "diverged": 0, "missing": 0}


# What is announced


def test_data_sets_are_described_and_those_of_earlier_requests_stay(var):
    sims = ("datasets=[synthetic_sims]", "dataset.synthetic_sims.clips=40")
    assert run(var, *sims, *FEW[:2], "seeds=[1]") == 0
    tracker = tracker_of(var)
    described = {entry["name"]: entry for entry in json.loads(tracker.study_file(DATASETS_FILE))}
    assert set(described) == {"synthetic_mosi", "synthetic_sims"}
    assert all(entry["synthetic"] for entry in described.values())
    entry = described["synthetic_mosi"]
    assert sum(split["clips"] for split in entry["splits"].values()) == 60
    assert entry["like"] == "mosi"
    for split in entry["splits"].values():
        assert split["negative"] + split["neutral"] + split["positive"] == pytest.approx(1)
        assert 1 < split["videos"] < split["clips"]
        assert all(0 < x["median"] <= x["p95"] <= entry["steps"][m] for m, x in split["lengths"].items())
    numbers = dataset_numbers(load(var))
    assert list(zip(numbers["dataset"], numbers["split"], strict=True)) == [
        (name, split) for name in sorted(described) for split in ("train", "valid", "test")
    ]
    row = numbers.iloc[0]
    assert (row["clips"], row["text_width"]) == (entry["splits"]["train"]["clips"], entry["widths"]["text"])


def test_the_same_announcement_is_stored_once(var, monkeypatch):
    tracker = tracker_of(var)
    files = {name: tracker.study_file(name) for name in (DATASETS_FILE, MATRIX_FILE, CODE_FILE)}
    stored = []
    monkeypatch.setattr(LocalArtifactRepository, "log_artifacts", lambda *given: stored.append(given))
    tracker.announce(files, tracker.description())
    assert stored == []
    tracker.announce({**files, MATRIX_FILE: "{}"}, tracker.description())
    assert len(stored) == 1


def test_the_ui_gets_a_view_of_the_cells(stored):
    tags = tracker_of(stored).client.get_experiment(tracker_of(stored).experiment_id).tags
    view = json.loads(tags["mlflow.sharedViewState.cells"])
    assert {"tags.`variant`", "tags.`backbone`", "metrics.`test/mae`"} <= set(view["selectedColumns"])
    link = Links(LOCAL, "7").study()
    assert link == f"{LOCAL}/#/experiments/7/runs?workflowType=machine_learning&viewStateShareKey=cells"


def asked(link):
    """The filter of a link to a list of runs: tag -> value."""
    text = unquote(link.partition("searchFilter=")[2])
    return dict(re.findall(r"tags\.(\w+) = '([^']*)'", text))


def test_numbers_link_to_the_runs_behind_them():
    study = make_study(2, ("synthetic_mosi",), ("tfn",), ("none", "ms_mix"), samples=False)
    tables = [*all_tables(study, summary.compare_methods(study)), *page_tables(study)]
    for part in (part for table in tables if table.name != "table1_datasets" for part in table.parts):
        for row in (row for group in part.groups for row in group):
            texts = {column.title: value.text for column, value in zip(part.columns, row, strict=True)}
            for column, value in zip(part.columns, row, strict=True):
                if not value.link:
                    shows_a_mean = column.number and column.title.endswith(("↓", "↑", "Gain", "Seeds"))
                    assert not shows_a_mean, column.title
                    continue
                tags = asked(value.link)
                assert tags["dataset"] == "synthetic_mosi"
                if "Method" in texts and tags["kind"] == "cell":
                    assert tags["variant"] == texts["Method"]
                    assert tags["complete"] == "true"
                if "Occlusion in" in texts:
                    assert tags["occlusion_protocol"] == texts["Occlusion in"]
                    assert ("train_ratio" in tags) == (texts["Occlusion in"] == "train")
    assert Links(LOCAL, "7").behind({"method": "powmix{tuned}"}).count("powmix") == 1
    assert asked(Links(LOCAL, "7").behind({"method": "powmix{tuned}"}))["method"] == "powmix"


def test_samples_are_those_of_the_first_seeds(stored):
    study = load(stored)
    assert set(study.sampled["seed"]) == {1111}
    assert set(study.sampled["method"]) == {"none", "mixup", "ms_mix"}
    for run_id, method in zip(study.sampled["run_id"], study.sampled["method"], strict=True):
        assert ("mixed_text" in study.samples(run_id)) == (method != "none")
    assert not latents.FIGURE.data(study).empty


def test_settings_that_differ_from_the_published_ones_are_told(stored, var):
    assert load(stored).settings == ["lmf on synthetic_mosi: max_epochs 2 (200)."]
    assert run(var, "methods=[none]", "backbones=[tfn]", "seeds=[1]") == 0
    [tfn] = [text for text in load(var).settings if text.startswith("tfn")]
    assert "text_out 4 (" in tfn
    assert "audio_hidden 4 (" in tfn


def test_what_results_were_made_with(stored):
    study = load(stored)
    assert study.facts["Results version"] == str(RESULTS_VERSION)
    assert study.facts["Device"] == "cpu"
    assert {"torch", "mlflow", "python", "Code"} <= set(study.facts)
    assert study.stand_in(["synthetic_mosi"]) == " (synthetic stand-in data)"
    assert study.stand_in(["synthetic_mosi", "mine"]) == " (includes synthetic stand-in data)"
    assert study.stand_in(["mine"]) == ""
    assert study.stand_in([]) == " (synthetic stand-in data)", "of a place where nothing is shown yet"


def test_what_is_stored_of_data_sets_tells_stand_ins(var):
    tracker = tracker_of(var)
    [entry] = json.loads(tracker.study_file(DATASETS_FILE))
    tracker.announce({DATASETS_FILE: json.dumps([{**entry, "synthetic": False}])}, None)
    assert load(var).synthetic == frozenset(), "a file in the place of a synthetic data set"
    tracker.announce({DATASETS_FILE: json.dumps([{"name": "synthetic_mosi", "synthetic": True}])}, None)
    assert load(var).datasets == [], "of an older version"


# The parts of a report that are made of it


def test_time_over_none_equals_a_loop():
    frame = make_study(seeds=4, datasets=("synthetic_mosi",), ablation=False).frame
    times = frame[frame["metric"] == "epoch_s"].set_index(["backbone", "method", "seed"])["value"]
    numbers = cost_numbers(frame).set_index(["backbone", "method"])
    for (backbone, method), row in numbers.iterrows():
        ratios = [times[backbone, method, 1111 + k] / times[backbone, "none", 1111 + k] for k in range(4)]
        assert row["overhead"] == pytest.approx(np.mean(ratios))
        assert (row["n"], row["backbone_parameters"]) == (4, 9000)
        assert row["method_parameters"] == (500 if method == "ms_mix" else 0)
        assert row["overhead_low"] <= row["overhead"] <= row["overhead_high"]
    elsewhere = frame.assign(environment=frame["environment"].where(frame["method"] != "none", "GPU"))
    overheads = cost_numbers(elsewhere).set_index("method")["overhead"]
    assert overheads.drop("none").isna().all(), "time of another machine is not compared"
    assert (overheads["none"] == 1).all()


def gains(study, method, gain, spread=0.001):
    """The study with this gain of a method in MAE over none, for every backbone and seed."""
    frame = study.frame.copy()
    keys = ["dataset", "backbone", "seed", "occlusion_protocol", "occlusion_ratio", "split"]
    none = frame[(frame["method"] == "none") & (frame["metric"] == "mae")].set_index(keys)["value"]
    rows = (frame["method"] == method) & (frame["metric"] == "mae") & (frame["split"] == "test")
    noise = np.random.default_rng(0).normal(0, spread, rows.sum())
    frame.loc[rows, "value"] = none.loc[list(map(tuple, frame.loc[rows, keys].values))].array - gain + noise
    return dataclasses.replace(study, frame=frame)


SIX = ("tfn", "lmf", "mult", "misa", "almt", "glomo")


def small(seeds, *methods):
    """A study of six backbones on clean data alone."""
    return make_study(seeds, ("synthetic_mosi",), SIX, methods, (0.0,), (), False, False, False)


def said_of(study):
    """The sentences of the summary as one text."""
    return " ".join(summary.sentences(study, summary.compare_methods(study)))


@pytest.mark.parametrize(
    ("gain", "wanted"),
    [
        (0.3, ["mixup has the largest mean gain in test MAE over none", "also by Wilcoxon's",
               "better on 6, worse on 0"]),
        (-0.3, ["no method has a lower mean test MAE than none; mixup comes closest",
                "worse beyond the noise", "better on 0, worse on 6"]),
    ],
)  # fmt: skip
def test_the_summary_says_what_is_outside_the_noise(gain, wanted):
    said = said_of(gains(small(3, "none", "mixup"), "mixup", gain))
    assert all(text in said for text in [*wanted, "6 backbones, 3 seeds"])
    assert ("outside the noise, also" in said) == (gain > 0)


def few_strata(study, method, backbones):
    """The study with a method on some backbones alone."""
    kept = (study.frame["method"] != method) | study.frame["backbone"].isin(backbones)
    return dataclasses.replace(study, frame=study.frame[kept])


def test_a_method_does_not_win_by_the_backbones_that_it_lacks():
    """powmix gains 0.3 on one backbone, mixup 0.1 on all six."""
    study = small(3, "none", "mixup", "powmix")
    said = said_of(few_strata(gains(gains(study, "mixup", 0.1), "powmix", 0.3), "powmix", SIX[:1]))
    assert "mixup has the largest mean gain in test MAE over none (+0.100" in said
    assert "Also better beyond the noise: powmix (on only 1 backbone)" in said


def test_the_summary_counts_for_holm_what_is_tested():
    """On one backbone there is no test; on six p is 0.031 or more, times the methods that have one."""
    study = small(3, "none", "mixup", "manifold_mixup", "powmix")
    for method in ("mixup", "manifold_mixup", "powmix"):
        study = gains(study, method, 0.3)
    for lacking, wanted in (
        ((), "(6 backbones are too few for Holm's correction for 3 methods)"),
        (("mixup",), "(6 backbones are too few for Holm's correction for 2 methods)"),
        (("mixup", "powmix"), ", also by Wilcoxon's test over backbones (p = 0.031)"),
    ):
        fewer = study
        for method in lacking:
            fewer = few_strata(fewer, method, SIX[:1])
        found = summary.compare_methods(fewer)
        assert wanted in said_of(fewer)
        holm = found[(found["metric"] == "mae") & (found["method"] == "manifold_mixup")]["p_holm"].item()
        assert holm == pytest.approx(2 / 2**6 * (3 - len(lacking)))


@pytest.mark.parametrize(("seeds", "told"), [(1, False), (2, True)])
def test_the_summary_says_how_often_a_run_beats_one_of_the_baseline(seeds, told):
    """Counted by hand: pairs of runs of the same backbone and data set."""
    study = gains(small(seeds, "none", "mixup"), "mixup", 0.0, spread=0.05)
    said = said_of(study)
    rows = study.scores().query("metric == 'mae' and split == 'test'")
    pairs = rows[rows["method"] == "mixup"].merge(rows[rows["method"] == "none"], on=["dataset", "backbone"])
    chance = (pairs["value_x"] < pairs["value_y"]).mean()
    assert (f"too narrow for few seeds): mixup {chance:.2f} (" in said) == told


def test_noise_and_one_seed_claim_nothing():
    study = small(5, "none", "mixup", "powmix")
    said = said_of(gains(gains(study, "mixup", 0.0, spread=0.05), "powmix", 0.0, spread=0.05))
    assert "inside the noise" in said
    assert "outside the noise" not in said
    study = small(1, "none", "mixup")
    assert "with one seed no uncertainty can be given" in said_of(study)
    assert "outside" not in said_of(study)
    table = summary.comparison_table(study, summary.compare_methods(study))
    assert all(value.text == "–" for group in table.parts[0].groups for row in group for value in row[4:10])


@pytest.mark.parametrize(("clips", "wanted"), [(1, "only 1 clip:"), (49, "only 49 clips:"), (50, "")])
def test_the_summary_warns_of_a_small_test_split(clips, wanted):
    study = make_study(3, ("synthetic_mosi", "synthetic_sims"), SIX, ("none", "mixup"), (0.0,), sweeps=False)
    for entry in study.datasets:
        if entry["name"] == "synthetic_mosi":
            entry["splits"]["test"]["clips"] = clips
    small, large, *_ = summary.sentences(study, summary.compare_methods(study))
    assert small.startswith("synthetic_mosi: ")
    assert ("test split has" in small) == bool(wanted)
    assert wanted in small
    assert "test split has" not in large


def test_without_a_rival_there_is_nothing_to_compare():
    for methods in ((), ("none",), ("mixup",)):
        study = small(2, *methods)
        found = summary.compare_methods(study)
        assert found.empty
        assert "nothing to compare" in summary.sentences(study, found)[0]
        assert "nothing to compare" in summary.comparison_table(study, found).notes[0]


def test_departures_are_those_of_the_cards():
    notes = notes_of("Title.\n\nNOTE[DIFF] one,\nand more.\nNOTE[DIFF] two.\n\nnot this\n")
    assert notes == ["one, and more.", "two."]
    found = dict(departures(["ms_mix[sass]", "none", "mine", "ms_mix{delta:0.4}"], ["misa[bert]", "yours"]))
    assert set(found) == {"MS-Mix", "MISA"}
    assert any("delta = 0.2" in note for note in found["MS-Mix"])
    assert all("NOTE[DIFF]" not in note for texts in found.values() for note in texts)
    # PowMix imports a function from MultiMix's module; MulT and GLoMo share the blocks of the transformer.
    shared = dict(departures(["powmix", "multimix"], ["mult", "glomo"]))
    assert not set(shared.get("PowMix", ())) & set(notes_of(multimix.__doc__))
    assert set(notes_of(transformer.__doc__)) <= set(shared["MulT"]) & set(shared["GLoMo"])


def test_the_ui_prints_the_link_and_hides_the_address(stored, capsys, monkeypatch):
    called = []
    monkeypatch.setattr(ui.os, "execv", lambda *given: called.append(given))
    monkeypatch.setattr(ui.os, "environ", {})
    monkeypatch.setattr(ui.os, "fork", lambda: 1)
    monkeypatch.setattr(ui.os, "wait", lambda: None)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setattr("reports.mlflow_links.LOCAL", f"http://127.0.0.1:{port}")
        assert ui.main([f"var_dir={stored}", "study=s", f"port={port}"]) == 2
        assert f"port={port} cannot be used; another program may listen" in capsys.readouterr().err
        ui.main([f"var_dir={stored}", "study=s"])
    [(_, command)] = called
    assert command[-4:-1] == ["--host", "127.0.0.1", "--port"]
    assert port < int(command[-1]) < port + 100
    said = f"The UI listens on port {command[-1]}; links in reports lead to port {port}."
    assert said in capsys.readouterr().out
    assert not any("sqlite" in part for part in command)
    assert ui.os.environ["MLFLOW_BACKEND_STORE_URI"].endswith("mlflow.db")


def test_frames_are_told_apart_by_what_they_ran_on(var):
    tracker = tracker_of(var)
    first = next(iter(tracker.complete().values()))
    tracker.client.set_tag(first.run_id, "device", "another GPU")
    runs = load(var).frame.groupby("environment")["run_id"].nunique()
    assert sorted(runs) == [1, 3]
    assert any(name.startswith("another GPU, torch ") for name in runs.index)


# One configuration counts


def test_cells_with_other_settings_do_not_enter_a_mean(var):
    """A trial of another length in the same study: the last request's cells count, whatever ran before."""
    again = ("methods=[none]", "backbones=[lmf]", "seeds=[1111,1112]", "train.max_epochs=1")
    assert run(var, *again) == 0
    study = load(var)
    rows = study.frame[study.frame["method"] == "none"]
    assert rows["cell_id"].nunique() == 4
    assert rows[~rows["superseded"]]["cell_id"].nunique() == 2
    asked = {row[0] for row in json.loads(tracker_of(var).study_file(MATRIX_FILE))["cells"]}
    assert set(rows[~rows["superseded"]]["cell_id"]) == asked
    table = next(t for t in all_tables(study, summary.compare_methods(study)) if t.name.startswith("table2"))
    [row] = [r for group in table.parts[0].groups for r in group if r[2].text == "none"]
    assert row[3].text == "2"
    assert any("2 cells with other backbone" in note for note in table.notes)
    assert study.warnings[0].startswith("2 cells are left out: the latest request")
    assert study.warnings[1].startswith("lmf on synthetic_mosi: ")
    # The first request again: its own cells count, and nothing is trained.
    assert run(var, "methods=[none]", "backbones=[lmf]", "seeds=[1111,1112]") == 0
    kept = load(var).frame.query("method == 'none' and not superseded")["cell_id"]
    assert set(kept).isdisjoint(asked)
    # Of cells that differ in their ratios alone those of the last request count, too.
    assert run(var, "methods=[none]", "backbones=[lmf]", "seeds=[1111,1112]", "occlusion.ratios=[0]") == 0
    rows = load(var).frame.query("method == 'none' and not superseded")
    assert rows["cell_id"].nunique() == 2
    assert set(rows["occlusion_ratio"]) == {0.0}


def test_a_command_that_fills_a_hole_repeats_the_last_request():
    study = make_study(1, ("synthetic_mosi",), ("tfn",), ("none",), sweeps=False, samples=False)
    assert study.command("make sweep PARAM=delta") == "make sweep PARAM=delta"
    named = dataclasses.replace(study, name="my study", request=("profile=quick", "study=my study"))
    more = "make benchmark ARGS=matrix=ablation"
    assert named.command(more) == f"{more} STUDY='my study'"
    own = ("datasets=[mine]", "dataset.mine.path=a b.pkl", "methods=[none,mixup]", "seeds=[1]", "study=mine")
    mine = dataclasses.replace(study, name="mine", request=own)
    same = "study=mine 'datasets=[mine]' 'dataset.mine.path=a b.pkl'"
    ablation = f"python -m harness.benchmark matrix=ablation {same} 'seeds=[1]'"
    assert mine.command(more) == ablation
    assert mine.command("make sweep PARAM=delta") == f"python -m sweeps.run param=delta {same}"
    assert mine.command("make benchmark ARGS='occlusion.ratios=[0,0.5]'").startswith(
        "python -m harness.benchmark 'occlusion.ratios=[0,0.5]' study=mine "
    )


def test_every_empty_table_names_the_command_of_its_own_study():
    study = make_study(0, (), sweeps=False)
    asked = dataclasses.replace(study, name="mine", request=("datasets=[mine]", "study=mine"))
    tables = all_tables(asked, summary.compare_methods(asked))
    assert all(len(table) == 0 for table in tables)
    assert all(table.fill.startswith("python -m harness.benchmark ") for table in tables)
    assert all("datasets=[mine]" in table.fill for table in tables)


def test_tuned_methods_are_paired_with_the_tuned_baseline():
    def differences(*parts):
        return comparison.paired(pd.concat(parts), "mae").groupby("method")["difference"].mean()

    frame = make_study(3, ("synthetic_mosi",), ("tfn",), ("none", "mixup"), (0.0,), (), False, False).frame
    scores = frame[frame["split"] == "test"].assign(occlusion_protocol="test")
    tuned = scores.assign(method=scores["method"] + "{tuned}", value=scores["value"] + 1.0)
    gain = differences(scores)["mixup"]
    both = {"mixup": gain, "mixup{tuned}": gain, "none{tuned}": 1.0}
    assert differences(scores, tuned).drop("none", errors="ignore").to_dict() == pytest.approx(both)
    assert differences(tuned).to_dict() == pytest.approx({"mixup{tuned}": gain})
    mixed = differences(scores, tuned[tuned["method"] == "mixup{tuned}"])
    assert mixed["mixup{tuned}"] == pytest.approx(gain + 1)


def test_the_baseline_is_ranked_whatever_is_missing():
    scores = small(3, "none", "mixup", "powmix").frame.query("split == 'test'")
    lost = scores[(scores["method"] != "none") | (scores["backbone"] == "tfn")]
    assert "none" in ranks(lost, "mae").methods


def test_latex_has_no_sign_that_it_cannot_set():
    study = make_study(3, ("synthetic_mosi",), ("tfn", "misa"), samples=False, sweeps=False)
    study = gains(study, "mixup", 0.4)
    texts = [to_latex(table) for table in all_tables(study, summary.compare_methods(study))]
    assert any("$^{+}$" in text for text in texts)
    assert any(r"$\times$" in text for text in texts)
    assert all(text.isascii() for text in texts)
    assert not any("{Table 2: " in text for text in texts), "LaTeX numbers tables itself"


def test_two_names_of_one_file_are_one_set_of_data():
    study = make_study(3, ("mine", "ours"), ("tfn", "lmf"), ("none", "mixup"), sweeps=False, samples=False)
    entries = [{**entry, "fingerprint": "f", "notes": ["vision is all zeros."]} for entry in study.datasets]
    study = dataclasses.replace(study, datasets=entries)
    assert study.twins == {"ours": "mine"}
    assert set(study.distinct_scores()["dataset"]) == {"mine"}
    assert ranks(study.distinct_scores(), "mae").blocks == 2
    notes = dataset_table(study).notes
    assert "mine: vision is all zeros." in notes
    assert "ours and mine are the same data: their results are no independent evidence." in notes
    assert set(rank_figure.data(study)["dataset"]) == {"mine"}

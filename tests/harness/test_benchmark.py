"""End to end: command -> cells -> MLflow -> export, with resume, reuse, kills and two drivers."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from backbones import BACKBONES
from harness.data.export import raw_mmsa
from harness.data.synthetic import SyntheticSettings
from harness.tracking.tracker import Tracker
from reports import build, export, ui
from reports.figures import sweeps
from reports.figures.registry import FIGURES
from reports.runs.frame import EXPORT
from tests.support.drivers.driving import (
    CELLS,
    assert_each_cell_once,
    comparable_bytes,
    exported,
    finish,
    kill,
    run,
    start,
    wait_for,
    wait_for_cells,
)


def test_export_holds_every_number_once(finished_study):
    frame, predictions = exported(finished_study)
    assert tuple(frame.columns) == EXPORT
    assert frame["cell_id"].nunique() == CELLS
    keys = ["cell_id", "occlusion_protocol", "occlusion_ratio", "split", "metric"]
    assert not frame.duplicated(keys).any()
    test = frame[frame["split"] == "test"]
    assert test["occlusion_ratio"].nunique() == 3
    assert set(test["metric"]) == {
        *("acc2_has0", "f1_has0", "acc2_non0", "f1_non0", "acc5", "acc7", "mae", "corr", "loss")
    }
    cell = frame[frame["split"] == "cell"]
    assert set(cell["metric"]) == {
        *("parameter_count", "method_parameter_count", "epoch_s", "train_s", "peak_memory_mb", "best_epoch")
    }
    assert (cell["value"] >= 0).all()
    variants = frame[frame["settings"] != "{}"]
    assert {json.loads(s)["delta"] for s in variants["settings"]} == {0.4}
    clips = predictions.groupby(["cell_id", "occlusion_ratio"])
    assert clips.size().nunique() == 1
    assert len(clips) == CELLS * 3
    assert predictions["prediction"].notna().all()
    scores = test.set_index(["cell_id", "occlusion_ratio", "metric"])["value"]
    for key, rows in clips:
        p, y = rows["prediction"].astype(float), rows["label"].astype(float)
        assert scores[*key, "mae"] == pytest.approx(np.abs(p - y).mean(), rel=1e-6)
        if not np.isnan(scores[*key, "corr"]):
            assert scores[*key, "corr"] == pytest.approx(np.corrcoef(p, y)[0, 1], rel=1e-6)
    # At ratio 1 only lengths are left: no NaN but for corr, where predictions are constant.
    assert set(frame[frame["value"].isna()]["metric"]) <= {"corr"}
    for one in Tracker(None, finished_study, "s", create=False).complete().values():
        undefined = frame[frame["run_id"] == one.run_id]["value"].isna().sum()
        assert len(json.loads(one.tags["undefined"])) == undefined


def test_a_second_call_trains_nothing_and_a_wider_matrix_what_is_new(
    finished_study, tmp_path, capsys, monkeypatch
):
    var = shutil.copytree(finished_study, tmp_path / "var")
    before, _ = exported(var)
    with monkeypatch.context() as patch:
        patch.setattr("harness.train.loop.train", None)
        assert run(var) == 0
    assert f"All {CELLS} cells of study 's' are done." in capsys.readouterr().out
    pd.testing.assert_frame_equal(before, exported(var)[0])
    assert run(var, "seeds=[1111,1112,1113]", "methods=[none]") == 0
    after, _ = exported(var)
    assert after["cell_id"].nunique() == CELLS + 2
    kept = after[after["run_id"].isin(before["run_id"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(before, kept)


TWO, EVERY = ("lmf", "tfn"), sorted(BACKBONES)


@pytest.mark.parametrize(
    "backbones", [TWO, pytest.param(EVERY, marks=pytest.mark.slow)], ids=["two", "every"]
)
def test_processes_and_order_change_no_bit(train_study, finished_study, var_dir, backbones):
    """All methods of two backbones go to one worker, those of every backbone to two."""
    given, jobs, reference = [], 1, finished_study
    if backbones is EVERY:
        jobs = 2
        given = ["profile=quick", "train.max_epochs=1"]
        reference = train_study(*given, f"backbones=[{','.join(BACKBONES)}]")
    given += ["seeds=[1112,1111]", f"backbones=[{','.join(backbones)}]"]
    # The last cell of the export is trained first.
    assert run(var_dir, *given, "methods=['ms_mix{delta:0.4,sal:false}']") == 0
    assert run(var_dir, *given, f"jobs={jobs}", launcher="processes") == 0
    assert_each_cell_once(var_dir, reference, CELLS // 2 * len(backbones))
    assert comparable_bytes(reference / "s.csv") == comparable_bytes(var_dir / "s.csv")
    assert (reference / "s.parquet").read_bytes() == (var_dir / "s.parquet").read_bytes()


def test_another_study_of_the_store_reuses_cells(finished_study, tmp_path, monkeypatch):
    var = shutil.copytree(finished_study, tmp_path / "var")
    monkeypatch.setattr("harness.train.loop.train", None)
    assert run(var, study="again") == 0
    (first, first_clips), (second, second_clips) = exported(var, "s"), exported(var, "again")
    columns = [c for c in EXPORT if c not in ("study", "run_id")]
    pd.testing.assert_frame_equal(first[columns], second[columns], check_exact=True)
    pd.testing.assert_frame_equal(first_clips, second_clips, check_exact=True)
    tracker = Tracker(None, var, "again", create=False)
    assert {r.tags["reused_from"] for r in tracker.complete().values()} == set(first["run_id"])


@pytest.fixture
def unreported(finished_study):
    """The finished study as it is before its first report."""
    for folder in ("reports", "cache/reports"):
        shutil.rmtree(finished_study / folder, ignore_errors=True)
    return finished_study


def build_report(var, capsys):
    """Build the report; return the content of each file."""
    assert build.main([f"var_dir={var}", "study=s"]) == 0
    return {Path(name): Path(name).read_bytes() for name in capsys.readouterr().out.split()}


def test_report_files(unreported, capsys, monkeypatch):
    """Draw only one figure with data and one without, because drawing takes longest."""
    monkeypatch.setattr("reports.page.report.FIGURES", (*FIGURES[-1:], sweeps.FIGURE))
    folder = unreported / "reports" / "s"
    contents = build_report(unreported, capsys)
    assert next(iter(contents)) == folder / "index.html"
    assert set(contents) == {path for path in folder.rglob("*") if path.is_file()}
    assert len(list(folder.glob("data/*.csv"))) == 2
    for number in (1, 2, 5):
        [table] = folder.glob(f"tables/table{number}_*.md")
        assert "synthetic stand-in data" in table.read_text().splitlines()[0]
    written = {path: path.stat().st_mtime_ns for path in contents}
    assert build_report(unreported, capsys) == contents
    assert {path: path.stat().st_mtime_ns for path in contents} == written, "nothing is drawn again"
    tracker = Tracker(None, unreported, "s", create=False)
    [study] = tracker.runs("tags.kind = 'study'")
    stored = {f.path for f in tracker.client.list_artifacts(study.run_id)}
    assert {"index.html", "tables", "figures", "data", "datasets.json", "matrix.json"} <= stored


@pytest.mark.slow
def test_a_report_is_built_again_where_a_file_changed_and_to_the_same_bytes(unreported, capsys):
    contents = build_report(unreported, capsys)
    rows = {path.stem: len(pd.read_csv(path)) for path in contents if path.parent.name == "data"}
    assert [name for name, count in rows.items() if not count] == ["figure4_sweeps"], "there was no sweep"
    assert len(rows) == len(FIGURES)
    for path in (*list(contents)[:2], *list(contents)[-2:]):
        path.write_text("changed")
    extra = unreported / "reports" / "s" / "figures" / "left_behind.png"
    extra.write_text("")
    command = [sys.executable, "-m", "reports.build", f"var_dir={unreported}", "study=s"]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    assert {path: path.read_bytes() for path in contents} == contents
    assert not extra.exists()


def test_report_commands_name_the_nearest_study(finished_study, capsys):
    for command, *more in ((build, "out=x.csv"), (export, "out=x.csv"), (ui,)):
        assert command.main([f"var_dir={finished_study}", "study=ss", *more]) == 2
        assert "Did you mean 's'?" in capsys.readouterr().err
    assert build.main(["var_dir=nowhere", "study=s"]) == 2
    assert not Path("nowhere").exists()


def test_training_protocol_has_a_cell_per_ratio(var_dir, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    ratios = ["occlusion.protocols=[test,train]", "occlusion.train_ratios=[0.3,0.7]"]
    assert run(var_dir, *ratios, "methods=[none]", "backbones=[lmf]", "seeds=[1111]") == 0
    assert not list(here.iterdir()), "nothing is written into the working directory"
    frame, predictions = exported(var_dir)
    test = frame[(frame["split"] == "test") & (frame["metric"] == "mae")]
    places = set(zip(test["occlusion_protocol"], test["occlusion_ratio"], strict=True))
    assert places == {("test", 0.0), ("test", 0.5), ("test", 1.0), ("train", 0.3), ("train", 0.7)}
    assert frame["cell_id"].nunique() == 3
    assert set(predictions["occlusion_protocol"]) == {"test", "train"}


def test_nothing_left_gives_an_undefined_correlation_with_its_reason(var_dir, tmp_path):
    """With all lengths equal, occlusion at ratio 1 leaves constant predictions."""
    raw = raw_mmsa(SyntheticSettings("synthetic_mosi", clips=60))
    for split in raw.values():
        for key in ("text_bert", "audio_lengths", "vision_lengths"):
            del split[key]
        split.update({m: split[m][:, :1] for m in ("text", "audio", "vision")})
    file = tmp_path / "one step.pkl"
    file.write_bytes(pickle.dumps(raw))
    data = ["datasets=[mine]", f"dataset.mine.path={file}", "occlusion.ratios=[0,1]", "backbones=[lmf]"]
    assert run(var_dir, *data, "methods=[none]", "seeds=[1]", "train.max_epochs=1") == 0
    frame, _ = exported(var_dir)
    undefined = frame[frame["value"].isna()]
    assert set(zip(undefined["metric"], undefined["occlusion_ratio"], strict=True)) == {("corr", 1.0)}
    [stored] = Tracker(None, var_dir, "s", create=False).complete().values()
    assert "are the same" in json.loads(stored.tags["undefined"])["test_r1.00/corr"]


@pytest.mark.slow
def test_a_killed_driver_resumes(finished_study, var_dir):
    """After a kill in mid-matrix, complete cells stay and the others are trained once."""
    driver = start(var_dir, "resume", jobs=1)
    wait_for_cells(driver, 3)
    kill(driver, "resume")
    assert len(Tracker(None, var_dir, "s", create=False).complete()) >= 3
    assert run(var_dir) == 0
    assert_each_cell_once(var_dir, finished_study)


@pytest.mark.slow
def test_a_driver_killed_in_its_first_seconds_resumes(finished_study, tmp_path):
    """Start from an empty folder: kills also interrupt the creation of databases and caches."""
    for delay in (1.0, 2.5, 4.0, 5.5):
        driver = start(tmp_path / "var", "first")
        time.sleep(delay)
        kill(driver, "first")
    assert run(tmp_path / "var") == 0
    assert_each_cell_once(tmp_path / "var", finished_study)


@pytest.mark.slow
def test_two_drivers_share_a_study(finished_study, var_dir):
    """One driver is this process, and both train inline, so that they begin at once."""
    driver = start(var_dir, "driver", "launcher=inline")
    wait_for(driver, lambda line: line.startswith("synthetic_mosi"))
    assert run(var_dir) == 0
    finish(driver, "driver")
    assert_each_cell_once(var_dir, finished_study)


def test_a_tag_that_two_drivers_set_at_once(var_dir, monkeypatch):
    """MLflow fails for one of them; its retry changes the existing tag."""
    tracker = Tracker(None, var_dir, "s")
    tracker.describe("before")
    set_tag, calls = tracker.client.set_tag, []

    def fails_first(run_id, name, value):
        calls.append(name)
        if calls.count(name) == 1:
            raise MlflowException("UNIQUE constraint failed: tags.key, tags.run_uuid")
        set_tag(run_id, name, value)

    monkeypatch.setattr(tracker.client, "set_tag", fails_first)
    tracker.describe("described")
    assert calls == ["mlflow.note.content"] * 2
    assert tracker.description() == "described"


def test_ctrl_c_stops_and_resumes(finished_study, var_dir):
    driver = start(var_dir, "ctrl-c", "launcher=inline")
    wait_for_cells(driver, 1)
    driver.send_signal(signal.SIGINT)
    assert "to resume" in finish(driver, "ctrl-c", status=130)
    assert run(var_dir) == 0
    assert_each_cell_once(var_dir, finished_study)

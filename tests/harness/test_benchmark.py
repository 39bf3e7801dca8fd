"""The whole way: command -> cells -> MLflow -> export, with resume, reuse, kills and two drivers."""

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

from harness.data.export import raw_mmsa
from harness.data.synthetic import SyntheticSettings
from harness.tracking.tracker import Tracker
from reports import build, export, ui
from reports.frame import COLUMNS
from tests.support.drivers.driving import (
    CELLS,
    assert_each_cell_once,
    comparable_bytes,
    exported,
    finish,
    kill,
    resume,
    run,
    start,
    wait_for_cells,
)


def test_export_holds_every_number_once(finished_study):
    frame, predictions = exported(finished_study)
    assert tuple(frame.columns) == COLUMNS
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


def test_processes_and_order_change_no_bit(finished_study, tmp_path, new_var):
    var = new_var(tmp_path / "var")
    shuffled = ["seeds=[1112,1111]", "backbones=[lmf,tfn]", "jobs=2"]
    assert run(var, *shuffled, launcher="processes") == 0
    assert_each_cell_once(var, finished_study)
    assert comparable_bytes(finished_study / "s.csv") == comparable_bytes(var / "s.csv")
    assert (finished_study / "s.parquet").read_bytes() == (var / "s.parquet").read_bytes()


def test_another_study_of_the_store_reuses_cells(finished_study, tmp_path, monkeypatch):
    var = shutil.copytree(finished_study, tmp_path / "var")
    monkeypatch.setattr("harness.train.loop.train", None)
    assert run(var, study="again") == 0
    (first, first_clips), (second, second_clips) = exported(var, "s"), exported(var, "again")
    columns = [c for c in COLUMNS if c not in ("study", "run_id")]
    pd.testing.assert_frame_equal(first[columns], second[columns], check_exact=True)
    pd.testing.assert_frame_equal(first_clips, second_clips, check_exact=True)
    tracker = Tracker(None, var, "again", create=False)
    assert {r.tags["reused_from"] for r in tracker.complete().values()} == set(first["run_id"])


def build_report(var, capsys):
    """Build it; returns what each of its files holds."""
    assert build.main([f"var_dir={var}", "study=s"]) == 0
    return {Path(name): Path(name).read_bytes() for name in capsys.readouterr().out.split()}


def test_report_files(finished_study, capsys):
    folder = finished_study / "reports" / "s"
    contents = build_report(finished_study, capsys)
    assert next(iter(contents)) == folder / "index.html"
    assert set(contents) == {path for path in folder.rglob("*") if path.is_file()}
    for number in (1, 2, 5):
        [table] = folder.glob(f"tables/table{number}_*.md")
        assert "synthetic stand-in data" in table.read_text().splitlines()[0]
    rows = {path.stem: len(pd.read_csv(path)) for path in folder.glob("data/*.csv")}
    assert {name.partition("_")[0] for name, count in rows.items() if not count} == {"figure4"}, "a sweep's"
    written = {path: path.stat().st_mtime_ns for path in contents}
    assert build_report(finished_study, capsys) == contents
    assert {path: path.stat().st_mtime_ns for path in contents} == written, "nothing is drawn again"
    tracker = Tracker(None, finished_study, "s", create=False)
    [study] = tracker.runs("tags.kind = 'study'")
    stored = {f.path for f in tracker.client.list_artifacts(study.run_id)}
    assert {"index.html", "tables", "figures", "data", "datasets.json", "matrix.json"} <= stored


@pytest.mark.slow
def test_a_report_is_built_again_where_a_file_changed_and_to_the_same_bytes(finished_study, tmp_path, capsys):
    contents = build_report(finished_study, capsys)
    for path in (*list(contents)[:2], *list(contents)[-2:]):
        path.write_text("changed")
    extra = finished_study / "reports" / "s" / "figures" / "left_behind.png"
    extra.write_text("")
    command = [sys.executable, "-m", "reports.build", f"var_dir={finished_study}", "study=s"]
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
    data = ["datasets=[mine]", f"dataset.mine.path={file}", "occlusion.ratios=[0,1]"]
    assert run(var_dir, *data, "methods=[none]", "seeds=[1]", "train.max_epochs=1") == 0
    frame, _ = exported(var_dir)
    undefined = frame[frame["value"].isna()]
    assert set(zip(undefined["metric"], undefined["occlusion_ratio"], strict=True)) == {("corr", 1.0)}
    for stored in Tracker(None, var_dir, "s", create=False).complete().values():
        assert "are the same" in json.loads(stored.tags["undefined"])["test_r1.00/corr"]


def test_a_killed_driver_resumes(finished_study, var_dir):
    """Killed in mid-matrix, twice: what was done stays, the rest is trained, nothing twice."""
    for cells in (3, 12):
        driver = start(var_dir, "resume")
        wait_for_cells(driver, cells)
        kill(driver, "resume")
        assert len(Tracker(None, var_dir, "s", create=False).complete()) >= cells
    resume(var_dir, "resume", finished_study)


@pytest.mark.slow
def test_a_driver_killed_in_its_first_seconds_resumes(finished_study, tmp_path):
    """From nothing: databases and caches are killed in mid-creation too."""
    for delay in (1.0, 2.5, 3.5, 4.5, 5.5, 7.0):
        driver = start(tmp_path / "var", "first")
        time.sleep(delay)
        kill(driver, "first")
    resume(tmp_path / "var", "first", finished_study)


def test_two_drivers_share_a_study(finished_study, var_dir):
    drivers = [start(var_dir, f"driver {number}") for number in range(2)]
    for number, driver in enumerate(drivers):
        finish(driver, f"driver {number}")
    assert_each_cell_once(var_dir, finished_study)


def test_a_tag_that_two_drivers_set_at_once(var_dir, monkeypatch):
    """MLflow lets one of them fail; asked again, it changes the tag that is there now."""
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
    driver = start(var_dir, "ctrl-c")
    wait_for_cells(driver, 3)
    driver.send_signal(signal.SIGINT)
    assert "to resume" in finish(driver, "ctrl-c", status=130, seconds=60)
    assert run(var_dir) == 0
    assert_each_cell_once(var_dir, finished_study)

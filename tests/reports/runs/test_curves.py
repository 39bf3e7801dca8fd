"""Losses after each epoch: those of the stored results, read once, and their export."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from harness.errors import StoreError
from harness.tracking.tracker import Tracker
from reports import export
from reports.runs.curves import LOSSES, curve_table, epochs, load_curves
from tests.support.stored import CELLS, tracker_of

COMPLETE = CELLS - 2  # one diverged and one failed


def test_they_are_the_history_in_mlflow_and_are_read_once(var, tmp_path, monkeypatch):
    tracker = tracker_of(var)
    runs = list(tracker.complete().values())
    reads, plain = [], Tracker.curves
    monkeypatch.setattr(Tracker, "curves", lambda self, run: reads.append(run) or plain(self, run))
    first, second = (load_curves(tracker, tmp_path, runs) for _ in range(2))
    assert first == second
    assert len(reads) == len(runs) == COMPLETE
    for run in runs:
        for name in LOSSES:
            history = tracker.client.get_metric_history(run.run_id, f"epoch/{name}")
            logged = [point.value for point in sorted(history, key=lambda point: point.step)]
            assert first[run.run_id][name] == logged
    assert load_curves(tracker, None, runs[:1]) == {runs[0].run_id: first[runs[0].run_id]}
    (tmp_path / "runs" / "s.curves.parquet").write_bytes(b"PAR1 is no table PAR1")
    assert load_curves(tracker, tmp_path, runs) == first


def test_runs_without_files_are_left_out(var, tmp_path):
    tracker = tracker_of(var)
    first, second, *_ = runs = list(tracker.complete().values())
    folder = var / "artifacts" / "s" / first.run_id
    shutil.rmtree(folder)
    result = var / "artifacts" / "s" / second.run_id / "artifacts" / "result.json"
    result.write_text(result.read_text()[:40])
    for run in (first, second):
        with pytest.raises(StoreError):
            tracker.curves(run)
    assert set(load_curves(tracker, tmp_path, runs)) == {run.run_id for run in runs[2:]}
    assert export.main([f"var_dir={var}", "study=s", f"curves={tmp_path / 'c.parquet'}"]) == 0


def test_the_export_has_a_row_per_run_and_epoch(var, tmp_path, capsys):
    out = tmp_path / "losses.parquet"
    assert export.main([f"var_dir={var}", "study=s", f"curves={out}"]) == 0
    frame = pd.read_parquet(out)
    assert f"{len(frame)} epochs of {COMPLETE} cells" in capsys.readouterr().out
    facts = ["run_id", "cell_id", "occlusion_protocol", "dataset", "backbone", "method", "settings"]
    assert list(frame.columns) == [*facts, "train_ratio", "seed", "epoch", *LOSSES]
    runs = {run.run_id: run for run in tracker_of(var).complete().values()}
    assert set(frame["run_id"]) == set(runs)
    for run_id, part in frame.groupby("run_id"):
        tags = runs[run_id].tags
        stored = json.loads((var / "artifacts" / "s" / run_id / "artifacts" / "result.json").read_text())
        assert list(part["epoch"]) == [1, 2]
        assert part["valid_loss"].tolist() == stored["curves"]["valid_loss"]
        assert {part[name].unique().item() for name in ("method", "cell_id")} == {
            tags["method"],
            tags["cell_id"],
        }
        assert part["seed"].unique().tolist() == [int(tags["seed"])]


def test_losses_as_text_are_refused(var, tmp_path, capsys):
    assert export.main([f"var_dir={var}", "study=s", f"curves={tmp_path / 'a.csv'}"]) == 2
    assert "give a name like curves=losses.parquet" in capsys.readouterr().err
    assert not (tmp_path / "a.csv").exists()


def test_unknown_losses_are_nan_and_nothing_is_a_table_without_rows():
    frame = epochs({"a": {"valid_loss": [1.0, 2.0]}, "b": {"train_task_loss": [3.0]}})
    assert frame["run_id"].tolist() == ["a", "a", "b"]
    assert frame["epoch"].tolist() == [1, 2, 1]
    np.testing.assert_array_equal(frame["valid_loss"], [1.0, 2.0, np.nan])
    np.testing.assert_array_equal(frame["train_task_loss"], [np.nan, np.nan, 3.0])
    assert len(epochs({})) == len(curve_table([], {})) == 0

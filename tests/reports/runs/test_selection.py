"""Which cells of a study its report and its export show."""

import json

import pandas as pd
import pytest

from harness.train.result import Result
from reports.export import main as export
from reports.runs.frame import load_frame
from reports.runs.selection import left_out, requests_of
from reports.runs.study import load_study
from reports.runs.study_runs import StudyRuns
from tests.support.drivers.driving import Tracker, run

STUDY = ("backbones=[lmf]", "occlusion.ratios=[0]")
BEST = 2


@pytest.fixture
def ask(var_dir, monkeypatch):
    """A function that runs a request without training; each training's best epoch is `BEST`."""
    scores = {"valid": {"loss": 1.0}, "test": {"mae": 1.0}}
    result = Result("complete", scores, cell={"best_epoch": BEST})
    monkeypatch.setattr("harness.launchers.job.train", lambda *rest: result)

    def ask(methods, seeds, *more):
        assert run(var_dir, *STUDY, f"methods=[{methods}]", f"seeds=[{seeds}]", *more) == 0
        return StudyRuns(Tracker(None, var_dir, "s", create=False))

    return ask


def exported(var, *more):
    file = var / "numbers.csv"
    assert export([f"var_dir={var}", "study=s", f"out={file}", *more]) == 0
    frame = pd.read_csv(file)
    return frame[(frame["metric"] == "mae") & (frame["split"] == "test")]


def test_the_latest_request_of_each_row_counts_everywhere(ask, var_dir, capsys):
    ask("none,mixup", "1,2,3")
    ask("none,mixup", "1,2", "train.max_epochs=1")
    # Another request, of another method, hides nothing.
    runs = ask("ms_mix", "7")
    frame = load_frame(runs, requests=requests_of(runs.matrix()))
    shown = frame[~frame["superseded"] & (frame["metric"] == "mae")]
    assert sorted(zip(shown["method"], shown["seed"], strict=True)) == [
        *(("mixup", 1), ("mixup", 2), ("ms_mix", 7), ("none", 1), ("none", 2)),
    ]
    assert load_study(runs).warnings[0].startswith("6 cells are left out: the latest request")
    capsys.readouterr()
    rows = exported(var_dir)
    assert set(rows["cell_id"]) == set(shown["cell_id"])
    assert "6 cells are left out" in capsys.readouterr().out
    # No two rows say the same of themselves.
    assert not rows.drop(columns=["value", "cell_id", "run_id"]).duplicated().any()
    every = exported(var_dir, "all=true")
    assert len(every) == 11
    assert set(every["cell_id"][every["shown"]]) == set(shown["cell_id"])
    assert not every.drop(columns=["value", "cell_id", "run_id"]).duplicated().any()
    assert every.groupby(["method", "shown"])["configuration"].nunique().max() == 1


def test_the_first_request_again_shows_its_own_cells(ask):
    first = ask("none", "1,2")
    ids = set(first.complete())
    ask("none", "1", "train.max_epochs=1")
    runs = ask("none", "1,2")
    assert set(runs.complete()) - left_out(runs.complete(), requests_of(runs.matrix())) == ids


def test_requests_of_an_earlier_version(ask):
    runs = ask("none", "1", "occlusion.protocols=[test,train]", "occlusion.ratios=[0,0.5]")
    columns = ("cell_id", "cell", "dataset", "backbone", "method", "seed")
    now = runs.matrix()
    rows = [[dict(zip(now["columns"], row, strict=True))[c] for c in columns] for row in now["cells"]]
    then = json.loads(json.dumps({"arguments": [], "columns": columns, "cells": rows}))
    assert requests_of(then) == requests_of(now)
    assert {key[3] for key in requests_of(now)} == {0.0, 0.5}


def test_warnings_count_only_the_trainings_that_the_report_shows(ask):
    def improving(runs):
        return [text for text in load_study(runs).warnings if "still improving" in text]

    short, long = f"train.max_epochs={BEST}", f"train.max_epochs={BEST + 1}"
    assert improving(ask("none,mixup", "1,2,3", long)) == []
    [sentence] = improving(ask("none,mixup", "1,2", short))
    assert sentence.startswith("LMF on synthetic MOSI: 4 of 4 trainings were still improving")
    # The shown trainings of mixup have an epoch more.
    assert improving(ask("mixup", "1,2,3,4", long)) == []


@pytest.mark.parametrize("server", [False, True])
def test_rows_have_the_settings_that_they_were_trained_with(ask, var_dir, monkeypatch, server):
    ask("mixup", "1,2", "train.max_epochs=3")
    monkeypatch.setattr("harness.tracking.tracker.BATCH", 2)
    ask("mixup{alpha:1.0},mixup{alpha:0.5}", "1,2", "train.max_epochs=4", "train.max_batches=7")
    if server:  # its database cannot be read
        monkeypatch.setattr(Tracker, "_engine", lambda self: None)
    rows = exported(var_dir, "all=true")
    assert rows.groupby("configuration")["resolved"].nunique().tolist() == [1, 1, 1]
    settings = [json.loads(text) for text in rows["resolved"]]
    of = [
        (s["method_settings"]["alpha"], s["backbone_settings"]["max_epochs"], s["max_batches"])
        for s in settings
    ]
    assert sorted(zip(of, rows["seed"], strict=True), key=str) == [
        *(((0.5, 4, 7), 1), ((0.5, 4, 7), 2), ((1.0, 3, None), 1), ((1.0, 3, None), 2)),
        *(((1.0, 4, 7), 1), ((1.0, 4, 7), 2)),
    ]
    # The default's changes do not tell its versions apart.
    assert set(rows["settings"]) == {"{}", '{"alpha": 0.5}'}
    [cell] = {s["precision"] for s in settings}
    assert cell == "fp32"
    assert not {"seed", "ratios", "train_ratio", "dataset", "backbone"} & set(settings[0])

"""Which cells of a study its report and its export show."""

import json

import pandas as pd
import pytest

from harness.train.result import Result
from reports.export import main as export
from reports.frame import load_frame
from reports.selection import left_out, requests_of
from reports.study import load_study
from reports.study_runs import StudyRuns
from tests.support.drivers.driving import Tracker, run

STUDY = ("backbones=[lmf]", "occlusion.ratios=[0]")


@pytest.fixture
def ask(var_dir, monkeypatch):
    """A function that runs a request without training."""
    scores = {"valid": {"loss": 1.0}, "test": {"mae": 1.0}}
    monkeypatch.setattr("harness.launchers.job.train", lambda *rest: Result("complete", scores))

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

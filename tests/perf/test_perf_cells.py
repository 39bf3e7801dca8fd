"""What a cell costs: every part is measured, and rows say unit and bound. No clock is looked at."""

from types import SimpleNamespace

import pytest

from harness import benchmark
from harness.launchers import choose
from harness.launchers import job as work
from harness.launchers.base import Job
from harness.train import loop
from tests.perf import cells, first_step, jobs
from tests.perf.stopwatch import watched

SMALL = ("train.max_epochs=1", "train.max_batches=1", "dataset.synthetic_mosi.clips=60")


@pytest.fixture
def measured(monkeypatch):
    """Every measurement gives a made up number."""
    steps = iter(range(10))
    driver, worker = {"cell": 90.0, "MLflow": 60.0}, {"cell": 20.0, "loading": 5.0, "scoring": 7.0}
    monkeypatch.setattr(cells, "driver_overhead", lambda folder, count: dict(driver))
    monkeypatch.setattr(cells, "worker_overhead", lambda folder: dict(worker))
    monkeypatch.setattr(cells, "pace", lambda folder, workers: 100.0 * workers)
    monkeypatch.setattr(cells, "answers", lambda repeats: {("harness.data", "--help"): 0.25})
    monkeypatch.setattr(cells, "first_step", lambda folder, launcher, seed: 5.0 - next(steps))
    return driver, worker


def test_rows_have_units_and_bounds(measured):
    rows = cells.measure(cells=5, repeats=2)
    assert [tuple(row.values()) for row in rows] == [
        ("overhead per cell, driver", 90.0, "ms", cells.OVERHEAD_BOUND_MS),
        ("driver: MLflow", 60.0, "ms", None),
        ("overhead per cell, worker", 20.0, "ms", cells.OVERHEAD_BOUND_MS),
        ("worker: loading", 5.0, "ms", None),
        ("worker: scoring", 7.0, "ms", None),
        ("pace, workers: 1", 100.0, "cells/min", None),
        ("pace, workers: 2", 200.0, "cells/min", None),
        ("answer, harness.data --help", 0.25, "s", cells.ANSWER_BOUND_S),
        ("first step, processes", 4.0, "s", cells.FIRST_STEP_BOUND_S),
        ("first step, inline", 2.0, "s", cells.FIRST_STEP_BOUND_S),
    ]
    assert all(list(row) == ["name", "value", "unit", "bound"] for row in rows)


@pytest.mark.parametrize(("value", "expected"), [(150.0, True), (150.1, False), (float("nan"), False)])
def test_a_bound_holds_up_to_its_value(measured, value, expected):
    measured[0]["cell"] = value
    assert cells.holds(cells.measure()) is expected


def test_every_part_of_a_cell_is_measured(var_dir, monkeypatch):
    """Ready and real cells go through the stores, on worker processes; what was watched is as before."""
    plain = [getattr(home, name) for home, names in watched_calls() for name in names]
    monkeypatch.setattr(cells, "WARM_UP", 2)
    driver = cells.driver_overhead(var_dir, 3)
    assert set(driver) == {"cell", *cells.STORES}
    monkeypatch.setattr(cells, "SHORT", SMALL)
    worker = cells.worker_overhead(var_dir, 1)
    assert set(worker) == {"cell", "loading", "building", "scoring", "inspecting"}
    assert all(value > 0 for value in [*driver.values(), *worker.values()])
    assert worker["loading"] + worker["building"] < worker["cell"]
    assert plain == [getattr(home, name) for home, names in watched_calls() for name in names]
    assert cells.pace(var_dir, 1, seeds=1) > 0


def watched_calls():
    return [pair for group in (cells.STORES, *jobs.PARTS.values()) for pair in group.values()]


def test_a_command_that_ends_otherwise_is_no_measurement(monkeypatch):
    said = SimpleNamespace(returncode=1, stdout="", stderr="Traceback")
    monkeypatch.setattr(cells, "_python", lambda *arguments: said)
    with pytest.raises(AssertionError, match=r"harness\.benchmark --help: Traceback"):
        cells.answers(1)
    with pytest.raises(AssertionError, match="Traceback"):
        cells.first_step(cells.ROOT, "inline")


def test_a_stopwatch_adds_up_and_leaves_no_trace():
    home = SimpleNamespace(square=lambda x: x * x, fail=lambda: 1 / 0)
    square, fail = home.square, home.fail
    with watched({"a": (home, ("square", "fail")), "b": (home, ())}) as spent:
        assert home.square(3) == 9
        before = spent["a"]
        assert before > 0 == spent["b"]
        with pytest.raises(ZeroDivisionError):
            home.fail()
    assert spent["a"] > before
    assert (home.square, home.fail) == (square, fail)


def test_the_first_epoch_is_noted_and_the_others_are_not(tmp_path, monkeypatch):
    note, epochs = tmp_path / "note", []
    monkeypatch.setenv(first_step.NOTE, str(note))
    monkeypatch.setattr(loop, "train_epoch", lambda epoch: epochs.append((epoch, note.exists())))
    plain = loop.train_epoch

    def run_job(job):
        assert not note.exists()
        loop.train_epoch(1)
        note.unlink()
        loop.train_epoch(2)
        return job.cell

    monkeypatch.setattr(work, "run_job", run_job)
    assert first_step.noting_job(Job("a cell", "", "cpu")) == "a cell"
    assert epochs == [(1, True), (2, False)]
    assert loop.train_epoch is plain


def test_the_command_runs_as_it_stands_but_for_the_note(tmp_path, monkeypatch):
    seen, plain = [], choose.make_launcher
    monkeypatch.setattr(choose, "make_launcher", lambda *given: seen.append(given))
    replaced = choose.make_launcher
    monkeypatch.delenv(first_step.NOTE, raising=False)

    def main(arguments):
        choose.make_launcher("inline", 2, work.run_job)
        return 7 if arguments == ["a=1"] else 0

    monkeypatch.setattr(benchmark, "main", main)
    assert first_step.main([str(tmp_path / "note"), "a=1"]) == 7
    assert seen == [("inline", 2, first_step.noting_job)]
    assert choose.make_launcher is replaced is not plain

"""What `make perf` measures of reports: the made-up study is as a real one, and bounds are checked."""

import pytest

from harness.metrics import METRICS
from harness.tracking.tracker import Tracker
from reports.study import load_study
from reports.study_runs import StudyRuns
from tests.perf import reports as perf

RUNS = 48


@pytest.fixture
def tracker(var_dir):
    tracker = Tracker(None, var_dir, "perf")
    perf.fill(tracker, RUNS)
    return tracker


def test_its_runs_are_read_as_those_of_trainings(tracker):
    study = load_study(StudyRuns(tracker))
    cells = {cell.cell_id: cell for cell in perf.cells(RUNS)}
    assert set(study.frame["cell_id"]) == set(cells)
    assert study.counts()["done"] == RUNS
    tests = study.frame[study.frame["split"] == "test"]
    for cell_id, rows in tests.groupby("cell_id"):
        cell = cells[cell_id]
        assert len(rows) == len(cell.ratios) * (len(METRICS[cell.metrics]) + 1)
    assert {"epoch", "cell", "valid"} <= set(study.frame["split"])


def test_it_has_the_samples_that_figures_ask_for(var_dir):
    tracker = Tracker(None, var_dir, "perf")
    perf.fill(tracker, 720)
    study = load_study(StudyRuns(tracker))
    assert set(study.sampled["method"]) == set(perf.STUDIED) - {"none"}
    arrays = study.samples(study.sampled["run_id"].iloc[0])
    assert arrays["mixed_text"].shape == (perf.SAMPLE, perf.WIDTH)


@pytest.mark.parametrize(("seconds", "mb", "broken"), [(1, 100, 0), (11, 100, 1), (1, 4096, 2)])
def test_costs_are_held_against_their_bounds(monkeypatch, seconds, mb, broken):
    monkeypatch.setattr(
        perf, "report_twice", lambda runs: {name: {"s": seconds, "mb": mb} for name in perf.BOUNDS}
    )
    part = perf.measure(7)
    assert len(part.rows) == 4
    assert sum(not row.holds for row in part.rows) == broken


@pytest.mark.soak
def test_both_reports_are_measured():
    found = perf.report_twice(RUNS)
    assert found["again"]["s"] < found["first"]["s"], "nothing is drawn again"
    assert all(cost["mb"] > 50 for cost in found.values())

"""What cells, trials and commands cost is measured and held against bounds. No test looks at a clock."""

import time

import pytest

import harness.benchmark
from tests.perf import cells

SMALL = ("train.max_epochs=1", "train.max_batches=1", "dataset.synthetic_mosi.clips=60")


def test_costs_are_held_against_their_bounds(monkeypatch):
    repeats = iter([5.0, 7.0, 9.0] + [7.0] * 3)
    monkeypatch.setattr(cells, "driver_ms", lambda folder: 150.0)
    monkeypatch.setattr(cells, "worker_ms", lambda folder: float("nan"))
    monkeypatch.setattr(cells, "timed", lambda *given, status: {"s": 2.0 + status})
    monkeypatch.setattr(cells, "first_step_s", lambda folder, launcher, repeat: next(repeats))
    monkeypatch.setattr(cells, "trial_ms", lambda folder, pruned: 90.0 if pruned else 151.0)
    rows = {row.name: row for section in cells.cells() + cells.trials() for row in section.rows}
    assert {name for name, row in rows.items() if not row.holds} == {
        "overhead per cell, worker",
        f"first step, {cells.LOCAL[1]}",
        "trial, without",
        *(f"answer, {command} backbnes=[tfn]" for command in cells.COMMANDS),
    }
    assert len(rows) == 2 + 2 * len(cells.COMMANDS) + 2 + 2
    assert all(row.bound is not None for row in rows.values())


@pytest.fixture
def inline(monkeypatch):
    """Do the jobs of workers in this process."""
    make = cells.make_launcher
    monkeypatch.setattr(cells, "make_launcher", lambda name, jobs, work: make("inline", None, work))


def test_ready_cells_pass_the_stores_and_real_ones_are_trained(var_dir, inline, monkeypatch):
    monkeypatch.setattr(cells, "WARM_UP_CELLS", 1)
    assert cells.driver_ms(var_dir, 2) > 0
    assert cells.worker_ms(var_dir, 1, *SMALL) > 0


def test_ready_trials_pass_the_stores(var_dir, inline, monkeypatch):
    monkeypatch.setattr(cells, "WARM_UP_TRIALS", 1)
    assert cells.trial_ms(var_dir, pruned=True, count=4) > 0


def test_the_first_step_is_measured_from_the_start_of_the_command(var_dir, monkeypatch):
    costs = []

    def run(_, module, *settings):
        assert module == "harness.benchmark"
        started, clock = time.time(), time.perf_counter()
        assert harness.benchmark.main([*settings, "dataset.synthetic_mosi.clips=60"]) == 0
        costs.append(time.perf_counter() - clock)
        return {"started": started}

    monkeypatch.setattr(cells, "timed", run)
    assert 0 < cells.first_step_s(var_dir, "inline") < costs[0]

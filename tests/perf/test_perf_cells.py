"""What cells, trials and commands cost: all is measured and held against its bound. No clock is looked at."""

from tests.perf import cells

SMALL = ("train.max_epochs=1", "train.max_batches=1", "dataset.synthetic_mosi.clips=60")


def test_costs_are_held_against_their_bounds(monkeypatch):
    repeats = iter([5.0, 7.0, 9.0] + [7.0] * 3)
    monkeypatch.setattr(cells, "driver_ms", lambda folder: 150.0)
    monkeypatch.setattr(cells, "worker_ms", lambda folder: float("nan"))
    monkeypatch.setattr(cells, "timed", lambda *given, status: {"s": 2.0 + status})
    monkeypatch.setattr(cells, "first_step_s", lambda folder, launcher, repeat: next(repeats))
    monkeypatch.setattr(cells, "trial_ms", lambda folder, pruned: 90.0 if pruned else 151.0)
    rows = {row.name: row for section in (cells.cells(), cells.trials()) for row in section.rows}
    assert {name for name, row in rows.items() if not row.holds} == {
        "overhead per cell, worker",
        f"first step, {cells.LOCAL[1]}",
        "trial, without",
        *(f"answer, {command} backbnes=[tfn]" for command in cells.COMMANDS),
    }
    assert len(rows) == 2 + 2 * len(cells.COMMANDS) + 2 + 2
    assert all(row.bound is not None for row in rows.values())


def test_a_cell_is_measured_in_driver_and_worker(var_dir, monkeypatch):
    """Ready cells go through the stores, from worker processes; real ones are trained."""
    monkeypatch.setattr(cells, "WARM_UP_CELLS", 2)
    assert cells.driver_ms(var_dir, 3) > 0
    assert cells.worker_ms(var_dir, 1, *SMALL) > 0


def test_a_trial_is_measured(var_dir):
    """A sweep with ready results goes through all the stores, on worker processes."""
    assert cells.trial_ms(var_dir, pruned=True, count=8) > 0


def test_the_first_step_is_measured_from_the_start_of_the_command(var_dir, monkeypatch):
    timed, costs = cells.timed, []
    monkeypatch.setattr(cells, "timed", lambda *given: costs.append(timed(*given)) or costs[0])
    assert 0 < cells.first_step_s(var_dir, "inline") < costs[0]["s"]

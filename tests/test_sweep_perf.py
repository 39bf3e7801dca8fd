"""What a trial costs: all its parts are seen, and a broken bound is an exit status. No clock is looked at."""

import json

import pytest

from sweeps import perf


@pytest.mark.parametrize(("bound", "status"), [(120.0, 0), (119.0, 1), (0.0, 1)])
def test_a_cost_is_written_and_compared_with_its_bound(tmp_path, monkeypatch, capsys, bound, status):
    monkeypatch.setattr(perf, "BOUND_MS", bound)
    monkeypatch.setattr(perf, "measure", lambda trials, pruned: {"trial": 90.0 if pruned else 120.0})
    assert perf.main(["--trials", "9", f"--var-dir={tmp_path}"]) == status
    stored = json.loads((tmp_path / "perf" / "sweeps.json").read_text())
    assert stored["ms_per_trial"] == {"with pruning": {"trial": 90.0}, "without": {"trial": 120.0}}
    text = (tmp_path / "perf" / "sweeps.md").read_text()
    assert text == capsys.readouterr().out
    assert ("holds" if status == 0 else "BROKEN") in text


def test_every_part_is_measured():
    """A sweep with ready results goes through all the stores, on worker processes."""
    found = perf.measure(8, pruned=True)
    assert set(found) == {"trial", *perf.WATCHED}
    assert all(value > 0 for value in found.values())
    for kind, names in perf.WATCHED.values():
        for name in names:
            assert getattr(kind, name).__qualname__.startswith(kind.__name__), "what was watched is as before"


def test_too_few_trials_are_refused(capsys):
    assert perf.main(["--trials", "3"]) == 2
    assert "--trials must be above" in capsys.readouterr().err

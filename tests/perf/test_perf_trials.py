"""What a trial costs: all its parts are seen and held against the bound. No clock is looked at."""

import pytest

from tests.perf import trials


@pytest.mark.parametrize(("bound", "broken"), [(120.0, []), (119.0, ["trial, without"])])
def test_a_cost_is_compared_with_its_bound(monkeypatch, bound, broken):
    monkeypatch.setattr(trials, "BOUND_MS", bound)
    monkeypatch.setattr(
        trials, "cost_ms", lambda n, pruned: {"trial": 90.0 if pruned else 120.0, "MLflow": 1.0}
    )
    part = trials.measure(9)
    assert [row.name for row in part.rows if not row.holds] == broken
    assert {row.name for row in part.rows} >= {"trial, with pruning", "MLflow, without"}


def test_every_part_is_measured():
    """A sweep with ready results goes through all the stores, on worker processes."""
    found = trials.cost_ms(8, pruned=True)
    assert set(found) == {"trial", *trials.WATCHED}
    assert all(value > 0 for value in found.values())
    for kind, names in trials.WATCHED.values():
        for name in names:
            assert getattr(kind, name).__qualname__.startswith(kind.__name__), "what was watched is as before"

"""What a sweep leaves when its trials are done: Optuna's plots, tuned settings, and the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from harness.config import path_of
from harness.plan import Plan
from harness.records import safe_name
from harness.session import write_report
from harness.tracking import Tracker
from harness.tuned import write_tuned
from sweeps.search import Search
from sweeps.supply import Trials


def conclude(config: Any, plan: Plan, tracker: Tracker, supply: Trials) -> Iterator[str]:
    """Write everything; yields what a person is to know."""
    from reports.sweeps import load_trials, verdicts

    frame = load_trials(tracker)
    for verdict in verdicts(frame[frame["sweep"] == supply.sweep]):
        yield verdict.sentence
    if config.sweep.tune is not None:
        for search in supply.searches:
            yield _tune(config, plan, tracker, supply.sweep, search)
    if config.report:
        synthetic = {data.name for data in plan.datasets.values() if data.synthetic}
        write_report(tracker, plan, None, lambda folder: _plots(folder, supply, synthetic))
    yield f"Report: {tracker.folder('reports')}"


def _plots(folder: Path, supply: Trials, synthetic: set[str]) -> None:
    """Optuna's plots of each search, in a folder of its own."""
    from sweeps.plots import draw

    for search in supply.searches:
        base = search.bases[0]
        place = (
            folder / "sweeps" / safe_name(supply.sweep) / safe_name(f"{base.backbone_label}-{base.dataset}")
        )
        note = " (synthetic stand-in data)" if base.dataset in synthetic else ""
        draw(search.study, place, f"Sweep {supply.sweep} on {base.backbone_label}, {base.dataset}{note}")


def _tune(config: Any, plan: Plan, tracker: Tracker, sweep: str, search: Search) -> str:
    """Write the best settings of a search to their file; says which they are."""
    base, trials = search.bases[0], search.ended()
    where = f"{base.method} on {base.backbone_label}, {base.dataset}"
    best = _best(search, trials)
    if best is None:
        return f"{where}: no trial was completed, so no settings are written."
    cell = search.space.apply(base, best.params)
    default = next(
        (t for t in trials if t.value is not None and search.space.apply(base, t.params) == base), None
    )
    states = [t.state for t in trials]
    head = {
        "study": plan.study,
        "sweep": sweep,
        "objective": f"valid/{search.budget.objective}",
        "value": best.value,
        "default_value": None if default is None else default.value,
        "trials": search.total,
        "complete": states.count(TrialState.COMPLETE),
        "pruned": states.count(TrialState.PRUNED),
        "failed": states.count(TrialState.FAIL),
        "best_trial": best.number,
        "epochs": base.backbone_settings.max_epochs,
        "seeds": list(search.budget.seeds),
        "fingerprint": base.fingerprint,
        "results_version": base.results_version,
    }
    folder = tracker.var_dir / "tuned" if config.sweep.tuned_dir is None else path_of(config.sweep.tuned_dir)
    path = write_tuned(folder, base, cell, head)
    return f"{where}: the best settings are in {path}; use them with tuned={folder}."


def _best(search: Search, trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The complete trial with the best value; the earliest of equals."""
    complete = [t for t in trials if t.state == TrialState.COMPLETE and t.value is not None]
    sign = -1 if search.budget.maximised else 1
    return min(complete, key=lambda t: sign * (t.value or 0.0), default=None)

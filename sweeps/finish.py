"""What a sweep leaves when its trials are done: Optuna's plots, tuned settings, and the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from harness.config.compose import path_of
from harness.config.tuned import write_tuned
from harness.files import safe_name
from harness.plan import Plan
from harness.tracking.tracker import Tracker
from reports.build import write_report
from sweeps.search import Search
from sweeps.storage import answers
from sweeps.trials import Trials


def conclude(config: Any, plan: Plan, tracker: Tracker, supply: Trials) -> Iterator[str]:
    """Write everything; yields what a person is to know."""
    from reports.stats.settings import verdicts
    from reports.trials import load_trials

    frame = load_trials(tracker)
    for verdict in verdicts(frame[frame["sweep"] == supply.sweep]):
        yield verdict.sentence
    if config.sweep.tune is not None:
        for search in supply.searches:
            yield _tune(config, plan, tracker, supply, search)
    if config.report:
        _plots(tracker, supply)
        write_report(tracker)
    yield f"Report: {tracker.folder('reports') / 'index.html'}"


def _plots(tracker: Tracker, supply: Trials) -> None:
    """Optuna's plots of each search that has new trials, in a folder of its own and with the study's run."""
    from sweeps.plots import write_plots

    for search in supply.searches:
        base = search.bases[0]
        place = Path("sweeps", safe_name(supply.sweep), safe_name(f"{base.backbone_label}-{base.dataset}"))
        folder = tracker.folder("reports") / place
        if supply.ended or not (folder / "plots.html").exists():
            note = " (synthetic stand-in data)" if base.dataset in supply.synthetic else ""
            with answers(search.address):
                title = f"Sweep {supply.sweep}: {base.backbone_label}, {base.dataset}{note}"
                write_plots(search.study, folder / "plots.html", title)
            tracker.attach(folder, place.as_posix())


def _tune(config: Any, plan: Plan, tracker: Tracker, supply: Trials, search: Search) -> str:
    """Write the best settings of a search to their file; says which they are."""
    base, trials = search.bases[0], search.ended()
    where = f"{base.method} on {base.backbone_label}, {base.dataset}"
    best = _best(search, trials)
    if best is None:
        return f"{where}: no trial was completed, so no settings are written."
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    default = [t.value for t in complete if search.space.apply(base, t.params) == base]
    states = [t.state for t in trials]
    head = {
        "study": plan.study,
        "sweep": supply.sweep,
        "objective": f"valid/{search.budget.objective}",
        "value": best.value,
        "default_value": default[0] if default else None,
        "trials": search.total,
        "complete": len(complete),
        "pruned": states.count(TrialState.PRUNED),
        "failed": states.count(TrialState.FAIL),
        "best_trial": best.number,
        "epochs": base.backbone_settings.max_epochs,
        "seeds": list(search.budget.seeds),
        "fingerprint": base.fingerprint,
        "results_version": base.results_version,
    }
    folder = tracker.var_dir / "tuned" if config.sweep.tuned_dir is None else path_of(config.sweep.tuned_dir)
    path = folder.joinpath(base.method, base.backbone_label, f"{base.dataset}.yaml")
    replaced = ", in place of what stood there" if path.exists() else ""
    write_tuned(folder, base, search.space.apply(base, best.params), head, search.space.fields(base))
    unchanged = "; they are those without tuning" if default and default[0] == best.value else ""
    return f"{where}: the settings with the best validation value are in {path}{replaced}{unchanged}."


def _best(search: Search, trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The complete trial with the best value; the earliest of equals."""
    complete = [t for t in trials if t.state == TrialState.COMPLETE and t.value is not None]
    sign = -1 if search.budget.maximised else 1
    return min(complete, key=lambda t: sign * (t.value or 0.0), default=None)

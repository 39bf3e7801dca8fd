"""Outputs at the end of a sweep: verdicts, files of tuned settings, Optuna's plots and the report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from harness.config.compose import path_of
from harness.config.tuned import write_tuned
from harness.files import safe_name
from harness.plan import Plan
from harness.tracking.tracker import Tracker
from reports.build import write_report
from sweeps.search import Search
from sweeps.storage import answers
from sweeps.trials import Trials


def conclude(config: Any, plan: Plan, tracker: Tracker, trials: Trials) -> Iterator[str]:
    """Write tuned settings, plots and the report, and yield sentences for the user."""
    from reports.runs.study import load_study
    from reports.runs.study_runs import StudyRuns
    from reports.stats.settings import verdicts

    study = load_study(StudyRuns(tracker, tracker.var_dir / "cache"), config.report)
    own = study.trials[study.trials["sweep"] == trials.sweep]
    for verdict in verdicts(own, study.clips, study.margins):
        yield verdict.sentence
    if config.sweep.tune is not None:
        for search in trials.searches:
            yield _tune(config, plan, tracker, trials.sweep, search)
    if config.report.build:
        _plot(tracker, trials)
        write_report(tracker, config.report)
        yield f"Report: {tracker.folder('reports') / 'index.html'}"


def _plot(tracker: Tracker, trials: Trials) -> None:
    """Write the plots of each search that has new trials, and attach their folder to the study's run."""
    from sweeps.plots import write_plots

    for search in trials.searches:
        base = search.bases[0]
        folder = Path("sweeps", safe_name(trials.sweep), safe_name(f"{base.backbone_label}-{base.dataset}"))
        page = tracker.folder("reports") / folder / "plots.html"
        if trials.ended or not page.exists():
            note = " (synthetic stand-in data)" if base.dataset in trials.synthetic else ""
            title = f"Sweep {trials.sweep}: {base.backbone_label}, {base.dataset}{note}"
            with answers(search.address):
                write_plots(search.study, page, title)
            tracker.attach(page.parent, folder.as_posix())


def _tune(config: Any, plan: Plan, tracker: Tracker, sweep: str, search: Search) -> str:
    """Write the best settings of a search to a file, and return a sentence about them."""
    base, ended = search.bases[0], search.ended()
    where = f"{base.method} on {base.backbone_label}, {base.dataset}"
    complete = [t for t in ended if t.state == TrialState.COMPLETE and t.value is not None]
    if not complete:
        return f"{where}: no trial is complete, so no settings are written."
    sign = -1 if search.budget.maximised else 1
    best = min(complete, key=lambda t: sign * (t.value or 0.0))  # the earliest one, if several are equal
    default = [t.value for t in complete if search.space.apply(base, t.params) == base]
    states = [t.state for t in ended]
    head = {
        "study": plan.study,
        "sweep": sweep,
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
    replaced = " (replaced)" if path.exists() else ""
    write_tuned(folder, base, search.space.apply(base, best.params), head, search.space.fields(base))
    unchanged = "; they are as good as the defaults" if default and default[0] == best.value else ""
    return f"{where}: the settings with the best validation value are in {path}{replaced}{unchanged}."

"""A study from MLflow, as reports show it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from backbones import BACKBONES
from backbones.base import resolve_settings
from harness.databases import redact
from harness.matrix import RESULTS_VERSION
from harness.study.description import DATASETS_FILE, MATRIX_FILE
from harness.tracking.tags import flatten, label_of
from harness.tracking.tracker import SWEEP, Run, Tracker
from harness.tracking.versions import version_of
from reports.frame import complete_cells, load_frame, metric_kinds, version_notes
from reports.mlflow_links import LOCAL, Links
from reports.stored_runs import StudyRuns
from reports.study import OUTCOMES, SAMPLE_KEYS, Study
from reports.trials import load_trials

PREFIX = "backbone_settings."


def load_study(runs: StudyRuns) -> Study:
    """Read everything that a report shows, but the samples, which are read when they are asked for."""
    tracker = runs.tracker
    cells = complete_cells(runs)
    stored = json.loads(tracker.study_file(DATASETS_FILE) or "[]")
    datasets = [entry for entry in stored if "splits" in entry]  # absent in studies of an older version
    matrix = json.loads(tracker.study_file(MATRIX_FILE) or "{}")
    by_id = {run.run_id: run for run in cells.values()}
    base = redact(tracker.uri).rstrip("/") if tracker.uri.startswith(("http://", "https://")) else LOCAL
    return Study(
        name=tracker.study,
        frame=load_frame(runs, requested=_requested(matrix)),
        kinds=metric_kinds(runs),
        trials=load_trials(runs),
        outcomes=_outcomes(matrix, cells, _failures(runs, cells.values())),
        links=Links(base, tracker.experiment_id),
        datasets=datasets,
        synthetic=_synthetic(datasets, cells.values(), runs.trials()),
        sampled=_sampled(cells.values()),
        samples=lambda run_id: dict(runs.load(by_id[run_id]).samples),
        facts=_facts(cells.values()),
        settings=_settings(tracker, cells.values(), datasets),
        warnings=[*_versions(runs), *_warnings(tracker, cells.values())],
        description=tracker.description(),
        request=tuple(matrix.get("arguments", ())),
    )


def _requested(matrix: Mapping[str, Any]) -> set[str]:
    return {row[matrix["columns"].index("cell_id")] for row in matrix.get("cells", ())}


def _failures(runs: StudyRuns, cells: Iterable[Run]) -> list[Run]:
    """The failures of the results version that is shown, and of this program's."""
    shown = {RESULTS_VERSION, *(version_of(run.tags) for run in cells)}
    return [run for run in runs.failures() if version_of(run.tags) in shown]


def _outcomes(matrix: Mapping[str, Any], cells: Mapping[str, Run], failures: Iterable[Run]) -> pd.DataFrame:
    rows = {cell_id: _outcome(run, "done") for cell_id, run in cells.items()}
    for run in failures:
        cell_id = run.tags["cell_id"]
        if cell_id not in cells and SWEEP not in run.tags:
            state = "diverged" if run.tags.get("outcome") == "diverged" else "failed"
            rows[cell_id] = _outcome(run, state)
    for values in matrix.get("cells", ()):
        asked = dict(zip(matrix["columns"], values, strict=True))
        cell_id = asked.pop("cell_id")
        missing = {"state": "missing", "reason": "", "run_id": ""}
        rows[cell_id] = {**asked, **missing, **rows.get(cell_id, {}), "requested": True}
    frame = pd.DataFrame(list(rows.values()), columns=list(OUTCOMES))
    return frame.sort_values(["dataset", "backbone", "method", "cell", "run_id"], ignore_index=True)


def _outcome(run: Run, state: str) -> dict[str, Any]:
    tags = run.tags
    facts: dict[str, Any] = {name: tags[name] for name in ("dataset", "backbone")}
    facts |= {"cell": tags["mlflow.runName"], "method": label_of(tags), "seed": int(tags["seed"])}
    return {
        **facts,
        "state": state,
        "reason": tags.get("reason", ""),
        "run_id": run.run_id,
        "requested": False,
    }


def _synthetic(
    datasets: Iterable[Mapping[str, Any]], cells: Iterable[Run], trials: Iterable[Run]
) -> frozenset[str]:
    """Names of stand-ins; where nothing is stored of a data set, its name tells."""
    known = {entry["name"]: bool(entry["synthetic"]) for entry in datasets}
    names = {run.tags["dataset"] for run in (*cells, *trials)}
    return frozenset(name for name in names | set(known) if known.get(name, name.startswith("synthetic_")))


def _sampled(cells: Iterable[Run]) -> pd.DataFrame:
    rows = [
        {
            **{name: run.tags[name] for name in ("dataset", "backbone", "cell_id")},
            "method": label_of(run.tags),
            "seed": int(run.tags["seed"]),
            "run_id": run.run_id,
        }
        for run in cells
        if run.tags.get("samples") == "true"
    ]
    frame = pd.DataFrame(rows, columns=list(SAMPLE_KEYS))
    return frame.sort_values(list(SAMPLE_KEYS), ignore_index=True)


def _facts(cells: Iterable[Run]) -> dict[str, str]:
    """What the results were made with; several values where they were made with several."""
    found: dict[str, set[str]] = {}
    for run in cells:
        tags = run.tags
        dirty = " with uncommitted changes" if tags.get("git_dirty") == "true" else ""
        facts = {
            "Device": tags.get("device", ""),
            "Results version": tags.get("results_version", ""),
            "Code": (tags.get("git_commit", "") or "unknown") + dirty,
            **json.loads(tags.get("versions", "{}")),
        }
        for name, value in facts.items():
            found.setdefault(name, set()).add(value)
    return {name: ", ".join(sorted(filter(None, values))) for name, values in found.items()}


def _versions(runs: StudyRuns) -> list[str]:
    """What is to be said of the results versions of the matrix and of each sweep."""
    sweeps = sorted({trial.tags["sweep"] for trial in runs.trials()})
    return [sentence for sweep in (None, *sweeps) for sentence in version_notes(runs, sweep)]


def _warnings(tracker: Tracker, cells: Iterable[Run]) -> list[str]:
    """On how many trainings the last epoch allowed was the best one: they might have gone on."""
    groups: dict[tuple[str, str, str], list[Run]] = {}
    for run in cells:
        key = (run.tags["backbone"], run.tags["dataset"], run.tags.get("configuration", ""))
        groups.setdefault(key, []).append(run)
    counts: dict[tuple[str, str], tuple[int, int]] = {}
    for (backbone, dataset, _), runs in groups.items():
        most = float(tracker.parameters(runs[0].run_id).get(f"{PREFIX}max_epochs", "inf"))
        cut = sum(run.metrics.get("cell/best_epoch", 0.0) >= most for run in runs)
        before = counts.get((backbone, dataset), (0, 0))
        counts[backbone, dataset] = (before[0] + cut, before[1] + len(runs))
    return [
        f"{backbone} on {dataset}: in {cut} of {total} trainings the last epoch allowed was the best; they "
        "were still improving, and longer ones may rank methods otherwise."
        for (backbone, dataset), (cut, total) in sorted(counts.items())
        if 2 * cut > total
    ]


def _settings(tracker: Tracker, cells: Iterable[Run], datasets: Iterable[Mapping[str, Any]]) -> list[str]:
    """Where a backbone's settings are not the published ones: one sentence each, read off one run."""
    like = {entry["name"]: entry["like"] for entry in datasets if "like" in entry}
    first: dict[tuple[str, str], Run] = {}
    for run in cells:
        first.setdefault((run.tags["backbone"], run.tags["dataset"]), run)
    said: dict[tuple[str, str], list[str]] = {}
    for (backbone, dataset), run in sorted(first.items()):
        base = backbone.partition("[")[0]
        if base in BACKBONES and dataset in like:
            entry = BACKBONES[base]
            published = flatten(vars(resolve_settings(entry, entry.Settings(), like[dataset])))
            ours = {
                name.removeprefix(PREFIX): value
                for name, value in tracker.parameters(run.run_id).items()
                if name.startswith(PREFIX)
            }
            changed = [
                f"{name} {ours[name]} ({published[name]})"
                for name in sorted(published)
                if name in ours and ours[name] != str(published[name])
            ]
            said.setdefault((backbone, ", ".join(changed)), []).append(dataset)
    return [
        f"{backbone} on {', '.join(names)}: {changed}."
        for (backbone, changed), names in said.items()
        if changed
    ]

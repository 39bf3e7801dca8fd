"""The data of a study's report: frames and texts that `load_study` reads from MLflow once into a `Study`."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from harness.config.compose import report_settings
from harness.config.schema import ReportSettings
from harness.databases import redact
from harness.matrix import RESULTS_VERSION
from harness.study.description import CODE_FILE, DATASETS_FILE, STUDY_FILE, request_rows, twins
from harness.tracking.tags import label_of
from harness.tracking.tracker import SWEEP, Run
from harness.tracking.versions import version_of
from reports.mlflow_links import LOCAL, Links
from reports.names import dataset_name, remember_plugins
from reports.runs import notices
from reports.runs.clips import StudyClips
from reports.runs.curves import epochs
from reports.runs.frame import (
    complete_cells,
    is_ablation,
    load_frame,
    metric_kinds,
    named,
    shown_cells,
)
from reports.runs.selection import left_out_sentence, requests_of
from reports.runs.study_runs import StudyRuns
from reports.runs.trials import load_trials
from reports.stats.clips import ClipErrors
from reports.stats.comparison import BASELINE, clean
from reports.stats.kinds import ErrorSource, clip_pairs
from reports.stats.settings import compared_runs

SAMPLE_KEYS = ("dataset", "backbone", "method", "seed", "run_id", "cell_id")
OUTCOMES = ("cell", "state", "reason", "run_id", "dataset", "backbone", "method", "seed", "requested")
STATES = ("done", "failed", "diverged", "missing")


def _no_samples(run_id: str) -> dict[str, np.ndarray]:
    raise KeyError(run_id)


def _no_curves(run_ids: Sequence[str]) -> pd.DataFrame:
    return epochs({})


@dataclass(frozen=True)
class Study:
    """The data of a study.

    frame: tidy frame of the matrix, see `reports.runs.frame.load_frame`. kinds: data set -> kind of metrics.
    trials: frame of the sweeps' trials, see `reports.runs.trials.COLUMNS`. outcomes: a row per cell that was
    requested or has a run, with the columns ``OUTCOMES``; ``state`` is one of ``STATES``, ``requested`` is
    whether the last call of the benchmark requested the cell. datasets: description of each data set, see
    `harness.study.description.describe_dataset`. synthetic: names of synthetic data sets. sampled: the runs
    that store samples, with the columns ``SAMPLE_KEYS``; ``method`` as in tables. samples: run_id -> arrays,
    see `harness.train.inspection.sample_latents`. curves: run ids -> losses, see `epochs`. facts: name ->
    value of the page's footer (versions). settings: sentences about settings that differ from the published
    ones. warnings: sentences about results of other versions and about trainings that were still improving at
    their end. description: the study's description in MLflow. request: arguments of the last call of the
    benchmark. located: settings that tell commands where the study's store is. clips: what predictions say of
    the test clips, None: nothing is known. baselines: the methods that all are compared with. margins: metric
    -> gains that count as equal. claims: path of the user's claims, or None. study_file: the last request's
    settings as a study file; empty for studies of earlier versions.
    """

    name: str
    frame: pd.DataFrame
    kinds: Mapping[str, str]
    trials: pd.DataFrame
    outcomes: pd.DataFrame
    links: Links
    datasets: Sequence[Mapping[str, Any]] = ()
    synthetic: frozenset[str] = frozenset()
    sampled: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(SAMPLE_KEYS)))
    samples: Callable[[str], dict[str, np.ndarray]] = _no_samples
    facts: Mapping[str, str] = field(default_factory=dict)
    settings: Sequence[str] = ()
    warnings: Sequence[str] = ()
    description: str = ""
    request: Sequence[str] = ()
    located: Sequence[str] = ()
    clips: ErrorSource | None = None
    baselines: Sequence[str] = (BASELINE,)
    margins: Mapping[str, float] = field(default_factory=dict)
    claims: str | None = None
    study_file: str = ""
    curves: Callable[[Sequence[str]], pd.DataFrame] = _no_curves

    def scores(self) -> pd.DataFrame:
        """Return scores of the test split without ablations: columns ``SCORES``, methods as in tables.

        The frame is cached, so callers must not modify it.
        """
        return self._scores

    @functools.cached_property
    def _scores(self) -> pd.DataFrame:
        rows = named(self.frame[self.frame["split"] == "test"])
        return rows[np.array([not is_ablation(name) for name in rows["method"]], bool)]

    @functools.cached_property
    def twins(self) -> dict[str, str]:
        """Data set of the frame -> the earlier data set that holds the same data."""
        present = set(self.frame["dataset"].unique())
        return twins({e["name"]: e["fingerprint"] for e in self.datasets if e["name"] in present})

    @functools.cached_property
    def clip_pairs(self) -> dict[str, tuple[ClipErrors, pd.DataFrame]]:
        """Data set with predictions -> its test clips, and pairs with `none`, see `kinds.clip_pairs`."""
        scores, found = clean(self.scores()), {}
        for dataset in sorted(set(scores["dataset"])):
            errors = self.clips.errors(dataset) if self.clips else None
            if errors is not None:
                found[dataset] = errors, clip_pairs(scores[scores["dataset"] == dataset], errors)
        return found

    def text_lengths(self, dataset: str, ids: Iterable[str]) -> np.ndarray | None:
        """Return the steps of the text of test clips; None where an earlier version described the data."""
        known = next((e for e in self.datasets if e["name"] == dataset), {}).get("test_lengths", {})
        lengths = [known.get(name) for name in ids]
        return None if None in lengths else np.array(lengths)

    def distinct_scores(self) -> pd.DataFrame:
        """Return `scores` on clean input, each set of data once."""
        scores = clean(self.scores())
        return scores[~scores["dataset"].isin(list(self.twins))]

    def counts(self) -> dict[str, int]:
        """Count the cells in each state; "missing" cells are in the last request and have no run."""
        states = list(self.outcomes["state"])
        return {state: states.count(state) for state in STATES}

    def stand_in(self, datasets: Sequence[str]) -> str:
        """Return a title's suffix about synthetic data and absent modalities, or an empty string.

        Without data sets, the suffix describes all data sets of the study.
        """
        known = [*self.frame["dataset"].unique(), *self.trials["dataset"].unique()]
        names = list(datasets) or known
        kinds = {name in self.synthetic for name in names}
        parts = []
        if True in kinds:
            parts.append("synthetic stand-in data" if kinds == {True} else "includes synthetic stand-in data")
        # Entries of earlier versions do not say which modalities are absent.
        absent = {entry["name"]: entry.get("absent", ()) for entry in self.datasets}
        lacking = [name for name in dict.fromkeys(names) if absent.get(name)]
        parts += [f"{dataset_name(name)} without {' and '.join(absent[name])}" for name in lacking]
        return f" ({'; '.join(parts)})" if parts else ""


def load_study(runs: StudyRuns, settings: ReportSettings | None = None) -> Study:
    """Read everything that a report shows; samples and predictions are read lazily.

    settings: of the report; None: those of the last request.
    """
    tracker = runs.tracker
    plugins = json.loads(tracker.study_file(CODE_FILE) or "{}").get("plugins", {})
    remember_plugins(plugins)
    cells, shown = complete_cells(runs), shown_cells(runs)
    stored = json.loads(tracker.study_file(DATASETS_FILE) or "[]")
    datasets = [entry for entry in stored if "splits" in entry]  # absent in studies of an older version
    matrix = runs.matrix()
    by_id = {run.run_id: run for run in shown.values()}
    arguments = tuple(matrix.get("arguments", ()))
    settings = settings_of(runs, settings)
    kinds, trials = metric_kinds(runs), load_trials(runs)
    clips = _clips(runs, shown.values(), trials)
    base = redact(tracker.uri).rstrip("/") if tracker.uri.startswith(("http://", "https://")) else LOCAL
    return Study(
        name=tracker.study,
        frame=load_frame(runs, requests=requests_of(matrix)),
        kinds=kinds,
        trials=trials,
        outcomes=_outcomes(matrix, cells, _failures(runs, cells.values())),
        links=Links(base, tracker.experiment_id),
        datasets=datasets,
        synthetic=_synthetic(datasets, cells.values(), runs.trials()),
        sampled=_sampled(shown.values()),
        samples=lambda run_id: dict(tracker.load(by_id[run_id]).samples),
        curves=lambda run_ids: epochs(runs.curves(by_id[run_id] for run_id in run_ids)),
        facts=_facts(shown.values()),
        settings=notices.unpublished_settings(tracker, shown.values(), datasets),
        warnings=[
            *notices.plugins(plugins),
            *notices.versions(runs),
            *filter(None, [left_out_sentence(len(cells) - len(shown))]),
            *notices.lost(tracker, shown.values()),
            *notices.without_predictions(clips, shown.values()),
            *notices.cut_short(tracker, shown.values()),
        ],
        description=tracker.description(),
        request=arguments,
        clips=clips,
        baselines=tuple(dict.fromkeys(filter(None, (BASELINE, settings.baseline)))),
        margins=dict(settings.equal_within),
        claims=settings.claims,
        study_file=tracker.study_file(STUDY_FILE) or "",
        located=tuple(tracker.located()),
    )


def settings_of(runs: StudyRuns, settings: ReportSettings | None) -> ReportSettings:
    """Return the settings of a report, or those of the last request if there are none."""
    return report_settings(tuple(runs.matrix().get("arguments", ()))) if settings is None else settings


def _failures(runs: StudyRuns, cells: Iterable[Run]) -> list[Run]:
    """Return failed runs of the results version that is shown and of this program's version."""
    versions = {RESULTS_VERSION, *(version_of(run.tags) for run in cells)}
    return [run for run in runs.failures() if version_of(run.tags) in versions]


def _outcomes(matrix: Mapping[str, Any], cells: Mapping[str, Run], failures: Iterable[Run]) -> pd.DataFrame:
    rows = {cell_id: _outcome(run, "done") for cell_id, run in cells.items()}
    for run in failures:
        cell_id = run.tags["cell_id"]
        if cell_id not in cells and SWEEP not in run.tags:
            state = "diverged" if run.tags.get("outcome") == "diverged" else "failed"
            rows[cell_id] = _outcome(run, state)
    for cell in request_rows(matrix, "cells"):
        cell_id = cell.pop("cell_id")
        missing = {"state": "missing", "reason": "", "run_id": ""}
        rows[cell_id] = {**cell, **missing, **rows.get(cell_id, {}), "requested": True}
    frame = pd.DataFrame(list(rows.values()), columns=list(OUTCOMES))
    return frame.sort_values(["dataset", "backbone", "method", "cell", "run_id"], ignore_index=True)


def _outcome(run: Run, state: str) -> dict[str, Any]:
    facts = {"cell": run.tags["mlflow.runName"], "reason": run.tags.get("reason", "")}
    return {**_keys(run), **facts, "state": state, "requested": False}


def _keys(run: Run) -> dict[str, Any]:
    """Return the columns ``SAMPLE_KEYS`` of a run."""
    names = {name: run.tags[name] for name in ("dataset", "backbone", "cell_id")}
    return {**names, "method": label_of(run.tags), "seed": int(run.tags["seed"]), "run_id": run.run_id}


def _synthetic(
    datasets: Iterable[Mapping[str, Any]], cells: Iterable[Run], trials: Iterable[Run]
) -> frozenset[str]:
    """Return names of synthetic data sets; without a stored description, the name's prefix decides."""
    known = {entry["name"]: bool(entry["synthetic"]) for entry in datasets}
    names = {run.tags["dataset"] for run in (*cells, *trials)}
    return frozenset(name for name in names | set(known) if known.get(name, name.startswith("synthetic_")))


def _sampled(cells: Iterable[Run]) -> pd.DataFrame:
    rows = [_keys(run) for run in cells if run.tags.get("samples") == "true"]
    frame = pd.DataFrame(rows, columns=list(SAMPLE_KEYS))
    return frame.sort_values(list(SAMPLE_KEYS), ignore_index=True)


def _facts(cells: Iterable[Run]) -> dict[str, str]:
    """Return device, results version, code and package versions; several values are joined by commas."""
    values: dict[str, set[str]] = {}
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
            values.setdefault(name, set()).add(value)
    return {name: ", ".join(sorted(filter(None, texts))) for name, texts in values.items()}


def _clips(runs: StudyRuns, shown: Iterable[Run], trials: pd.DataFrame) -> StudyClips:
    """Return the clips of the runs that are shown, and of those that verdicts on sweeps compare."""
    compared = compared_runs(trials)
    used = {run.run_id: run for run in runs.complete().values() if run.run_id in compared}
    used |= {run.run_id: run for run in shown}
    kinds = {run.tags["dataset"]: run.tags["metrics"] for run in used.values()}
    return StudyClips(used.values(), kinds, runs.predictions)

"""Sentences of a report about its runs as a whole: other versions, lost files, unusual settings."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from backbones import BACKBONES
from backbones.base import KINDS, resolve_settings
from harness.matrix import base_name
from harness.tracking.tags import flatten
from harness.tracking.tracker import Run, Tracker
from reports.names import backbone_name, dataset_name
from reports.runs.clips import StudyClips
from reports.runs.frame import version_notes
from reports.runs.study_runs import StudyRuns

PREFIX = "backbone_settings."


def plugins(stored: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return a sentence that names file and code hash of each plugin of the study."""
    named = ", ".join(f"{name} ({own['file']}, {own['hash']})" for name, own in sorted(stored.items()))
    return [f"From plugins, with file and code hash: {named}."] if named else []


def versions(runs: StudyRuns) -> list[str]:
    """Return warnings about other results versions in the matrix and in each sweep."""
    sweeps = sorted({trial.tags["sweep"] for trial in runs.trials()})
    return [sentence for sweep in (None, *sweeps) for sentence in version_notes(runs, sweep)]


def lost(tracker: Tracker, cells: Collection[Run]) -> list[str]:
    """Return a warning if the artifacts of some runs no longer exist."""
    lost = tracker.lost(cells)
    return [
        f"The artifacts of {len(lost)} of {len(cells)} runs are gone ({run.artifact_uri} does not exist); "
        "their predictions and latents cannot be shown."
        for run in lost[:1]
    ]


def without_predictions(clips: StudyClips, runs: Collection[Run]) -> list[str]:
    """Return a warning if some runs have no predictions of the usual clips."""
    missing = clips.without_predictions(runs)
    if not missing:
        return []
    return [
        f"{missing} of {len(runs)} runs have no predictions of the clips that the others were tested on; "
        "their comparisons are undecided, because intervals for other clips need them."
    ]


def cut_short(tracker: Tracker, cells: Iterable[Run]) -> list[str]:
    """Return warnings for backbones of which most trainings had their best epoch at the epoch limit."""
    groups: dict[tuple[str, str, str], list[Run]] = {}
    for run in cells:
        key = (run.tags["backbone"], run.tags["dataset"], run.tags.get("configuration", ""))
        groups.setdefault(key, []).append(run)
    last: dict[tuple[str, str], list[bool]] = {}
    settings = tracker.parameters_of([runs[0].run_id for runs in groups.values()])
    for (backbone, dataset, _), runs in groups.items():
        most = float(settings.get(runs[0].run_id, {}).get(f"{PREFIX}max_epochs", "inf"))
        at_end = [run.metrics.get("cell/best_epoch", 0.0) >= most for run in runs]
        last.setdefault((backbone, dataset), []).extend(at_end)
    return [
        f"{backbone_name(backbone)} on {dataset_name(dataset)}: {sum(at_end)} of {len(at_end)} trainings "
        "were still improving at the limit of epochs; longer training may change the ranking of methods."
        for (backbone, dataset), at_end in sorted(last.items())
        if 2 * sum(at_end) > len(at_end)
    ]


def unpublished_settings(
    tracker: Tracker, cells: Iterable[Run], datasets: Iterable[Mapping[str, Any]]
) -> list[str]:
    """Return a sentence for each backbone whose settings (of one run) differ from the published ones."""
    like = {entry["name"]: entry["like"] for entry in datasets if "like" in entry}
    first: dict[tuple[str, str], Run] = {}
    for run in cells:
        first.setdefault((run.tags["backbone"], run.tags["dataset"]), run)
    names: dict[tuple[str, str], list[str]] = {}
    for (backbone, dataset), run in sorted(first.items()):
        base = base_name(backbone)
        if base in BACKBONES and dataset in like:
            # Published results of a dataset have its own settings, whatever this study took it for.
            kind = dataset if dataset in KINDS else like[dataset]
            changes = _changes(tracker.parameters(run.run_id), base, kind)
            names.setdefault((backbone, ", ".join(changes)), []).append(dataset)
    return [
        f"{backbone_name(backbone)} on {', '.join(map(dataset_name, on))}: {changes}."
        for (backbone, changes), on in names.items()
        if changes
    ]


def _changes(parameters: Mapping[str, str], backbone: str, like: str) -> list[str]:
    """List a run's settings that differ from the published ones: ``lr 0.1 (0.001)``."""
    entry = BACKBONES[backbone]
    published = dict(sorted(flatten(vars(resolve_settings(entry, entry.Settings(), like))).items()))
    ours = {name: parameters.get(f"{PREFIX}{name}", str(value)) for name, value in published.items()}
    if parameters.get("text.encoder") == "bert" and parameters.get("text.finetune") == "True":
        published |= {f"text.{name}": value for name, value in entry.published_text.items()}
        # Earlier versions had no weight decay of the encoder.
        ours |= {f"text.{name}": parameters.get(f"text.{name}", "0.0") for name in entry.published_text}
    return [f"{name} {ours[name]} ({value})" for name, value in published.items() if ours[name] != str(value)]

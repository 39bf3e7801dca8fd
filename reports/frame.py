"""The one tidy frame that feeds every table and figure: a row per measured number, from MLflow alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pandas as pd

from harness.errors import UserError, unknown
from harness.tracking import SWEEP, Run, Tracker
from reports.stats import COLUMNS

CELL_NUMBERS = (
    "parameter_count",
    "method_parameter_count",
    "epoch_s",
    "train_s",
    "peak_memory_mb",
    "best_epoch",
)
OCCLUDED = re.compile(r"test_r(\d.*)")


def load_frame(tracker: Tracker, sweep: str | None = None) -> pd.DataFrame:
    """One row per number of each complete cell (the earliest run of each), in an order of their names.

    Besides `COLUMNS` it has ``tuned``, whether the cell's settings are those of a tuned file,
    ``tuned_backbone``, whether that file changes settings of the backbone, and ``outdated``, whether a cell
    that started later has the same method, backbone and dataset and the settings of another file. Its
    ``attrs["sweeps"]`` is true where it is empty and there are trials of sweeps.

    sweep: the cells of this sweep's trials, whatever they were trained for; ``settings`` then has the
    trial's parameters, too, and a cell counts once for each such settings. None: all cells but those that
    were trained for sweeps alone.

    Raises:
        UserError: there is no trial of this sweep.
    """
    cells = complete_cells(tracker, sweep)
    settings = {cell_id: {run.tags["settings"]} for cell_id, run in cells.items()}
    if sweep is not None:
        settings = _settings_of_trials(_trials(tracker, sweep), settings)
    files = {_combination(run): run.tags["tuned"] for run in cells.values() if "tuned" in run.tags}
    rows = [
        {
            **row,
            "settings": text,
            "outdated": run.tags.get("tuned") not in (None, files.get(_combination(run))),
        }
        for cell_id, run in cells.items()
        for text in settings[cell_id]
        for row in _rows(tracker.study, run)
    ]
    frame = pd.DataFrame(rows, columns=[*COLUMNS, "tuned", "tuned_backbone", "outdated"])
    frame.attrs["sweeps"] = not rows and bool(tracker.trials())
    keys = [c for c in COLUMNS if c not in ("value", "run_id")]
    return frame.sort_values(keys, kind="stable", ignore_index=True)


def metric_kinds(tracker: Tracker, sweep: str | None = None) -> dict[str, str]:
    """The kind of metrics ("mosi", "mosei", "sims") of each dataset in the study, or in a sweep of it."""
    return {run.tags["dataset"]: run.tags["metrics"] for run in complete_cells(tracker, sweep).values()}


def complete_cells(tracker: Tracker, sweep: str | None = None) -> dict[str, Run]:
    """The complete runs of the study's matrix by cell_id, or those of a sweep of it, see `load_frame`."""
    runs = tracker.complete()
    if sweep is None:
        return {cell_id: run for cell_id, run in runs.items() if SWEEP not in run.tags}
    found = {cell_id for trial in _trials(tracker, sweep) for cell_id in _cell_ids(trial)}
    return {cell_id: run for cell_id, run in runs.items() if cell_id in found}


def _trials(tracker: Tracker, sweep: str) -> list[Run]:
    trials = tracker.trials()
    names = {trial.tags["sweep"] for trial in trials}
    if not names:
        raise UserError(f"Study {tracker.study!r} has no trials of sweeps, so none of {sweep!r}.")
    if sweep not in names:
        raise unknown("sweep", sweep, names)
    return [trial for trial in trials if trial.tags["sweep"] == sweep]


def _cell_ids(trial: Run) -> list[str]:
    return list(json.loads(trial.tags.get("cells", "{}")).values())


def _settings_of_trials(trials: Iterable[Run], own: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Cell's id -> JSON of its own settings (``own``) and of the parameters of each trial that has it."""
    found: dict[str, set[str]] = {}
    for trial in trials:
        params = json.loads(trial.tags["params"])
        for cell_id in _cell_ids(trial):
            for text in own.get(cell_id, ()):
                merged = json.dumps({**json.loads(text), **params}, sort_keys=True)
                found.setdefault(cell_id, set()).add(merged)
    return found


def _combination(run: Run) -> tuple[str, ...]:
    """What a tuned file is for."""
    return tuple(run.tags[name] for name in ("method", "backbone", "dataset"))


def _rows(study: str, run: Run) -> Iterator[dict[str, Any]]:
    tags = run.tags
    common = {"study": study, "cell_id": tags["cell_id"], "run_id": run.run_id, "seed": int(tags["seed"])}
    common |= {name: tags[name] for name in ("dataset", "backbone", "method", "occlusion_protocol")}
    common["tuned"], common["tuned_backbone"] = "tuned" in tags, tags.get("tuned_backbone") == "true"
    for (split, ratio), name, value in _numbers(run.metrics, float(tags["train_ratio"])):
        yield {**common, "occlusion_ratio": ratio, "split": split, "metric": name, "value": value}


def _numbers(
    metrics: Mapping[str, float], train_ratio: float
) -> Iterator[tuple[tuple[str, float], str, float]]:
    for key, value in metrics.items():
        group, _, name = key.partition("/")
        occluded = OCCLUDED.fullmatch(group)
        if occluded:
            yield ("test", float(occluded[1])), name, value
        elif group in ("valid", "test") or (group == "cell" and name in CELL_NUMBERS):
            yield (group, train_ratio), name, value

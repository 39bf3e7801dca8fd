"""The one tidy frame that feeds every table and figure: a row per measured number, from MLflow alone."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from harness.errors import UserError, unknown
from harness.tracking import codes
from harness.tracking.codes import of_one_code
from harness.tracking.tags import label_of
from harness.tracking.tracker import SWEEP, Run
from harness.tracking.versions import chosen, shown_sentences, version_of
from reports.study_runs import RunSource

COLUMNS = (
    *("study", "dataset", "backbone", "method", "settings", "seed", "occlusion_protocol", "occlusion_ratio"),
    *("split", "metric", "value", "cell_id", "run_id"),
)
"""Columns of the tidy frame, in the order of the export."""
CELL_NUMBERS = (
    "parameter_count",
    "method_parameter_count",
    "epoch_s",
    "train_s",
    "peak_memory_mb",
    "best_epoch",
)
OCCLUDED = re.compile(r"test_r(\d.*)")
WATCHED = {"epoch": "mix_", "mechanism": ""}
EXTRA = ("label", "variant", "tuned", "tuned_backbone", "outdated", "superseded", "environment")
"""Columns that the frame has besides those of the export."""
SCORES = (*COLUMNS, *EXTRA)
MEASURED = ("occlusion_ratio", "split", "metric", "value", "superseded")
FACTS = tuple(name for name in SCORES if name not in MEASURED)


def load_frame(
    source: RunSource, sweep: str | None = None, requested: Collection[str] = frozenset()
) -> pd.DataFrame:
    """One row per number of each complete cell (the earliest run of each), in an order of their names.

    ``split`` is "valid", "test", "cell", "mechanism" (see `harness.train.inspection`) or "epoch" (what mixing
    did in the last epoch, see `harness.train.diagnostics`). Besides `COLUMNS` it has ``label``, the method as
    tables name it, ``variant``, the same whether or not it was tuned, ``tuned``, whether the cell's settings
    are those of a tuned file, ``tuned_backbone``, whether that file changes settings of the backbone,
    ``outdated``, whether a cell that started later has the same method, backbone and dataset and the settings
    of another file, ``superseded``, see there, and ``environment``: device, torch, results version and
    precision. Its ``attrs["sweeps"]`` is true where it is empty and there are trials of sweeps.

    requested: ids of the cells that the last request asked for.
    sweep: the cells of this sweep's trials, whatever they were trained for; ``settings`` then has the
    trial's parameters, too, and a cell counts once for each such settings. None: all cells but those that
    were trained for sweeps alone.

    Raises:
        UserError: there is no trial of this sweep.
    """
    cells = complete_cells(source, sweep)
    settings = {cell_id: {run.tags["settings"]} for cell_id, run in cells.items()}
    if sweep is not None:
        settings = _settings_of_trials(_trials(source, sweep), settings)
    files = {_combination(run): run.tags["tuned"] for run in cells.values() if "tuned" in run.tags}
    runs = [(run, text) for cell_id, run in cells.items() for text in settings[cell_id]]
    rows = [(k, name, value) for k, (run, _) in enumerate(runs) for name, value in run.metrics.items()]
    frame = _frame(source.study, runs, pd.DataFrame(rows, columns=["run", "name", "value"]), files)
    frame["superseded"] = frame["cell_id"].isin(superseded(cells, requested) if sweep is None else ())
    frame = frame[list(SCORES)]
    frame.attrs["sweeps"] = frame.empty and bool(source.trials())
    keys = [c for c in COLUMNS if c not in ("value", "run_id")]
    return frame.sort_values(keys, kind="stable", ignore_index=True)


def check_frame(frame: pd.DataFrame) -> None:
    """Check the columns of a tidy frame; further columns are welcome.

    Raises:
        ValueError: a column is missing, or a column of numbers holds something else.
    """
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise ValueError(f"the tidy frame lacks {', '.join(missing)}; it has {list(frame.columns)}")
    for name in ("value", "occlusion_ratio"):
        # An empty frame built from the names alone has object columns.
        kind = frame[name].dtype
        if len(frame) and not pd.api.types.is_numeric_dtype(kind):
            raise ValueError(f"column {name!r} of the tidy frame must be numbers, got {kind}")


def _frame(
    study: str, runs: Sequence[tuple[Run, str]], numbers: pd.DataFrame, files: Mapping[tuple[str, ...], str]
) -> pd.DataFrame:
    """The tidy frame, unsorted; numbers: the place of a run in ``runs``, a metric's name and its value."""
    known = {str(name): part for name in numbers["name"].unique() if (part := _parsed(str(name)))}
    numbers = numbers[numbers["name"].isin(list(known))]
    parts = [known[name] for name in numbers["name"]]
    facts = pd.DataFrame([_facts(study, *pair, files) for pair in runs], columns=[*FACTS, "train_ratio"])
    frame = facts.iloc[numbers["run"].to_numpy(int)].reset_index(drop=True)
    ratios = np.array([math.nan if part[1] is None else part[1] for part in parts], np.float64)
    frame["occlusion_ratio"] = np.where(np.isnan(ratios), frame["train_ratio"].to_numpy(float), ratios)
    frame["split"], frame["metric"] = [part[0] for part in parts], [part[2] for part in parts]
    frame["value"] = numbers["value"].to_numpy(float)
    return frame


def _facts(study: str, run: Run, settings: str, files: Mapping[tuple[str, ...], str]) -> dict[str, Any]:
    """What is the same for all numbers of a run."""
    tags = run.tags
    facts = {"study": study, "cell_id": tags["cell_id"], "run_id": run.run_id, "seed": int(tags["seed"])}
    facts |= {name: tags[name] for name in ("dataset", "backbone", "method", "occlusion_protocol")}
    facts |= {"settings": settings, "environment": environment(tags)}
    facts |= {"label": label_of(tags), "variant": tags["variant"]}
    facts |= {"tuned": "tuned" in tags, "tuned_backbone": tags.get("tuned_backbone") == "true"}
    facts["outdated"] = tags.get("tuned") not in (None, files.get(_combination(run)))
    return {**facts, "train_ratio": float(tags["train_ratio"])}


def _parsed(name: str) -> tuple[str, float | None, str] | None:
    """Split, ratio (None: that of the training) and metric of a number's name; None: not for the frame."""
    group, _, metric = name.partition("/")
    occluded = OCCLUDED.fullmatch(group)
    if occluded:
        return "test", float(occluded[1]), metric
    if group in ("valid", "test") or (group == "cell" and metric in CELL_NUMBERS):
        return group, None, metric
    watched = group in WATCHED and metric.startswith(WATCHED[group])
    return (group, None, metric) if watched else None


def superseded(cells: Mapping[str, Run], requested: Collection[str]) -> set[str]:
    """Ids of cells that another takes the place of, which a mean must not hold as well.

    Of those that tables name alike, with the same data set and backbone, one configuration counts: that which
    was asked for last, else that of the latest start; and of it one cell for each seed and training ratio.
    """
    rows: dict[tuple[str, ...], dict[str, list[Run]]] = {}
    # Later ones come last, and those that were asked for after all others.
    for run in sorted(cells.values(), key=lambda run: run.tags["cell_id"] in requested):
        tags = run.tags
        row = (tags["dataset"], tags["backbone"], tags["variant"], tags.get("tuned", ""))
        configurations = rows.setdefault(row, {})
        key = tags.get("configuration", "")
        configurations[key] = [*configurations.pop(key, []), run]
    latest: set[str] = set()
    for configurations in rows.values():
        last = list(configurations.values())[-1]
        latest |= set({(r.tags["seed"], r.tags["train_ratio"]): r.tags["cell_id"] for r in last}.values())
    return set(cells) - latest


def metric_kinds(source: RunSource, sweep: str | None = None) -> dict[str, str]:
    """The kind of metrics ("mosi", "mosei", "sims") of each dataset in the study, or in a sweep of it."""
    return {run.tags["dataset"]: run.tags["metrics"] for run in complete_cells(source, sweep).values()}


def complete_cells(source: RunSource, sweep: str | None = None) -> dict[str, Run]:
    """The complete runs of the study's matrix by cell_id, or those of a sweep of it, see `load_frame`.

    Of one results version alone, see `harness.tracking.versions.chosen`, and of one code of each method and
    backbone, see `of_one_code`.
    """
    cells = _all_cells(source, sweep)
    run_ids = {run.run_id for run in of_one_code(of_one_version(cells.values()))}
    return {cell_id: run for cell_id, run in cells.items() if run.run_id in run_ids}


def version_notes(source: RunSource, sweep: str | None = None) -> list[str]:
    """Which results `complete_cells` leaves out or are of another version than this program's, in words."""
    runs = list(_all_cells(source, sweep).values())
    sentences = shown_sentences((version_of(run.tags) for run in runs), sweep)
    return sentences + codes.shown_sentences(of_one_version(runs))


def of_one_version(runs: Iterable[Run]) -> list[Run]:
    """Those of the runs that may be shown together, in their order."""
    runs = list(runs)
    version = chosen(version_of(run.tags) for run in runs)
    return [run for run in runs if version_of(run.tags) == version]


def _all_cells(source: RunSource, sweep: str | None) -> dict[str, Run]:
    runs = source.complete()
    if sweep is None:
        return {cell_id: run for cell_id, run in runs.items() if SWEEP not in run.tags}
    cell_ids = {cell_id for trial in _trials(source, sweep) for cell_id in _cell_ids(trial)}
    return {cell_id: run for cell_id, run in runs.items() if cell_id in cell_ids}


def _trials(source: RunSource, sweep: str) -> list[Run]:
    trials = source.trials()
    names = {trial.tags["sweep"] for trial in trials}
    if not names:
        raise UserError(f"Study {source.study!r} has no trials of sweeps, so none of {sweep!r}.")
    if sweep not in names:
        raise unknown("sweep", sweep, names)
    return [trial for trial in trials if trial.tags["sweep"] == sweep]


def _cell_ids(trial: Run) -> list[str]:
    return list(json.loads(trial.tags.get("cells", "{}")).values())


def _settings_of_trials(trials: Iterable[Run], own: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Cell's id -> JSON of its own settings (``own``) and of the parameters of each trial that has it."""
    settings: dict[str, set[str]] = {}
    for trial in trials:
        params = json.loads(trial.tags["params"])
        for cell_id in _cell_ids(trial):
            merged = {json.dumps({**json.loads(s), **params}, sort_keys=True) for s in own.get(cell_id, ())}
            settings.setdefault(cell_id, set()).update(merged)
    return settings


def environment(tags: Mapping[str, str]) -> str:
    """What must be equal for two numbers to be compared: device, torch, the arithmetic and its version."""
    device, torch = tags.get("device", "unknown device"), tags.get("torch", "?")
    version = f"results version {tags.get('results_version', '?')}"
    precision = [tags["precision"]] if tags.get("precision", "fp32") != "fp32" else []
    compiled = ["compiled"] if tags.get("compile") == "true" else []
    return ", ".join([device, f"torch {torch}", version, *precision, *compiled])


def named(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with their method named as in tables, those of outdated and superseded cells left out.

    What ``tuned`` marks is named ``ms_mix{tuned}``, whatever its settings, and is there once more under these
    if it is the method alone that was tuned and others have the same settings.
    """
    if "superseded" in frame.columns:
        frame = frame[~frame["superseded"].astype(bool)]
    plain = frame.assign(method=frame["variant"])
    tuned = frame["tuned"].astype(bool)
    labelled = frame.assign(method=frame["label"])
    # A search may end at settings that have a row of their own, which would show a hole there.
    asked_for = plain["method"].isin(set(plain["method"][~tuned])) | (frame["settings"] == "{}")
    own_row = asked_for & ~frame["tuned_backbone"].astype(bool)
    return pd.concat([labelled[~frame["outdated"].astype(bool)], plain[tuned & own_row]])


def is_ablation(name: str) -> bool:
    """Whether a method's name, as in tables, says that a component is switched off."""
    return "[" in name.partition("{")[0]


def _combination(run: Run) -> tuple[str, ...]:
    """What a tuned file is for."""
    return tuple(run.tags[name] for name in ("method", "backbone", "dataset"))

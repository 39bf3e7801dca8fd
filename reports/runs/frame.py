"""The tidy frame behind every table and figure: one row per measured number, read from MLflow."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from harness.errors import UserError, unknown
from harness.tracking import codes
from harness.tracking.codes import of_one_code
from harness.tracking.tags import label_of
from harness.tracking.tracker import SWEEP, Run
from harness.tracking.versions import chosen, shown_sentences, version_of
from reports.runs.selection import Requests, left_out, requests_of
from reports.runs.study_runs import RunSource, StudyRuns
from reports.stats.settings import STATES

COLUMNS = (
    *("study", "dataset", "backbone", "method", "settings", "seed", "occlusion_protocol", "occlusion_ratio"),
    *("split", "metric", "value", "cell_id", "run_id"),
)
"""Columns of the tidy frame."""
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
IDENTITY = ("data_fingerprint", "configuration")
"""Columns that identify the data and all settings of a cell but its seed and occlusion ratios."""
EXPORT = (*COLUMNS[:-2], *IDENTITY, *COLUMNS[-2:], "resolved")
"""Columns of the export, in order; ``resolved``: see `reports.runs.study_runs.StudyRuns.resolved`."""
TRIAL = ("sweep", "trial")
"""Columns that identify a trial, within a data set and backbone; the export of sweeps ends with them."""
EXTRA = ("label", "variant", "tuned", "tuned_backbone", "outdated", "superseded", "environment", *IDENTITY)
"""Columns of the frame that the tables need besides `COLUMNS`."""
SCORES = (*COLUMNS, *EXTRA)
MEASURED = ("occlusion_ratio", "split", "metric", "value", "superseded")
FACTS = tuple(name for name in (*SCORES, *TRIAL) if name not in MEASURED)


def load_frame(source: RunSource, sweep: str | None = None, requests: Requests | None = None) -> pd.DataFrame:
    """Load one row per number of each complete cell (its earliest run), sorted by `COLUMNS`.

    ``split`` is "valid", "test", "cell", "mechanism" (see `harness.train.inspection`), "epoch" (statistics
    of mixing in the last epoch, see `harness.train.diagnostics`) or "test_best_epoch" (scores of the best
    epoch of the test split, of cells with a test curve). Columns beyond `COLUMNS`: ``label``, the method as
    tables name it; ``variant``, the method with its settings, tuned or not; ``tuned``, whether the
    cell has settings of a tuned file; ``tuned_backbone``, whether that file changes backbone settings;
    ``outdated``, whether a later cell of the same method, backbone and dataset has settings of another file;
    ``superseded``, see `left_out`; ``environment``: device, torch, results version, precision; `IDENTITY`.
    ``attrs["sweeps"]`` is true if the frame is empty although the study has trials of sweeps.

    requests: see `reports.runs.selection`; None: nothing is known of them.
    sweep: load the cells of this sweep's trials; ``settings`` then includes the trial's parameters, a cell
    has rows for each distinct value of it, and the columns `TRIAL` follow (of equal trials: the first
    complete, else pruned, else failed one). None: load all cells except those trained only for sweeps.

    Raises:
        UserError: the study has no trial of this sweep.
    """
    cells = complete_cells(source, sweep)
    trials: dict[str, dict[str, int | None]]  # cell_id -> settings -> trial
    trials = {cell_id: {run.tags["settings"]: None} for cell_id, run in cells.items()}
    if sweep is not None:
        trials = _trials_of_cells(_trials(source, sweep), cells)
    files = {_combination(run): run.tags["tuned"] for run in cells.values() if "tuned" in run.tags}
    runs = [(run, *pair) for cell_id, run in cells.items() for pair in trials[cell_id].items()]
    rows = [(k, name, value) for k, (run, *_) in enumerate(runs) for name, value in run.metrics.items()]
    facts = [
        {**_facts(source.study, run, text, files), "sweep": sweep, "trial": trial}
        for run, text, trial in runs
    ]
    frame = _frame(facts, pd.DataFrame(rows, columns=["run", "name", "value"]))
    frame["superseded"] = frame["cell_id"].isin(left_out(cells, requests or {}) if sweep is None else ())
    frame = frame[[*SCORES, *(TRIAL if sweep is not None else ())]]
    frame.attrs["sweeps"] = frame.empty and bool(source.trials())
    keys = [c for c in COLUMNS if c not in ("value", "run_id")]
    return frame.sort_values(keys, kind="stable", ignore_index=True)


def check_frame(frame: pd.DataFrame) -> None:
    """Check the columns of a tidy frame; additional columns are allowed.

    Raises:
        ValueError: a column is missing, or a numeric column holds other values.
    """
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise ValueError(f"the tidy frame lacks {', '.join(missing)}; it has {list(frame.columns)}")
    for name in ("value", "occlusion_ratio"):
        # An empty frame built from the names alone has object columns.
        kind = frame[name].dtype
        if len(frame) and not pd.api.types.is_numeric_dtype(kind):
            raise ValueError(f"column {name!r} of the tidy frame must hold numbers, got {kind}")


def _frame(runs: Sequence[Mapping[str, Any]], numbers: pd.DataFrame) -> pd.DataFrame:
    """Build the unsorted tidy frame.

    runs: facts of each run, see `_facts`. numbers: index in ``runs``, name and value of a metric.
    """
    known = {str(name): part for name in numbers["name"].unique() if (part := _parsed(str(name)))}
    numbers = numbers[numbers["name"].isin(list(known))]
    codes, names = pd.factorize(numbers["name"])
    parts = pd.DataFrame([known[str(name)] for name in names], columns=["split", "ratio", "metric"])
    parts = parts.astype({"ratio": float}).take(codes).reset_index(drop=True)
    facts = pd.DataFrame(list(runs), columns=[*FACTS, "train_ratio"])
    frame = facts.iloc[numbers["run"].to_numpy(int)].reset_index(drop=True)
    frame["occlusion_ratio"] = parts["ratio"].fillna(frame["train_ratio"].astype(float))
    frame["split"], frame["metric"] = parts["split"], parts["metric"]
    frame["value"] = numbers["value"].to_numpy(float)
    # Reports iterate over names, which takes ten times as long where Arrow holds them.
    quick = pd.StringDtype("python", na_value=np.nan)
    return frame.astype({name: quick for name, kind in frame.dtypes.items() if kind == "str"})


def _facts(study: str, run: Run, settings: str, files: Mapping[tuple[str, ...], str]) -> dict[str, Any]:
    """Return the columns that are equal for all numbers of a run."""
    tags = run.tags
    facts = {"study": study, "cell_id": tags["cell_id"], "run_id": run.run_id, "seed": int(tags["seed"])}
    facts |= {name: tags[name] for name in ("dataset", "backbone", "method", "occlusion_protocol")}
    facts |= {"settings": settings, "environment": environment(tags)}
    facts |= {"label": label_of(tags), "variant": tags["variant"]}
    facts |= {"data_fingerprint": tags.get("fingerprint", ""), "configuration": tags.get("configuration", "")}
    facts |= {"tuned": "tuned" in tags, "tuned_backbone": tags.get("tuned_backbone") == "true"}
    facts["outdated"] = tags.get("tuned") not in (None, files.get(_combination(run)))
    return {**facts, "train_ratio": float(tags["train_ratio"])}


def _parsed(name: str) -> tuple[str, float | None, str] | None:
    """Parse a name into split, ratio (None: the training ratio) and metric; None if the frame omits it."""
    group, _, metric = name.partition("/")
    occluded = OCCLUDED.fullmatch(group)
    if occluded:
        return "test", float(occluded[1]), metric
    if group in ("valid", "test", "test_best_epoch") or (group == "cell" and metric in CELL_NUMBERS):
        return group, None, metric
    watched = group in WATCHED and metric.startswith(WATCHED[group])
    return (group, None, metric) if watched else None


def metric_kinds(source: RunSource, sweep: str | None = None) -> dict[str, str]:
    """Return dataset -> kind of metrics ("mosi", "mosei", "sims") of the study, or of one sweep."""
    return {run.tags["dataset"]: run.tags["metrics"] for run in complete_cells(source, sweep).values()}


def complete_cells(source: RunSource, sweep: str | None = None) -> dict[str, Run]:
    """Return cell_id -> complete run of the study's matrix, or of one sweep, see `load_frame`.

    All runs have the same results version, see `harness.tracking.versions.chosen`, and the same code of each
    method and backbone, see `of_one_code`.
    """
    cells = _all_cells(source, sweep)
    run_ids = {run.run_id for run in of_one_code(of_one_version(cells.values()))}
    return {cell_id: run for cell_id, run in cells.items() if run.run_id in run_ids}


def shown_cells(runs: StudyRuns, sweep: str | None = None) -> dict[str, Run]:
    """Return cell_id -> run of the complete cells that a report shows, or of one sweep."""
    cells = complete_cells(runs, sweep)
    hidden = set() if sweep is not None else left_out(cells, requests_of(runs.matrix()))
    return {cell_id: run for cell_id, run in cells.items() if cell_id not in hidden}


def version_notes(source: RunSource, sweep: str | None = None) -> list[str]:
    """Return sentences about results of other versions and other code, left out or shown."""
    runs = list(_all_cells(source, sweep).values())
    sentences = shown_sentences((version_of(run.tags) for run in runs), sweep)
    return sentences + codes.shown_sentences(of_one_version(runs), sweep)


def of_one_version(runs: Iterable[Run]) -> list[Run]:
    """Return the runs of the results version that is shown, in their order."""
    runs = list(runs)
    version = chosen(version_of(run.tags) for run in runs)
    return [run for run in runs if version_of(run.tags) == version]


def _all_cells(source: RunSource, sweep: str | None) -> dict[str, Run]:
    runs = source.complete()
    if sweep is None:
        return {cell_id: run for cell_id, run in runs.items() if SWEEP not in run.tags}
    cell_ids = {cell_id for trial in _trials(source, sweep) for cell_id in _cell_ids(trial)}
    return {cell_id: run for cell_id, run in runs.items() if cell_id in cell_ids}


def sweep_names(source: RunSource) -> list[str]:
    """Return the names of the study's sweeps, sorted."""
    return sorted({trial.tags["sweep"] for trial in source.trials()})


def _trials(source: RunSource, sweep: str) -> list[Run]:
    names = sweep_names(source)
    if not names:
        raise UserError(f"Study {source.study!r} has no sweeps, got sweep={sweep!r}.")
    if sweep not in names:
        raise unknown("sweep", sweep, names)
    return [trial for trial in source.trials() if trial.tags["sweep"] == sweep]


def _cell_ids(trial: Run) -> list[str]:
    return list(json.loads(trial.tags.get("cells", "{}")).values())


def _trials_of_cells(trials: Iterable[Run], cells: Mapping[str, Run]) -> dict[str, dict[str, int | None]]:
    """Return cell_id -> JSON of its settings merged with a trial's parameters -> the trial's number."""
    found: dict[str, dict[str, int | None]] = {}
    for trial in sorted(trials, key=trial_order):
        params = json.loads(trial.tags["params"])
        for cell_id in cells.keys() & set(_cell_ids(trial)):
            own = json.loads(cells[cell_id].tags["settings"])
            merged = json.dumps({**own, **params}, sort_keys=True)
            found.setdefault(cell_id, {}).setdefault(merged, int(trial.tags["trial"]))
    return found


def trial_order(trial: Run) -> tuple[int, int]:
    """Return the key by which trials of equal parameters are sorted: the first one stands for them all."""
    return STATES.index(trial.tags["state"]), int(trial.tags["trial"])


def environment(tags: Mapping[str, str]) -> str:
    """Return device, torch and results version, and precision; only equal environments are compared."""
    device, torch = tags.get("device", "unknown device"), tags.get("torch", "?")
    version = f"results version {tags.get('results_version', '?')}"
    precision = [tags["precision"]] if tags.get("precision", "fp32") != "fp32" else []
    compiled = ["compiled"] if tags.get("compile") == "true" else []
    return ", ".join([device, f"torch {torch}", version, *precision, *compiled])


def named(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows without outdated and superseded cells, with ``method`` as tables name it.

    Tuned cells are named ``ms_mix{tuned}`` whatever their settings. If no backbone setting was tuned, they
    appear again under the name of their settings if these are the defaults or an untuned cell has them.
    """
    if "superseded" in frame.columns:
        frame = frame[~frame["superseded"].astype(bool)]
    plain = frame.assign(method=frame["variant"])
    tuned = frame["tuned"].astype(bool)
    labelled = frame.assign(method=frame["label"])
    # A search may choose settings that already have a row, which would otherwise lack this cell.
    has_row = plain["method"].isin(plain["method"][~tuned].unique()) | (frame["settings"] == "{}")
    own_row = has_row & ~frame["tuned_backbone"].astype(bool)
    return pd.concat([labelled[~frame["outdated"].astype(bool)], plain[tuned & own_row]])


def is_ablation(name: str) -> bool:
    """Return whether a method's name in tables marks an ablation: ``ms_mix[sass]``."""
    return "[" in name.partition("{")[0]


def _combination(run: Run) -> tuple[str, ...]:
    """Return method, backbone and dataset, which together identify a tuned file."""
    return tuple(run.tags[name] for name in ("method", "backbone", "dataset"))

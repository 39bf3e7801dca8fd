"""The tidy frame of the trials of sweeps: one row per metric and seed, read from MLflow.

The frame has the columns ``COLUMNS``. ``params`` is the JSON text of the trial's settings with sorted keys;
``state`` is "complete", "pruned" or "failed"; ``objective`` names the optimized metric, and
``objective_value`` is its mean over the trial's seeds (NaN if undefined).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pandas as pd

from harness.tracking.tracker import Run
from reports.runs.frame import of_one_version, trial_order
from reports.runs.study_runs import RunSource
from reports.stats.settings import GROUP

TRIAL = ("trial", "state", "reason", "params", "default", "objective", "objective_value", "synthetic")
COLUMNS = (*GROUP, *TRIAL, "seed", "split", "metric", "value", "run_id")


def load_trials(source: RunSource) -> pd.DataFrame:
    """Load one row per metric and seed of each trial that ended, sorted by group, trial and metric.

    A trial without metrics has one row with empty seed, split, metric, value and run id. Among trials of a
    sweep with equal params, the frame has the first complete one, else the first pruned one, else the first.
    All trials of a sweep have the same results version, see `harness.tracking.versions.chosen`.
    """
    cells = source.complete()
    sweeps: dict[str, list[Run]] = {}
    for run in source.trials():
        sweeps.setdefault(run.tags["sweep"], []).append(run)
    trials = [run for runs in sweeps.values() for run in of_one_version(runs)]
    rows = [row for run in _once(trials) for row in _rows(run, cells)]
    frame = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"seed": "Int64"})
    return frame.sort_values([*GROUP, "trial", "seed", "split", "metric"], ignore_index=True)


def _once(runs: Iterable[Run]) -> list[Run]:
    """Return one run per sweep, data set, backbone, method and params."""
    first: dict[tuple[str, ...], Run] = {}
    for run in sorted(runs, key=trial_order):
        first.setdefault((*(run.tags[name] for name in GROUP), _canonical(run.tags["params"])), run)
    return list(first.values())


def _canonical(params: str) -> str:
    return json.dumps(json.loads(params), sort_keys=True, ensure_ascii=False)


def _rows(run: Run, cells: Mapping[str, Run]) -> Iterator[dict[str, Any]]:
    tags = run.tags
    common: dict[str, Any] = {name: tags[name] for name in (*GROUP, "state", "objective")}
    common |= {name: tags.get(name) == "true" for name in ("default", "synthetic")}
    common |= {"trial": int(tags["trial"]), "reason": tags.get("reason", "")}
    common |= dict(params=_canonical(tags["params"]), objective_value=run.metrics.get("objective", math.nan))
    rows = [
        {
            **common,
            "seed": int(seed),
            "split": split,
            "metric": metric,
            "value": value,
            "run_id": cells[cell_id].run_id,
        }
        for seed, cell_id in json.loads(tags.get("cells", "{}")).items()
        if cell_id in cells
        for key, value in cells[cell_id].metrics.items()
        for split, _, metric in [key.partition("/")]
        for own in [{"split": split, "metric": metric, "value": value}]
        if split in ("valid", "test") or split.startswith("test_r")
    ]
    yield from rows or [{**common, "seed": pd.NA, "split": "", "metric": "", "value": math.nan, "run_id": ""}]

"""The one tidy frame that feeds every table and figure: a row per measured number, from MLflow alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from harness.errors import UserError, nearest
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

    Besides `COLUMNS` it has ``tuned``, whether the cell's settings are those of a tuned file, and
    ``tuned_backbone``, whether that file changes settings of the backbone.

    sweep: only the cells that were trained for this sweep alone; None: all but those of sweeps.

    Raises:
        UserError: no cell is tagged with this sweep.
    """
    runs = complete_cells(tracker, sweep).values()
    rows = [row for run in runs for row in _rows(tracker.study, run)]
    frame = pd.DataFrame(rows, columns=[*COLUMNS, "tuned", "tuned_backbone"])
    keys = [c for c in COLUMNS if c not in ("value", "run_id")]
    return frame.sort_values(keys, kind="stable", ignore_index=True)


def metric_kinds(tracker: Tracker, sweep: str | None = None) -> dict[str, str]:
    """The kind of metrics ("mosi", "mosei", "sims") of each dataset in the study, or in a sweep of it."""
    return {run.tags["dataset"]: run.tags["metrics"] for run in complete_cells(tracker, sweep).values()}


def complete_cells(tracker: Tracker, sweep: str | None = None) -> dict[str, Run]:
    """The complete runs of the study's matrix by cell_id, or those of a sweep of it, see `load_frame`."""
    runs = tracker.complete()
    found = {cell_id: run for cell_id, run in runs.items() if run.tags.get(SWEEP) == sweep}
    if sweep is not None and not found:
        names = sorted({run.tags[SWEEP] for run in runs.values() if SWEEP in run.tags})
        known = f"; sweeps with cells of their own: {', '.join(names)}" if names else ""
        raise UserError(
            f"Study {tracker.study!r} has no cells that were trained for a sweep {sweep!r} alone{known}."
            f"{nearest(sweep, names)}"
        )
    return found


def _rows(study: str, run: Run) -> Iterator[dict[str, Any]]:
    tags = run.tags
    common = {"study": study, "cell_id": tags["cell_id"], "run_id": run.run_id, "seed": int(tags["seed"])}
    common |= {
        name: tags[name] for name in ("dataset", "backbone", "method", "settings", "occlusion_protocol")
    }
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

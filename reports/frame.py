"""The one tidy frame that feeds every table and figure: a row per measured number, from MLflow alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from harness.tracking import Run, Tracker
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


def load_frame(tracker: Tracker) -> pd.DataFrame:
    """One row per number of each complete cell (the earliest run of each), in an order of their names."""
    runs = tracker.complete().values()
    frame = pd.DataFrame([row for run in runs for row in _rows(tracker.study, run)], columns=list(COLUMNS))
    keys = [c for c in COLUMNS if c not in ("value", "run_id")]
    return frame.sort_values(keys, kind="stable", ignore_index=True)


def metric_kinds(tracker: Tracker) -> dict[str, str]:
    """The kind of metrics ("mosi", "mosei", "sims") of each dataset in the study."""
    return {run.tags["dataset"]: run.tags["metrics"] for run in tracker.complete().values()}


def _rows(study: str, run: Run) -> Iterator[dict[str, Any]]:
    tags = run.tags
    common = {"study": study, "cell_id": tags["cell_id"], "run_id": run.run_id, "seed": int(tags["seed"])}
    common |= {
        name: tags[name] for name in ("dataset", "backbone", "method", "settings", "occlusion_protocol")
    }
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

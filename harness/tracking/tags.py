"""What a run says of a cell or a trial: its tags, parameters and numbers, as plain values."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from harness.code import BACKBONE_CODE, METHOD_CODE
from harness.config.tuned import tuned_label
from harness.matrix import Cell, readable_settings
from harness.train.result import Result

MAX_TAG, MAX_PARAM = 4000, 6000
LABEL, SWEEP, NOTE = "label", "sweep", "mlflow.note.content"
KEPT_TAGS = ("git_commit", "git_dirty", "versions", METHOD_CODE, BACKBONE_CODE)
"""What a run tells of a result where it is used again."""
SHARED_VIEW = "mlflow.sharedViewState."
"""Where the MLflow UI keeps the views that it shares."""
VIEW = "cells"
"""The view of a study that the MLflow UI opens from a link, see `view_state`."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """One setting tried in a sweep, on all its seeds.

    sweep: its name. search: name of the Optuna study. number: of the trial in it. base: the first seed's cell
    without the sweep. values: the parameters. default: whether they are what ``base`` has. state: "complete"
    | "pruned" | "failed", with the reason. objective: "valid/loss"; value: its mean over the seeds, or None.
    cells: seed -> cell_id. metrics: means over the seeds, "test/mae" and so on. started: epoch s. owner: the
    driver, as in the ledger.
    """

    sweep: str
    search: str
    number: int
    base: Cell
    values: Mapping[str, Any]
    default: bool
    state: str
    objective: str
    value: float | None
    cells: Mapping[int, str]
    metrics: Mapping[str, float]
    started: float
    synthetic: bool = False
    reason: str = ""
    owner: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What a trial is found by: its search and its number there, as text."""
        return self.search, str(self.number)

    @property
    def tags(self) -> dict[str, str]:
        """Tags of its run; readers rely on them (`reports.trials`)."""
        base = self.base
        return {
            "kind": "trial",
            "sweep": self.sweep,
            "search": self.search,
            "trial": str(self.number),
            "dataset": base.dataset,
            "metrics": base.metrics,
            "backbone": base.backbone_label,
            "method": base.method,
            "state": self.state,
            "objective": self.objective,
            "params": json.dumps(dict(self.values), sort_keys=True),
            "default": json.dumps(self.default),
            "cells": json.dumps({str(seed): cell_id for seed, cell_id in self.cells.items()}),
            "synthetic": json.dumps(self.synthetic),
            "owner": self.owner,
            "fingerprint": base.fingerprint,
            "results_version": str(base.results_version),
            **({"reason": storable(self.reason)} if self.reason else {}),
        }

    @property
    def run_name(self) -> str:
        """A name that a person can read, e.g. ``synthetic_mosi/misa/ms_mix{delta:0.4}``."""
        base = self.base
        return f"{base.dataset}/{base.backbone_label}/{base.method}{readable_settings(self.values)}"


def cell_tags(cell: Cell) -> dict[str, str]:
    """Tags by which runs are found, grouped and sorted."""
    return {
        "kind": "cell",
        "cell_id": cell.cell_id,
        "dataset": cell.dataset,
        "metrics": cell.metrics,
        "backbone": cell.backbone_label,
        "method": cell.method,
        "variant": cell.method_label,
        LABEL: cell.method_label,
        "settings": json.dumps(cell.variant, sort_keys=True),
        "seed": str(cell.seed),
        "occlusion_protocol": cell.protocol,
        "train_ratio": repr(cell.train_ratio),
        "configuration": cell.configuration,
        "fingerprint": cell.fingerprint,
        "precision": cell.precision,
        "compile": json.dumps(cell.compile),
        "results_version": str(cell.results_version),
    }


def label_of(tags: Mapping[str, str]) -> str:
    """A cell's method as tables name it; runs of earlier versions have no tag for it."""
    return tags.get(LABEL) or (tuned_label(tags["method"]) if "tuned" in tags else tags["variant"])


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def result_tags(result: Result) -> dict[str, str]:
    """How a cell ended, and where."""
    tags = {
        "outcome": result.status,
        "undefined": json.dumps(dict(result.undefined))[:MAX_TAG],
        **result.environment,
        # It counts once the run is finished, which is the writer's last word on it.
        **({"complete": "true"} if result.status == "complete" else {}),
        **({"samples": "true"} if result.samples else {}),
    }
    return tags | ({"reason": storable(result.reason)} if result.reason else {})


def storable(text: str) -> str:
    """A text cut to a tag's length and without what databases refuse: NUL and halves of surrogate pairs."""
    whole = text[:MAX_TAG].replace("\0", "\N{REPLACEMENT CHARACTER}")
    return whole.encode("utf-8", "replace").decode("utf-8")


def numbers(result: Result) -> dict[str, float]:
    """Every number of a result but the curves, by the names that runs use: ``test/mae``, ``cell/train_s``."""
    flat = {f"{key}/{name}": v for key, scores in result.scores.items() for name, v in scores.items()}
    return flat | {f"cell/{name}": v for name, v in result.cell.items()}


def curve_points(result: Result) -> Iterator[tuple[str, int, float]]:
    """Name, epoch from 1 and value of every point of the curves that is defined."""
    for name, values in result.curves.items():
        for step, value in enumerate(values, 1):
            if not math.isnan(value):
                yield f"epoch/{name}", step, value


def view_state() -> str:
    """How the MLflow UI is to list a study's cells: filter, order and columns, as it stores a shared view."""
    tags = ("dataset", "backbone", "variant", "seed", "occlusion_protocol", "train_ratio")
    metrics = ("test/mae", "test/corr", "valid/loss", "cell/epoch_s")
    columns = [f"tags.`{name}`" for name in tags] + [f"metrics.`{name}`" for name in metrics]
    state = {
        "searchFilter": "tags.kind = 'cell'",
        "orderByKey": "metrics.`test/mae`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": columns,
    }
    return json.dumps(state)


def parameters(tree: Mapping[str, Any]) -> dict[str, str]:
    """Settings as a run's parameters: flat, and no longer than stores take."""
    return {name: str(value)[:MAX_PARAM] for name, value in flatten(tree).items()}

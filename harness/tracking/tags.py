"""The tags, parameters and metrics of runs of cells and trials, as plain values."""

from __future__ import annotations

import ast
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from harness.code import BACKBONE_CODE, METHOD_CODE
from harness.config.tuned import tuned_label
from harness.matrix import Cell, ratio_text, readable_settings
from harness.train.result import Result

MAX_TAG, MAX_PARAM = 4000, 6000
LABEL, SWEEP, NOTE = "label", "sweep", "mlflow.note.content"
KEPT_TAGS = ("git_commit", "git_dirty", "versions", METHOD_CODE, BACKBONE_CODE)
"""Provenance tags that are copied when a result is reused."""
SHARED_VIEW = "mlflow.sharedViewState."
"""The prefix of tags in which the MLflow UI stores shared views."""
VIEW = "cells"
"""The name of a study's shared view in the MLflow UI, see `view_state`."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """One trial of a sweep: a setting and its results on all seeds.

    sweep: name of the sweep. search: name of the Optuna study. number: of the trial in that study. base: the
    first seed's cell without the sweep's parameters. values: the parameters. default: whether they equal
    those of ``base``. state: "complete" | "pruned" | "failed", with the reason. objective: "valid/loss";
    value: its mean over the seeds, or None. cells: seed -> cell_id. metrics: means over the seeds, "test/mae"
    and so on. started: seconds since the epoch. owner: the driver's id in the ledger.
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
        """The identity of the trial: its search and its number there, as text."""
        return self.search, str(self.number)

    @property
    def tags(self) -> dict[str, str]:
        """Tags of the trial's run; `reports.runs.trials` reads them."""
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
        """Readable name, e.g. ``synthetic_mosi/misa/ms_mix{delta:0.4}``."""
        base = self.base
        return f"{base.dataset}/{base.backbone_label}/{base.method}{readable_settings(self.values)}"


def cell_tags(cell: Cell) -> dict[str, str]:
    """Return the tags by which runs are filtered, grouped and sorted."""
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


def description(cell: Cell, study: str) -> str:
    """Return a sentence on a cell's run, for its page in the MLflow UI."""
    occluded = f", trained at occlusion ratio {ratio_text(cell.train_ratio)}" if cell.train_ratio else ""
    what = (
        f"`{cell.method_label}` with `{cell.backbone_label}` on `{cell.dataset}`, seed {cell.seed}{occluded}"
    )
    where = f"`index.html`, among the artifacts of the run `study {study}`"
    return f"{what}: one training of study `{study}`. Its row in the report is in {where}."


def label_of(tags: Mapping[str, str]) -> str:
    """Return the name of a cell's method in tables; runs of earlier versions lack the tag ``label``."""
    return tags.get(LABEL) or (tuned_label(tags["method"]) if "tuned" in tags else tags["variant"])


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested dicts into one, with keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def result_tags(result: Result) -> dict[str, str]:
    """Return the tags for a cell's outcome and environment."""
    tags = {
        "outcome": result.status,
        "undefined": json.dumps(dict(result.undefined))[:MAX_TAG],
        **result.environment,
        # This tag counts only once the run is FINISHED, which the writer sets last.
        **({"complete": "true"} if result.status == "complete" else {}),
        **({"samples": "true"} if result.samples else {}),
        **({"weights": "true"} if result.weights is not None else {}),
    }
    return tags | ({"reason": storable(result.reason)} if result.reason else {})


def storable(text: str) -> str:
    """Cut a text to a tag's length, and replace what databases reject: NUL and lone surrogates."""
    whole = text[:MAX_TAG].replace("\0", "\N{REPLACEMENT CHARACTER}")
    return whole.encode("utf-8", "replace").decode("utf-8")


def numbers(result: Result) -> dict[str, float]:
    """Return all metrics of a result except the curves, by name: ``test/mae``, ``cell/train_s``."""
    flat = {f"{key}/{name}": v for key, scores in result.scores.items() for name, v in scores.items()}
    return flat | {f"cell/{name}": v for name, v in result.cell.items()}


def curve_points(result: Result) -> Iterator[tuple[str, int, float]]:
    """Yield the name, epoch (from 1) and value of every defined point of the curves."""
    for name, values in result.curves.items():
        for step, value in enumerate(values, 1):
            if not math.isnan(value):
                yield f"epoch/{name}", step, value


def view_state() -> str:
    """Return the shared view of a study's cells in the MLflow UI: filter, order and columns, as JSON."""
    tags = ("dataset", "backbone", "variant", "seed", "occlusion_protocol", "train_ratio")
    metrics = ("test/mae", "test/corr", "valid/loss", "cell/epoch_s")
    # The UI shows attributes before metrics, and tags after them.
    columns = ["attributes.`Dataset`", *(f"tags.`{name}`" for name in tags)]
    columns += [f"metrics.`{name}`" for name in metrics]
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
    """Return settings as a run's parameters: flat, and cut to the length that stores accept."""
    return {name: str(value)[:MAX_PARAM] for name, value in flatten(tree).items()}


def settings_tree(stored: Mapping[str, str]) -> dict[str, Any]:
    """Invert `parameters`: nested settings, with numbers, booleans and null instead of their texts."""
    tree: dict[str, Any] = {}
    for name, text in stored.items():
        *groups, last = name.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = _value_of(text)
    return tree


def _value_of(text: str) -> Any:
    """Return the value whose text a parameter holds; other texts stay texts."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    # A hash such as 12e4 must not become a number.
    return value if str(value) == text else text

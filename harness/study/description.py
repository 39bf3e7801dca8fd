"""The description of a study in MLflow: the request, and statistics of its datasets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backbones import BACKBONES
from backbones.batch import MODALITIES
from harness.code import code_hash, sources
from harness.data.dataset import Dataset, Split
from harness.data.prepare import CachedDataset
from harness.data.store import load_dataset
from harness.databases import redact
from harness.matrix import Cell
from harness.plan import Plan
from harness.plugins import facts
from methods import METHODS

DATASETS_FILE, MATRIX_FILE, CODE_FILE, STUDY_FILE = "datasets.json", "matrix.json", "code.json", "study.yaml"
MATRIX_COLUMNS = ("cell_id", "cell", "dataset", "backbone", "method", "seed", "train_ratio")
MOST_NAMES = 50  # of each kind: stores limit a description to 8,000 characters or more


def describe(plan: Plan) -> str:
    """Return one paragraph that summarises the request, for the study's page."""

    def names(values: Iterable[str]) -> str:
        unique = list(dict.fromkeys(values))
        rest = len(unique) - MOST_NAMES
        return ", ".join(unique[:MOST_NAMES]) + (f" and {rest} more" if rest > 0 else "")

    cells = plan.cells
    stand_in = any(data.synthetic for data in plan.datasets.values())
    synthetic = " on synthetic stand-in data" if stand_in else ""
    return (
        f"Mixup in multimodal sentiment analysis{synthetic}: {len(cells)} cells. "
        f"Datasets: {names(c.dataset for c in cells)}. Backbones: {names(c.backbone_label for c in cells)}. "
        f"Methods: {names(plan.method_label(c) for c in cells)}. Seeds: {names(str(c.seed) for c in cells)}. "
        f"Tests at occlusion ratios {names(str(r) for c in cells for r in c.ratios)}."
        + (f" Tuned settings: {len(plan.tags)} cells." if plan.tags else "")
    )


@dataclass(frozen=True)
class Announcement:
    """What a study's run of kind "study" stores of a plan.

    datasets: name -> see `describe_dataset`. code: see `code_of`. arguments: of the command, if the plan's
    cells are the study's matrix. rows: of ``MATRIX_COLUMNS``, one per cell. description: a paragraph.
    study_file: the resolved settings, see `harness.config.study_file`.
    """

    datasets: Mapping[str, Any]
    code: Mapping[str, Any]
    arguments: Sequence[str] | None = None
    rows: Sequence[Sequence[Any]] = ()
    description: str | None = None
    study_file: str | None = None

    def files(self, known: Callable[[str], str | None]) -> dict[str, str]:
        """Return file name -> text. known: returns the stored text of a file, with which this is merged."""
        files = {
            DATASETS_FILE: datasets_text(self.datasets, known(DATASETS_FILE)),
            CODE_FILE: code_text(self.code, known(CODE_FILE)),
        }
        if self.arguments is not None:
            files[MATRIX_FILE] = matrix_text(self.rows, self.arguments, known(MATRIX_FILE))
        return files | ({STUDY_FILE: self.study_file} if self.study_file is not None else {})


def announcement(plan: Plan, arguments: Sequence[str] | None, study_file: str | None = None) -> Announcement:
    """Describe a plan. arguments, study_file: of the command, if the plan's cells are the study's matrix."""
    datasets = {name: describe_dataset(data) for name, data in plan.datasets.items()}
    if arguments is None:
        return Announcement(datasets, code_of(plan))
    # Only addresses are redacted: a path may contain an @.
    shown = [redact(argument) if "://" in argument else argument for argument in arguments]
    rows = [_request_row(plan, cell) for cell in plan.cells]
    return Announcement(datasets, code_of(plan), shown, rows, describe(plan), study_file)


def matrix_text(rows: Sequence[Sequence[Any]], arguments: Sequence[str], known: str | None = None) -> str:
    """Return a request as JSON: command ``arguments``, ``columns``, ``cells`` (rows) and ``earlier`` (rows).

    known: this text of earlier requests. ``earlier``: their cells, if this request has none of the same
    data set, backbone, method and training ratio.
    """
    cells = [dict(zip(MATRIX_COLUMNS, row, strict=True)) for row in rows]
    before = json.loads(known or "{}")
    named = {combination(row) for row in cells}
    stored = [*request_rows(before, "earlier"), *request_rows(before, "cells")]
    earlier = [row for row in stored if combination(row) not in named]
    matrix = {
        "arguments": list(arguments),
        "columns": MATRIX_COLUMNS,
        "cells": [list(row) for row in rows],
        "earlier": [list(row.values()) for row in earlier],
    }
    return json.dumps(matrix, ensure_ascii=False)


def _request_row(plan: Plan, cell: Cell) -> tuple[Any, ...]:
    names = cell.dataset, cell.backbone_label, plan.method_label(cell)
    return cell.cell_id, cell.run_name, *names, cell.seed, cell.train_ratio


def request_rows(matrix: Mapping[str, Any], part: str) -> list[dict[str, Any]]:
    """Return the rows of a part of `matrix_text`, "cells" or "earlier", by column."""
    rows = [dict(zip(matrix["columns"], values, strict=True)) for values in matrix.get(part, ())]
    for row in rows:
        # Earlier versions stored no ratio; the name of such a cell ends with it.
        row.setdefault("train_ratio", float(row["cell"].partition("/train_r")[2] or 0))
    return rows


def combination(row: Mapping[str, Any]) -> tuple[str, str, str, float]:
    """Return data set, backbone, method and training ratio of a row of `request_rows`."""
    return row["dataset"], row["backbone"], row["method"], float(row["train_ratio"])


def code_of(plan: Plan) -> dict[str, dict[str, Any]]:
    """Return the code of the plan's methods and backbones.

    ``code``: hash of the code -> its ``name`` and ``modules``, each with the hash of its text. ``texts``: the
    hash of a text -> the text. ``plugins``: name -> `harness.plugins.facts` and hash, if there are any.
    """
    found: dict[str, dict[str, Any]] = {"code": {}, "texts": {}}
    classes = {
        **{c.method: METHODS[c.method] for c in plan.cells},
        **{c.backbone: BACKBONES[c.backbone] for c in plan.cells},
    }
    for name, cls in classes.items():
        texts = sources(cls)
        hashes = {module: hashlib.sha256(text.encode()).hexdigest()[:16] for module, text in texts.items()}
        found["code"][code_hash(cls)] = {"name": name, "modules": hashes}
        if own := facts(cls):
            found.setdefault("plugins", {})[name] = {**own, "hash": code_hash(cls)}
        found["texts"] |= {hashes[module]: text for module, text in texts.items()}
    return found


def code_text(code: Mapping[str, Any], known: str | None) -> str:
    """Merge code (see `code_of`) into the stored JSON ``known``, and return JSON."""
    stored = json.loads(known or '{"code": {}, "texts": {}}')
    parts = {**stored, **code}
    merged = {part: {**stored.get(part, {}), **code.get(part, {})} for part in parts}
    return json.dumps(merged, sort_keys=True, indent=1, ensure_ascii=False)


def datasets_text(datasets: Mapping[str, Any], known: str | None) -> str:
    """Return datasets, merged into the stored JSON ``known``, as a JSON list sorted by name."""
    entries = {entry["name"]: entry for entry in json.loads(known or "[]")} | dict(datasets)
    return json.dumps([entries[name] for name in sorted(entries)], indent=1, ensure_ascii=False)


def twins(fingerprints: Mapping[str, str]) -> dict[str, str]:
    """Return data set -> the earlier data set that holds the same data; distinct ones are absent.

    fingerprints: data set -> fingerprint of its file or generator.
    """
    first: dict[str, str] = {}
    return {
        name: original
        for name, fingerprint in fingerprints.items()
        if (original := first.setdefault(fingerprint, name)) != name
    }


def twins_sentence(name: str, original: str) -> str:
    """Return the message about a data set that holds the same data as another one."""
    return f"{name} and {original} are the same data: their results are no independent evidence."


def describe_dataset(data: CachedDataset) -> dict[str, Any]:
    """Return a dataset's source, feature widths D_m, padded lengths T_m, and statistics of each split.

    Per split: numbers of clips and videos (None if the ids do not name videos), mean and standard deviation
    of the labels, shares of labels below, at and above neutral, median and 95% quantile of the lengths.
    ``test_lengths``: id of each test clip -> steps of its text, by which reports sort clips. ``absent``:
    the modalities that the data set lacks; there only if it lacks one.
    """
    dataset = load_dataset(data.folder)
    test = dataset.splits["test"]
    facts = {k: v for k, v in vars(data).items() if k != "folder"}
    splits = {name: _describe_split(s, data.label_center) for name, s in dataset.splits.items()}
    sizes = {"widths": dataset.widths(), "steps": dataset.steps()}
    absent = absent_modalities(dataset)
    lengths = dict(zip(test.ids.tolist(), test.lengths["text"].tolist(), strict=True))
    facts |= {**sizes, **({"absent": absent} if absent else {})}
    return {**facts, "splits": splits, "test_lengths": lengths}


def absent_modalities(dataset: Dataset) -> list[str]:
    """Return the modalities that are all zeros; text is not absent where there are token ids."""
    splits = dataset.splits.values()
    return [
        m
        for m in MODALITIES
        if not any(split.features[m].any() for split in splits)
        and not (m == "text" and all(split.tokens is not None for split in splits))
    ]


def _describe_split(split: Split, center: float) -> dict[str, Any]:
    labels = split.labels.astype(float)
    lengths = {m: np.quantile(split.lengths[m], (0.5, 0.95)).tolist() for m in MODALITIES}
    return {
        "clips": len(split),
        "videos": split.videos(),
        "label_mean": float(labels.mean()),
        "label_std": float(labels.std()),
        "negative": float((labels < center).mean()),
        "neutral": float((labels == center).mean()),
        "positive": float((labels > center).mean()),
        "lengths": {m: {"median": low, "p95": high} for m, (low, high) in lengths.items()},
    }

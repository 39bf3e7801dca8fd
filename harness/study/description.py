"""The description of a study in MLflow: the request, and statistics of its datasets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from backbones import BACKBONES
from backbones.batch import MODALITIES
from harness.code import code_hash, sources
from harness.data.dataset import Split
from harness.data.prepare import CachedDataset
from harness.data.store import load_dataset
from harness.plan import Plan
from methods import METHODS

DATASETS_FILE, MATRIX_FILE, CODE_FILE = "datasets.json", "matrix.json", "code.json"
MATRIX_COLUMNS = ("cell_id", "cell", "dataset", "backbone", "method", "seed")
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


def matrix_text(plan: Plan, arguments: Sequence[str]) -> str:
    """Return the request as JSON: the command's ``arguments``, ``columns``, and ``cells`` (rows of these)."""
    rows = [
        (c.cell_id, c.run_name, c.dataset, c.backbone_label, plan.method_label(c), c.seed) for c in plan.cells
    ]
    matrix = {"arguments": list(arguments), "columns": MATRIX_COLUMNS, "cells": rows}
    return json.dumps(matrix, ensure_ascii=False)


def code_text(plan: Plan, known: str | None) -> str:
    """The code of the plan's methods and backbones and that stored before (``known``), as JSON.

    ``code``: hash of the code -> its ``name`` and ``modules``, each with the hash of its text. ``texts``: the
    hash of a text -> the text.
    """
    stored = json.loads(known or '{"code": {}, "texts": {}}')
    classes = {
        **{c.method: METHODS[c.method] for c in plan.cells},
        **{c.backbone: BACKBONES[c.backbone] for c in plan.cells},
    }
    for name, cls in classes.items():
        texts = sources(cls)
        hashes = {module: hashlib.sha256(text.encode()).hexdigest()[:16] for module, text in texts.items()}
        stored["code"][code_hash(cls)] = {"name": name, "modules": hashes}
        stored["texts"] |= {hashes[module]: text for module, text in texts.items()}
    return json.dumps(stored, sort_keys=True, indent=1, ensure_ascii=False)


def datasets_text(plan: Plan, known: str | None) -> str:
    """Return the plan's datasets, merged into the stored JSON ``known``, as a JSON list sorted by name."""
    entries = {entry["name"]: entry for entry in json.loads(known or "[]")}
    entries |= {name: describe_dataset(data) for name, data in plan.datasets.items()}
    return json.dumps([entries[name] for name in sorted(entries)], indent=1, ensure_ascii=False)


def twins(fingerprints: Mapping[str, str]) -> dict[str, str]:
    """Return the data sets that hold the same data as an earlier one -> that one.

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
    of the labels, shares of negative, neutral and positive labels, median and 95% quantile of the lengths.
    """
    dataset = load_dataset(data.folder)
    facts = {k: v for k, v in vars(data).items() if k != "folder"}
    splits = {name: _describe_split(split) for name, split in dataset.splits.items()}
    return {**facts, "widths": dataset.widths(), "steps": dataset.steps(), "splits": splits}


def _describe_split(split: Split) -> dict[str, Any]:
    labels = split.labels.astype(float)
    lengths = {m: np.quantile(split.lengths[m], (0.5, 0.95)).tolist() for m in MODALITIES}
    return {
        "clips": len(split),
        "videos": split.videos(),
        "label_mean": float(labels.mean()),
        "label_std": float(labels.std()),
        "negative": float((labels < 0).mean()),
        "neutral": float((labels == 0).mean()),
        "positive": float((labels > 0).mean()),
        "lengths": {m: {"median": low, "p95": high} for m, (low, high) in lengths.items()},
    }

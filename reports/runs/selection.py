"""Which complete cells of a study its outputs show: one configuration per combination, as last requested."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from harness.study.description import combination, request_rows
from harness.tracking.tags import label_of
from harness.tracking.tracker import Run

Combination = tuple[str, str, str, float]
"""Data set, backbone, method as in tables, and occlusion ratio of the training split."""
Requests = Mapping[Combination, Collection[str]]
"""The cell ids that the latest request of each combination asked for."""


def requests_of(matrix: Mapping[str, Any]) -> dict[Combination, set[str]]:
    """Return the requests in a matrix file, see `harness.study.description.matrix_text`."""
    requests: dict[Combination, set[str]] = {}
    for row in (*request_rows(matrix, "earlier"), *request_rows(matrix, "cells")):
        requests.setdefault(combination(row), set()).add(row["cell_id"])
    return requests


def left_out(cells: Mapping[str, Run], requests: Requests) -> set[str]:
    """Return ids of cells that other cells of the same combination replace.

    The latest request of a combination decides its configuration and seeds. Without a request that has any
    complete cell, the latest start decides the configuration, and the latest cell of each seed counts.

    cells: the earliest first.
    """
    rows: dict[tuple[str, ...], dict[str, list[Run]]] = {}
    shown: set[str] = set()
    for cell_id, run in cells.items():
        tags = run.tags
        asked = requests.get((tags["dataset"], tags["backbone"], label_of(tags), float(tags["train_ratio"])))
        if asked is not None and not cells.keys().isdisjoint(asked):
            shown |= {cell_id} & set(asked)
            continue
        row = (tags["dataset"], tags["backbone"], tags["variant"], tags.get("tuned", ""))
        configurations = rows.setdefault(row, {})
        key = tags.get("configuration", "")
        configurations[key] = [*configurations.pop(key, []), run]
    for configurations in rows.values():
        last = list(configurations.values())[-1]
        shown |= set({(r.tags["seed"], r.tags["train_ratio"]): r.tags["cell_id"] for r in last}.values())
    return set(cells) - shown


def left_out_sentence(count: int) -> str:
    """Return the message about cells that are left out; empty for none."""
    if not count:
        return ""
    cells = "1 cell is" if count == 1 else f"{count} cells are"
    return (
        f"{cells} left out: the latest request of the same data set, backbone and method has other settings, "
        "ratios or seeds."
    )

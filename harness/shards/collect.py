"""Logging of the results of shards: each cell once, by the driver that logs all others."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.files import safe_name
from harness.launchers.base import Job, Outcome
from harness.matrix import Cell
from harness.shards.part import shard_folder
from harness.shards.stored import ShardResults, Stored, requests_in, results_in
from harness.study.description import MATRIX_FILE, request_rows
from harness.study.display import LiveDisplay
from harness.study.driver import Driver, StudyOutcome
from harness.study.queue import Matrix
from harness.study.session import announce, open_ledger
from harness.study.writer import Writer
from harness.tracking.tracker import Tracker


@dataclass
class Found:
    """What shards left in some folders.

    results: cell_id -> result. announcements: of requests, the latest last. refused: sentences on files that
    cannot be read.
    """

    results: dict[str, Stored] = field(default_factory=dict)
    announcements: list[Any] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def find(folders: Sequence[Path]) -> Found:
    """Read what shards left in these folders; the first intact result of a cell counts."""
    found = Found()
    for folder in folders:
        requests = requests_in(folder, found.refused.append)
        found.announcements += requests
        asked = {row[0] for said in requests for row in said.rows}
        for stored in results_in(folder, found.refused.append):
            if stored.cell.cell_id in asked:
                found.results.setdefault(stored.cell.cell_id, stored)
            else:
                found.refused.append(
                    f"No request in {str(folder)!r} asks for {stored.folder.name}; it was left out."
                )
    return found


def folders_of(var_dir: Path, study: str, given: Sequence[Path]) -> list[Path]:
    """Return the folders with results of shards: of this study, or those given.

    given: folders of results, or copies of a ``var_dir`` in which shards ran.

    Raises:
        UserError: a folder does not exist.
    """
    own = shard_folder(var_dir, study)
    places = [(folder, shard_folder(folder, study)) for folder in given] or [(own, own)]
    for folder, _ in places:
        if not folder.is_dir():
            raise UserError(
                f"There are no results of shards in {str(folder)!r}; give the folder to which they were "
                f"written (var_dir/shards/{safe_name(study)}), as in from=DIR."
            )
    return [inner if inner.is_dir() else folder for folder, inner in places]


def collect(config: Any, tracker: Tracker, found: Found, display: LiveDisplay) -> StudyOutcome:
    """Log the found results that the study lacks; return what the driver made of their cells.

    config: has ``ledger`` and ``tracking``.
    """
    unlogged = ShardResults(tracker.folder("spool"), found.results)

    def labels(cell: Cell) -> Mapping[str, str]:
        return found.results[cell.cell_id].labels

    with open_ledger(config, tracker, display, unlogged) as ledger:
        for said in found.announcements:
            announce(tracker, said)
        cells = [stored.cell for stored in found.results.values()]
        writer = Writer(tracker, ledger, unlogged, {}, labels=labels)
        return Driver(Matrix(cells), writer, _Nothing(), display, _no_job).run()


def missing(tracker: Tracker) -> str:
    """Return a sentence on the cells of the last request that have no result; empty if all have one."""
    matrix = json.loads(tracker.study_file(MATRIX_FILE) or "{}")
    asked = {row["cell_id"] for row in request_rows(matrix, "cells")} if matrix else set()
    left = len(asked - tracker.complete().keys())
    if not left:
        return ""
    command = f"python -m harness.benchmark {shlex.join(matrix['arguments'])}"
    return (
        f"{left} of the {len(asked)} cells of its last request have no result yet: collect again when the "
        f"shards end, or train the rest with `{command}`."
    )


def _no_job(cell: Cell) -> Job:
    """Raise a UserError: the driver found no result, although there was one."""
    raise UserError(
        f"The result of cell {cell.cell_id} changed while it was read; run the same command again."
    )


class _Nothing:
    """A launcher that trains nothing: all results are there."""

    slots = 1

    def start_worker(self) -> None:
        """Do nothing."""

    def submit(self, job: Job) -> None:
        """Do nothing: `_no_job` makes none."""

    def wait(self, timeout_s: float) -> list[Outcome]:
        """Return nothing."""
        return []

    def close(self) -> None:
        """Do nothing."""

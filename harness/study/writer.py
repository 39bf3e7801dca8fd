"""The one writer of a driver: every result goes through it into MLflow, with the claim checked last."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sqlalchemy.exc import DBAPIError

from harness.databases import is_damage, remedy
from harness.errors import StoreError
from harness.files import remove_files_of
from harness.interrupts import interrupts_held
from harness.ledger import Ledger
from harness.matrix import Cell
from harness.study.unlogged import Entry, Spool
from harness.tracking.tracker import KEPT_TAGS, SWEEP, Run, Tracker
from harness.train.result import Result

T = TypeVar("T")
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 30.0


@dataclass
class Writer:
    """Logs results and failures, and waits for stores that do not answer.

    tags: provenance, logged with every run. patience_s: how long a store may stay silent before `StoreError`
    is raised; what was trained is in the spool by then. trouble: told of each wait (reason, seconds).
    checkpoints: the folder of those of the cells, which go when a cell is done. labels: tags of a cell that
    say what part it has in the study ("sweep", "tuned").
    """

    tracker: Tracker
    ledger: Ledger
    spool: Spool
    tags: Mapping[str, str]
    patience_s: float
    trouble: Callable[[str, float], None]
    checkpoints: Path | None = None
    labels: Callable[[Cell], Mapping[str, str]] = lambda cell: {}

    def __post_init__(self) -> None:
        self._unkept: dict[str, Entry] = {}

    def patiently(self, action: Callable[[], T]) -> T:
        """Call an action that is safe to repeat until its store answers.

        Raises:
            StoreError: it stayed silent for ``patience_s``, or its file is damaged, which no waiting mends.
        """
        given_up_at, wait_s = time.monotonic() + self.patience_s, FIRST_WAIT_S
        while True:
            try:
                with interrupts_held():
                    return action()
            except (StoreError, DBAPIError) as error:
                reason = self._sentence(error)
                if is_damage(reason) or time.monotonic() + wait_s > given_up_at:
                    raise StoreError(reason) from error
                self.trouble(reason, wait_s)
                time.sleep(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def keep(self, cell: Cell, result: Result, started: float) -> Entry:
        """Spool what was just trained, before anything else happens to it."""
        entry = Entry(result, self.tags, started)
        self._put(cell.cell_id, entry)
        return entry

    def find(self, cell: Cell, elsewhere: Mapping[str, Run]) -> Entry | None:
        """The result of a claimed cell that needs no training: from the spool or from another study."""
        entry = self.spool.get(cell.cell_id)
        if entry is not None or cell.cell_id not in elsewhere:
            return entry
        run = elsewhere[cell.cell_id]
        kept = {name: run.tags[name] for name in KEPT_TAGS if name in run.tags}
        try:
            with interrupts_held():
                result = self.tracker.load(run)
        except StoreError:
            # Its files are gone or damaged, which shows as a store that is away does: it is trained here.
            return None
        return Entry(result, {**self.tags, **kept, "reused_from": run.run_id}, time.time())

    def write(self, cell: Cell, entry: Entry) -> bool:
        """Log a result; False if the claim fell while this driver stood still: somebody else does the cell.

        The entry then stays in the spool, for the case that the other one fails.
        """
        cell_id = cell.cell_id
        tags = {**entry.tags, **self.labels(cell)}
        run_id = self.patiently(lambda: self.tracker.log(cell, entry.result, tags, entry.started))
        done = False
        if self.patiently(lambda: self.ledger.holds(cell_id)):
            self.patiently(lambda: self.tracker.finish(run_id, entry.result))
            done = self.patiently(lambda: self.ledger.finish(cell_id))
        if done:
            self.spool.drop(cell_id)
            self._discard({cell_id})
        else:
            self.patiently(lambda: self.tracker.abandon(run_id))
        self._unkept.pop(cell_id, None)
        return done

    def fail(self, cell: Cell, reason: str, started: float) -> None:
        """Log a cell that yielded nothing, and give it back."""
        tags = {**self.tags, **self.labels(cell)}
        self.patiently(lambda: self.tracker.log_failure(cell, reason, tags, started))
        self.patiently(lambda: self.ledger.release(cell.cell_id))

    def adopt(self, cell: Cell, run: Run) -> None:
        """Let a complete run of a cell, which a sweep may have trained, be part of the study's matrix."""
        labels = self.labels(cell)
        # A sweep changes nothing in the runs that it finds.
        if SWEEP not in labels and (SWEEP in run.tags or labels.items() - run.tags.items()):
            self.patiently(lambda: self.tracker.adopt(run, labels))

    def tidy(self, done: Container[str]) -> None:
        """Remove what killed drivers left of cells that are done."""
        self.spool.tidy(done)
        self._discard(done)

    def _discard(self, cell_ids: Container[str]) -> None:
        if self.checkpoints is not None:
            remove_files_of(cell_ids, self.checkpoints)

    def _put(self, cell_id: str, entry: Entry) -> OSError | None:
        try:
            self.spool.put(cell_id, entry)
        except OSError as error:
            # There may still be room in the store, which can lie elsewhere.
            self._unkept[cell_id] = entry
            return error
        self._unkept.pop(cell_id, None)
        return None

    def _sentence(self, error: Exception) -> str:
        """What failed, what to do about it, and how it stands with the results that are not logged yet."""
        reason = self.ledger.failure(error) if isinstance(error, DBAPIError) else str(error)
        return f"{reason}{remedy(reason)}; {self._kept()}"

    def _kept(self) -> str:
        """Spool once more what could not be spooled; says how much still is not."""
        errors = [self._put(cell_id, entry) for cell_id, entry in list(self._unkept.items())]
        failed = [error for error in errors if error is not None]
        if not failed:
            return "what was trained is kept"
        reason = failed[0].strerror or failed[0]
        cells = f"{len(failed)} trained {'cell is' if len(failed) == 1 else 'cells are'}"
        return f"{cells} in memory only, because {self.spool.folder} takes no file: {reason}"

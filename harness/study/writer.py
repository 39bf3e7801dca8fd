"""The writer of a driver: it alone logs results to MLflow, and checks the claim before it completes a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from harness.claims.ledger import Ledger
from harness.errors import StoreError
from harness.files import remove_files_of
from harness.interrupts import interrupts_held
from harness.matrix import Cell
from harness.study.unlogged import UnloggedResults
from harness.tracking.tags import KEPT_TAGS, SWEEP
from harness.tracking.tracker import Run, Tracker
from harness.train.result import Result


@dataclass
class Writer:
    """The writer of results and failures to MLflow.

    tags: provenance, logged with every run. checkpoints: folder of the cells' checkpoints, removed when a
    cell is done. labels: a cell's tags for its role in the study ("sweep", "tuned").
    """

    tracker: Tracker
    ledger: Ledger
    unlogged: UnloggedResults
    tags: Mapping[str, str]
    checkpoints: Path | None = None
    labels: Callable[[Cell], Mapping[str, str]] = lambda cell: {}

    def keep(self, cell: Cell, result: Result, started: float) -> Result:
        """Save a new result to disk before it is logged; return it with its tags and start time."""
        result = replace(result, tags=self.tags, started=started)
        self.unlogged.put(cell, result)
        return result

    def find(self, cell: Cell, elsewhere: Mapping[str, Run]) -> Result | None:
        """Return an existing result of a claimed cell, unlogged or from another study; else None."""
        result = self.unlogged.get(cell.cell_id)
        if result is not None or cell.cell_id not in elsewhere:
            return result
        run = elsewhere[cell.cell_id]
        provenance = {name: run.tags[name] for name in KEPT_TAGS if name in run.tags}
        try:
            with interrupts_held():
                result = self.tracker.load(run)
        except StoreError:
            # Missing artifacts raise the same error as an unreachable store; retrain the cell.
            return None
        return replace(
            result, tags={**self.tags, **provenance, "reused_from": run.run_id}, started=time.time()
        )

    def write(self, cell: Cell, result: Result) -> bool:
        """Log a result; return False if another driver took over the cell while this one was suspended.

        The result then stays on disk, in case the other driver fails.
        """
        run_id = self.tracker.log(cell, result, self.labels(cell))
        done = False
        if self.ledger.holds(cell.cell_id):
            self.tracker.finish(run_id, result)
            done = self.ledger.finish(cell.cell_id)
        if done:
            self.unlogged.drop(cell.cell_id)
            self._discard({cell.cell_id})
        else:
            self.tracker.abandon(run_id)
        return done

    def fail(self, cell: Cell, reason: str, started: float) -> None:
        """Log a cell that failed, and release its claim."""
        self.tracker.log_failure(cell, reason, {**self.tags, **self.labels(cell)}, started)
        self.ledger.release(cell.cell_id)

    def adopt(self, cell: Cell, run: Run) -> None:
        """Make a cell's complete run, which a sweep may have trained, part of the study's matrix."""
        labels = self.labels(cell)
        # A sweep does not change existing runs.
        if SWEEP not in labels and (SWEEP in run.tags or labels.items() - run.tags.items()):
            self.tracker.adopt(run, labels)

    def tidy(self, done: Container[str]) -> None:
        """Remove results and checkpoints of done cells, which killed drivers left behind."""
        self.unlogged.tidy(done)
        self._discard(done)

    def _discard(self, cell_ids: Container[str]) -> None:
        if self.checkpoints is not None:
            remove_files_of(cell_ids, self.checkpoints)

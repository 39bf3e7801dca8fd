"""The driver of a study: claims cells, hands them to a launcher, and is the only writer of their results."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from harness.errors import StoreError
from harness.launchers import Job, Launcher
from harness.matrix import Cell
from harness.plan import Plan
from harness.spool import Entry
from harness.tracking import Run
from harness.writer import Writer

POLL_S = 1.0
RUNNING = "tags.kind = 'cell' and attributes.status = 'RUNNING'"


class Display(Protocol):
    """Where progress is shown."""

    def begin(self, total: int, done: int) -> None:
        """The study has ``total`` cells, of which ``done`` are done already."""

    def started(self, cell: Cell) -> None:
        """A cell went to a worker."""

    def ended(self, cell: Cell, note: str) -> None:
        """A cell ended; the note is empty where all is well."""

    def waiting(self, count: int) -> None:
        """Only cells that other drivers are at work on are left."""


@dataclass
class Summary:
    """How a call of `drive` ended: counts, and the reason for each cell that has no result."""

    total: int
    done_before: int = 0
    trained: int = 0
    reused: int = 0
    elsewhere: int = 0
    failed: dict[str, tuple[Cell, str]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every cell has a result."""
        return not self.failed


@dataclass
class Driver:
    """One study's driver; `run` drives it to its end, once.

    Args:
        job_of: makes the job of a cell. retry_diverged: train cells again that diverged before.
    """

    plan: Plan
    writer: Writer
    launcher: Launcher
    display: Display
    job_of: Callable[[Cell], Job]
    retry_diverged: bool = False

    def __post_init__(self) -> None:
        self.tracker, self.ledger = self.writer.tracker, self.writer.ledger
        self.summary = Summary(len(self.plan.cells))
        self._outdated: set[str] = set()
        self._pending: deque[Cell] = deque()
        self._deferred: list[Cell] = []
        self._started: dict[str, float] = {}

    def run(self) -> Summary:
        """Train what is not done; a cell that another driver is at work on is waited for."""
        summary, patiently = self.summary, self.writer.patiently
        patiently(self._end_orphans)
        outdated = patiently(self.tracker.diverged) if self.retry_diverged else {}
        self._outdated = {run.run_id for run in outdated.values()}
        done, diverged = patiently(self._refresh)
        self.writer.tidy({*done, *diverged, *outdated})
        for cell in self.plan.cells:
            if cell.cell_id in diverged and cell.cell_id not in done:
                self._fail(cell, f"diverged earlier: {diverged[cell.cell_id]}")
        todo = [c for c in self.plan.cells if c.cell_id not in done and c.cell_id not in summary.failed]
        summary.done_before = summary.total - len(todo) - len(summary.failed)
        self.display.begin(summary.total, summary.total - len(todo))
        if todo:
            self._pending.extend(todo)
            self._train(patiently(lambda: self.tracker.complete(everywhere=True)))
            patiently(self._end_orphans)
        return summary

    def _end_orphans(self) -> None:
        """Mark runs as killed whose driver died, or was cut off, while it logged them."""
        unfinished = list(self.tracker.runs(RUNNING))
        alive = self.ledger.claimed_by_others({run.tags["cell_id"] for run in unfinished})
        orphans = {run.run_id for run in unfinished if run.tags["cell_id"] not in alive}
        # One that another driver finished between the two looks was no orphan.
        for run in self.tracker.runs(RUNNING) if orphans else ():
            if run.run_id in orphans:
                self.tracker.abandon(run.run_id)

    def _refresh(self) -> tuple[dict[str, Run], dict[str, str]]:
        """What MLflow holds, complete runs and reasons of diverged ones; false claims of it are forgotten."""
        # The ledger is read first: a run is complete in MLflow before its claim says so.
        called_done = self.ledger.done()
        done, found = self.tracker.complete(), self.tracker.diverged()
        diverged = {
            cell_id: run.tags.get("reason", "")
            for cell_id, run in found.items()
            if run.run_id not in self._outdated
        }
        self.ledger.forget(called_done - done.keys() - diverged.keys())
        return done, diverged

    def _train(self, elsewhere: Mapping[str, Run]) -> None:
        try:
            while self._pending or self._started or self._deferred:
                while self._pending and len(self._started) < self.launcher.slots:
                    self._begin(self._pending.popleft(), elsewhere)
                if self._started:
                    self._collect(POLL_S)
                elif self._deferred:
                    self._await()
        except (StoreError, KeyboardInterrupt):
            self._salvage()
            raise

    def _begin(self, cell: Cell, elsewhere: Mapping[str, Run]) -> None:
        """Claim a cell, and train it unless its result is at hand."""
        if not self.writer.patiently(partial(self.ledger.claim, cell.cell_id)):
            self._deferred.append(cell)
            return
        entry = self.writer.find(cell, elsewhere)
        if entry is not None:
            self.summary.reused += self._log(cell, entry)
            return
        self._started[cell.cell_id] = time.time()
        self.display.started(cell)
        self.launcher.submit(self.job_of(cell))

    def _collect(self, timeout_s: float) -> None:
        """Log what the launcher hands out; all of it is kept before the store is asked for the first time."""
        outcomes = [(o, self._started.pop(o.job.cell.cell_id)) for o in self.launcher.wait(timeout_s)]
        entries = {
            outcome.job.cell.cell_id: self.writer.keep(outcome.job.cell, outcome.result, started)
            for outcome, started in outcomes
            if outcome.result is not None
        }
        for outcome, started in outcomes:
            cell = outcome.job.cell
            if cell.cell_id in entries:
                self.summary.trained += self._log(cell, entries[cell.cell_id])
            else:
                self.writer.fail(cell, outcome.error or "", started)
                self._fail(cell, outcome.error or "")
                self.display.ended(cell, outcome.error or "")

    def _log(self, cell: Cell, entry: Entry) -> bool:
        """Log a result; True if the cell is complete now."""
        if not self.writer.write(cell, entry):
            self._deferred.append(cell)
            return False
        complete = entry.result.status == "complete"
        note = "" if complete else f"{entry.result.status}: {entry.result.reason}"
        if note:
            self._fail(cell, note)
        self.display.ended(cell, note)
        return complete

    def _await(self) -> None:
        """Wait until another driver ended a cell that it had claimed; what is open then is pending again."""
        self.display.waiting(len(self._deferred))
        claimed = {cell.cell_id for cell in self._deferred}
        while True:
            time.sleep(POLL_S)
            if self.writer.patiently(partial(self.ledger.claimed_by_others, claimed)) != claimed:
                break
        done, diverged = self.writer.patiently(self._refresh)
        self.writer.tidy({*done, *diverged})
        deferred, self._deferred = self._deferred, []
        for cell in deferred:
            if cell.cell_id in done:
                self.summary.elsewhere += 1
                self.display.ended(cell, "")
            elif cell.cell_id in diverged:
                self._fail(cell, f"diverged: {diverged[cell.cell_id]}")
                self.display.ended(cell, f"diverged: {diverged[cell.cell_id]}")
            else:
                self._pending.append(cell)

    def _salvage(self) -> None:
        """Keep what workers ended while the driver was busy with the store."""
        for outcome in self.launcher.wait(0) if self._started else ():
            if outcome.result is not None:
                cell = outcome.job.cell
                self.writer.keep(cell, outcome.result, self._started[cell.cell_id])

    def _fail(self, cell: Cell, reason: str) -> None:
        self.summary.failed[cell.cell_id] = (cell, reason)

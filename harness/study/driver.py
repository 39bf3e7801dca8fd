"""The driver of a study: claims cells, submits them to a launcher, and is the only writer of their results.

A `CellQueue` supplies the cells: a whole matrix at once, or the trials of a sweep one after another.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from harness.errors import StoreError
from harness.interrupts import interrupts_held
from harness.launchers.base import Job, Launcher
from harness.matrix import Cell
from harness.study.queue import CellQueue
from harness.study.writer import Writer
from harness.tracking.codes import changed_sentence, changes, of_one_code, plugin_changes
from harness.tracking.tags import cell_tags, numbers, result_tags
from harness.tracking.tracker import Run
from harness.tracking.versions import kept_sentence, version_of
from harness.train.result import Result

POLL_S = 1.0
RUNNING = "tags.kind = 'cell' and attributes.status = 'RUNNING'"


class Display(Protocol):
    """A display of the driver's progress."""

    def begin(self, total: int, done: int, left: Iterable[Cell] = ()) -> None:
        """Show a study of ``total`` cells, of which ``done`` are done already. left: the others, if known."""

    def started(self, cell: Cell) -> None:
        """Show that a cell was submitted to a worker."""

    def ended(self, cell: Cell, note: str) -> None:
        """Show that a cell ended; note: its error, or empty."""

    def waiting(self, count: int) -> None:
        """Show that all ``count`` remaining cells are claimed by other drivers."""

    def say(self, sentence: str) -> None:
        """Show a message about the study."""


@dataclass
class StudyOutcome:
    """The outcome of a driver's run: counts, and the reason for each cell that has no result.

    runs: cell_id -> run of the cells that have a result.
    """

    total: int = 0
    done_before: int = 0
    trained: int = 0
    reused: int = 0
    elsewhere: int = 0
    failed: dict[str, tuple[Cell, str]] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)

    def comparable(self) -> dict[str, Mapping[str, float]]:
        """Return cell_id -> metrics of the cells that one code computed, see `of_one_code`."""
        return {run.tags["cell_id"]: run.metrics for run in of_one_code(self.runs.values())}

    @property
    def complete(self) -> bool:
        """Whether every cell has a result."""
        return not self.failed


@dataclass
class Driver:
    """The driver of one study; `run` may be called once.

    Args:
        job_of: builds the job of a cell.
        retry_diverged: retrain cells that diverged in an earlier run.
        retry_changed: retrain cells whose method or backbone has changed since, see `harness.code`;
            those of a changed plugin are always retrained.
        keep_weights: retrain cells whose result is elsewhere, and lacks weights.
    """

    queue: CellQueue
    writer: Writer
    launcher: Launcher
    display: Display
    job_of: Callable[[Cell], Job]
    retry_diverged: bool = False
    retry_changed: bool = False
    keep_weights: bool = False

    def __post_init__(self) -> None:
        self.tracker, self.ledger = self.writer.tracker, self.writer.ledger
        self.outcome = StudyOutcome()
        self._done: dict[str, Run] = {}
        self._diverged: dict[str, str] = {}
        self._outdated: set[str] = set()
        self._seen: set[str] = set()
        self._pending: deque[Cell] = deque()
        self._deferred: list[Cell] = []
        self._started: dict[str, float] = {}

    def run(self) -> StudyOutcome:
        """Train all cells that are not done, wait for those of other drivers, and return the outcome."""
        self._end_orphans()
        outdated = self.tracker.diverged() if self.retry_diverged else {}
        self._outdated = {run.run_id for run in outdated.values()}
        self._done, self._diverged = self._refresh()
        self.writer.tidy({*self._done, *self._diverged, *outdated})
        self._report_other_versions()
        self._fetch()
        self._report_other_code()
        self.display.begin(self.outcome.total, self.outcome.total - len(self._pending), self._pending)
        if self._pending or self.queue.open:
            elsewhere = self.tracker.complete(everywhere=True)
            self._train({cell_id: run for cell_id, run in elsewhere.items() if not changes(run.tags)})
            self._end_orphans()
            # A driver that lost a cell's claim may have been killed while it wrote the cell's files.
            self.writer.tidy({*self.outcome.runs, *self._diverged})
        return self.outcome

    def _report_other_versions(self) -> None:
        """Report stored results of other results versions, whose cell ids no longer occur."""
        sentence = kept_sentence(version_of(run.tags) for run in self._done.values())
        if sentence:
            self.display.say(f"Study {self.tracker.study!r} has {sentence}")

    def _report_other_code(self) -> None:
        """Say which cells that count as done were computed by other code."""
        done = [run for cell_id, run in self._done.items() if cell_id in self._seen]
        if sentence := changed_sentence(done):
            self.display.say(sentence)

    def _fetch(self) -> None:
        """Take cells from the queue while a slot is free, until one of them needs to be trained."""
        while not self._pending and len(self._started) < self.launcher.slots:
            cells = self.queue.more()
            for cell in cells:
                self._receive(cell)
            if not cells:
                return

    def _receive(self, cell: Cell) -> None:
        """Report the result of a queued cell if it has one; otherwise make the cell pending."""
        new = cell.cell_id not in self._seen
        self._seen.add(cell.cell_id)
        self.outcome.total += new
        if cell.cell_id in self.outcome.runs:
            self.queue.done(cell, self.outcome.runs[cell.cell_id].metrics)
        elif self._settle(cell, "diverged earlier"):
            self.outcome.done_before += new and cell.cell_id in self._done
        else:
            self._pending.append(cell)

    def _settle(self, cell: Cell, verb: str) -> bool:
        """Report the run of a cell that is done or diverged; return False if there is no such run."""
        run = self._done.get(cell.cell_id)
        if run is not None:
            self.writer.adopt(cell, run)
            self._complete(cell, run)
        elif cell.cell_id in self._diverged:
            self._fail(cell, f"{verb}: {self._diverged[cell.cell_id]}", final=True)
        return run is not None or cell.cell_id in self._diverged

    def _complete(self, cell: Cell, run: Run) -> None:
        self.outcome.failed.pop(cell.cell_id, None)
        self.outcome.runs[cell.cell_id] = run
        self.queue.done(cell, run.metrics)

    def _end_orphans(self) -> None:
        """Mark unfinished runs as killed if their driver died, or lost its claim, while it logged them."""
        unfinished = list(self.tracker.runs(RUNNING))
        alive = self.ledger.claimed_by_others({run.tags["cell_id"] for run in unfinished})
        orphans = {run.run_id for run in unfinished if run.tags["cell_id"] not in alive}
        # Query again: another driver may have finished a run in the meantime.
        for run in self.tracker.runs(RUNNING) if orphans else ():
            if run.run_id in orphans:
                self.tracker.abandon(run.run_id)

    def _refresh(self) -> tuple[dict[str, Run], dict[str, str]]:
        """Return MLflow's complete runs and reasons of diverged runs; delete done claims without a run."""
        # The ledger is read first: a run is complete in MLflow before its claim says so.
        done_claims = self.ledger.done()
        done, diverged_runs = self.tracker.complete(), self.tracker.diverged()
        # Shipped code has RESULTS_VERSION; of a plugin, only the hash tells that it was edited.
        changed = changes if self.retry_changed else plugin_changes
        done, diverged_runs = (
            {cell_id: run for cell_id, run in runs.items() if not changed(run.tags)}
            for runs in (done, diverged_runs)
        )
        diverged = {
            cell_id: run.tags.get("reason", "")
            for cell_id, run in diverged_runs.items()
            if run.run_id not in self._outdated and cell_id not in done
        }
        self.ledger.forget(done_claims - done.keys() - diverged.keys())
        return done, diverged

    def _train(self, elsewhere: Mapping[str, Run]) -> None:
        try:
            while self._pending or self._started or self._deferred or self.queue.open:
                while self._begin_one(elsewhere):
                    self._fetch()
                if self._started:
                    self._collect(POLL_S, elsewhere)
                elif self._deferred:
                    self._await()
                elif not self._pending:
                    time.sleep(POLL_S)
                self._fetch()
        except (StoreError, KeyboardInterrupt):
            self._salvage()
            raise

    def _begin_one(self, elsewhere: Mapping[str, Run]) -> bool:
        """Begin a pending cell if a slot is free; return False if there is no cell or no slot."""
        if not self._pending or len(self._started) >= self.launcher.slots:
            return False
        self._begin(self._pending.popleft(), elsewhere)
        return True

    def _begin(self, cell: Cell, elsewhere: Mapping[str, Run]) -> None:
        """Claim a cell, and submit it unless its result is already stored; defer it if the claim fails."""
        if not self.ledger.claim(cell.cell_id):
            self._deferred.append(cell)
            return
        result = self.writer.find(cell, elsewhere)
        if result is not None:
            stale = self.retry_changed and changes({**cell_tags(cell), **result.environment})
            if not (stale or (self.keep_weights and result.lacks_weights)):
                self.outcome.reused += self._log(cell, result)
                return
            # `put` keeps an intact result of the same cell, so the old one must go first.
            self.writer.unlogged.drop(cell.cell_id)
        self._started[cell.cell_id] = time.time()
        self.display.started(cell)
        self.launcher.submit(replace(self.job_of(cell), pause_after=self.queue.pause_after(cell)))

    def _collect(self, timeout_s: float, elsewhere: Mapping[str, Run]) -> None:
        """Log the outcomes that arrive within ``timeout_s``, after all their results are on disk."""
        outcomes = self.launcher.wait(timeout_s)
        with interrupts_held():
            ended = [(outcome, self._started.pop(outcome.job.cell.cell_id)) for outcome in outcomes]
            results = {
                outcome.job.cell.cell_id: self.writer.keep(outcome.job.cell, outcome.result, started)
                for outcome, started in ended
                if outcome.result is not None and outcome.result.status != "paused"
            }
        # Idle workers get cells before the slow calls to the store. A single slot waits, as it may be this
        # process: after an interrupt, `_salvage` would train the new cell to its end.
        while self.launcher.slots > 1 and self._begin_one(elsewhere):
            pass
        for outcome, started in ended:
            cell = outcome.job.cell
            if cell.cell_id in results:
                self.outcome.trained += self._log(cell, results[cell.cell_id])
            elif outcome.result is not None:
                self.ledger.release(cell.cell_id)
                self.queue.paused(cell, outcome.result.curves)
            else:
                self.writer.fail(cell, outcome.error or "", started)
                self._fail(cell, outcome.error or "")
                self.display.ended(cell, outcome.error or "")

    def _log(self, cell: Cell, result: Result) -> bool:
        """Log a result; return whether the cell is complete now."""
        if not self.writer.write(cell, result):
            self._deferred.append(cell)
            return False
        if result.status == "complete":
            self._complete(cell, Run("", "", {**cell_tags(cell), **result_tags(result)}, numbers(result)))
            self.display.ended(cell, "")
            return True
        self._diverged[cell.cell_id] = result.reason
        self._fail(cell, f"{result.status}: {result.reason}", final=True)
        self.display.ended(cell, f"{result.status}: {result.reason}")
        return False

    def _await(self) -> None:
        """Wait until another driver ends a claimed cell; then make all cells without a result pending."""
        self.display.waiting(len(self._deferred))
        claimed = {cell.cell_id for cell in self._deferred}
        while True:
            time.sleep(POLL_S)
            if self.ledger.claimed_by_others(claimed) != claimed:
                break
        self._done, self._diverged = self._refresh()
        self.writer.tidy({*self._done, *self._diverged})
        deferred, self._deferred = self._deferred, []
        for cell in deferred:
            if self._settle(cell, "diverged"):
                self.outcome.elsewhere += cell.cell_id in self._done
                _, reason = self.outcome.failed.get(cell.cell_id, (cell, ""))
                self.display.ended(cell, reason)
            else:
                self._pending.append(cell)

    def _salvage(self) -> None:
        """Save the results that arrived while the driver was calling the store."""
        with interrupts_held():
            for outcome in self.launcher.wait(0) if self._started else ():
                if outcome.result is not None and outcome.result.status != "paused":
                    cell = outcome.job.cell
                    self.writer.keep(cell, outcome.result, self._started[cell.cell_id])

    def _fail(self, cell: Cell, reason: str, final: bool = False) -> None:
        self.outcome.failed[cell.cell_id] = (cell, reason)
        self.queue.failed(cell, reason, final)

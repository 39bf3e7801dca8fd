"""The driver of a study: claims cells, hands them to a launcher, and is the only writer of their results.

Which cells, says a `Supply`: all of a matrix at once, or those of one trial of a sweep after the other.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple, Protocol

from harness.errors import StoreError
from harness.interrupts import interrupts_held
from harness.launchers.base import Job, Launcher
from harness.matrix import Cell
from harness.study.unlogged import Entry
from harness.study.writer import Writer
from harness.tracking.tags import numbers
from harness.tracking.tracker import Run
from harness.tracking.versions import kept_sentence, version_of

POLL_S = 1.0
RUNNING = "tags.kind = 'cell' and attributes.status = 'RUNNING'"


class Order(NamedTuple):
    """A cell to run; pause_after: the epoch after which it is to be handed back, see `harness.train.loop`."""

    cell: Cell
    pause_after: int | None = None


class Supply(Protocol):
    """Where a driver's cells come from, and who hears how they ended. A cell is in flight once at a time."""

    open: bool  # whether there may be more, although there is nothing at present

    def more(self) -> Sequence[Order]:
        """Further cells; asked at the start and when a slot is free. Empty: none at present."""

    def done(self, cell: Cell, numbers: Mapping[str, float]) -> None:
        """A cell has a result: ``valid/loss``, ``test/mae`` and so on."""

    def failed(self, cell: Cell, reason: str, final: bool) -> None:
        """A cell has none; final: nor would it have one if it ran again (it diverged)."""

    def paused(self, cell: Cell, curves: Mapping[str, Sequence[float]]) -> None:
        """A cell was handed back after the epoch that its order named; ordered again it goes on."""


class Matrix:
    """The supply of a benchmark: all cells at once."""

    open = False

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._orders = [Order(cell) for cell in cells]

    def more(self) -> Sequence[Order]:
        """All cells, the first time."""
        orders, self._orders = self._orders, []
        return orders

    def done(self, cell: Cell, numbers: Mapping[str, float]) -> None:
        """Nothing follows from it."""

    def failed(self, cell: Cell, reason: str, final: bool) -> None:
        """The next call of the benchmark tries it again."""

    def paused(self, cell: Cell, curves: Mapping[str, Sequence[float]]) -> None:
        """Not asked for."""


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

    def say(self, sentence: str) -> None:
        """Something about the study that a person should know."""


@dataclass
class Summary:
    """How a driver's run ended: counts, and the reason for each cell that has no result.

    numbers: those of each cell that has one, by its id.
    """

    total: int = 0
    done_before: int = 0
    trained: int = 0
    reused: int = 0
    elsewhere: int = 0
    failed: dict[str, tuple[Cell, str]] = field(default_factory=dict)
    numbers: dict[str, Mapping[str, float]] = field(default_factory=dict)

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

    supply: Supply
    writer: Writer
    launcher: Launcher
    display: Display
    job_of: Callable[[Cell], Job]
    retry_diverged: bool = False

    def __post_init__(self) -> None:
        self.tracker, self.ledger = self.writer.tracker, self.writer.ledger
        self.summary = Summary()
        self._done: dict[str, Run] = {}
        self._diverged: dict[str, str] = {}
        self._outdated: set[str] = set()
        self._seen: set[str] = set()
        self._pending: deque[Order] = deque()
        self._deferred: list[Order] = []
        self._started: dict[str, float] = {}

    def run(self) -> Summary:
        """Train what is not done; a cell that another driver is at work on is waited for."""
        summary, patiently = self.summary, self.writer.patiently
        patiently(self._end_orphans)
        outdated = patiently(self.tracker.diverged) if self.retry_diverged else {}
        self._outdated = {run.run_id for run in outdated.values()}
        self._done, self._diverged = patiently(self._refresh)
        self.writer.tidy({*self._done, *self._diverged, *outdated})
        self._tell_of_other_versions()
        self._order()
        self.display.begin(summary.total, summary.total - len(self._pending))
        if self._pending or self.supply.open:
            self._train(patiently(lambda: self.tracker.complete(everywhere=True)))
            patiently(self._end_orphans)
        return summary

    def _tell_of_other_versions(self) -> None:
        """Say why results that the study has are not used: no cell of today has the id of one of them."""
        sentence = kept_sentence(version_of(run.tags) for run in self._done.values())
        if sentence:
            self.display.say(f"Study {self.tracker.study!r} has {sentence}")

    def _order(self) -> None:
        """Ask for cells while a slot is free and none needs to be trained; those done are told at once."""
        while not self._pending and len(self._started) < self.launcher.slots:
            orders = self.supply.more()
            for order in orders:
                self._take(order)
            if not orders:
                return

    def _take(self, order: Order) -> None:
        cell, new = order.cell, order.cell.cell_id not in self._seen
        self._seen.add(cell.cell_id)
        self.summary.total += new
        if cell.cell_id in self.summary.numbers:
            self.supply.done(cell, self.summary.numbers[cell.cell_id])
        elif cell.cell_id in self._done:
            self.summary.done_before += new
            self._adopt(cell)
        elif cell.cell_id in self._diverged:
            self._fail(cell, f"diverged earlier: {self._diverged[cell.cell_id]}", final=True)
        else:
            self._pending.append(order)

    def _adopt(self, cell: Cell) -> None:
        """Take a cell that is done already."""
        run = self._done[cell.cell_id]
        self.writer.adopt(cell, run)
        self._done_with(cell, run.metrics)

    def _done_with(self, cell: Cell, found: Mapping[str, float]) -> None:
        self.summary.numbers[cell.cell_id] = found
        self.supply.done(cell, found)

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
            if run.run_id not in self._outdated and cell_id not in done
        }
        self.ledger.forget(called_done - done.keys() - diverged.keys())
        return done, diverged

    def _train(self, elsewhere: Mapping[str, Run]) -> None:
        try:
            while self._pending or self._started or self._deferred or self.supply.open:
                while self._begin_one(elsewhere):
                    self._order()
                if self._started:
                    self._collect(POLL_S, elsewhere)
                elif self._deferred:
                    self._await()
                elif not self._pending:
                    time.sleep(POLL_S)
                self._order()
        except (StoreError, KeyboardInterrupt):
            self._salvage()
            raise

    def _begin_one(self, elsewhere: Mapping[str, Run]) -> bool:
        """Begin a pending cell if a slot is free; returns whether there was one of each."""
        if not self._pending or len(self._started) >= self.launcher.slots:
            return False
        self._begin(self._pending.popleft(), elsewhere)
        return True

    def _begin(self, order: Order, elsewhere: Mapping[str, Run]) -> None:
        """Claim a cell, and train it unless its result is at hand."""
        cell = order.cell
        if not self.writer.patiently(partial(self.ledger.claim, cell.cell_id)):
            self._deferred.append(order)
            return
        entry = self.writer.find(cell, elsewhere)
        if entry is not None:
            self.summary.reused += self._log(order, entry)
            return
        self._started[cell.cell_id] = time.time()
        self.display.started(cell)
        self.launcher.submit(replace(self.job_of(cell), pause_after=order.pause_after))

    def _collect(self, timeout_s: float, elsewhere: Mapping[str, Run]) -> None:
        """Log what the launcher hands out; all of it is kept before the store is asked for the first time.

        Workers that are free do not wait for the store: they get what is pending first.
        """
        came = self.launcher.wait(timeout_s)
        with interrupts_held():
            outcomes = [(outcome, self._started.pop(outcome.job.cell.cell_id)) for outcome in came]
            entries = {
                outcome.job.cell.cell_id: self.writer.keep(outcome.job.cell, outcome.result, started)
                for outcome, started in outcomes
                if outcome.result is not None and outcome.result.status != "paused"
            }
        # Not with a single slot, which may be this process: an interrupt would wait for what it was given.
        while self.launcher.slots > 1 and self._begin_one(elsewhere):
            pass
        for outcome, started in outcomes:
            cell = outcome.job.cell
            if cell.cell_id in entries:
                order = Order(cell, outcome.job.pause_after)
                self.summary.trained += self._log(order, entries[cell.cell_id])
            elif outcome.result is not None:
                self.writer.patiently(partial(self.ledger.release, cell.cell_id))
                self.supply.paused(cell, outcome.result.curves)
            else:
                self.writer.fail(cell, outcome.error or "", started)
                self._fail(cell, outcome.error or "")
                self.display.ended(cell, outcome.error or "")

    def _log(self, order: Order, entry: Entry) -> bool:
        """Log a result; True if the cell is complete now."""
        cell, result = order.cell, entry.result
        if not self.writer.write(cell, entry):
            self._deferred.append(order)
            return False
        if result.status == "complete":
            self.summary.failed.pop(cell.cell_id, None)
            self._done_with(cell, numbers(result))
            self.display.ended(cell, "")
            return True
        self._diverged[cell.cell_id] = result.reason
        self._fail(cell, f"{result.status}: {result.reason}", final=True)
        self.display.ended(cell, f"{result.status}: {result.reason}")
        return False

    def _await(self) -> None:
        """Wait until another driver ended a cell that it had claimed; what is open then is pending again."""
        self.display.waiting(len(self._deferred))
        claimed = {order.cell.cell_id for order in self._deferred}
        while True:
            time.sleep(POLL_S)
            if self.writer.patiently(partial(self.ledger.claimed_by_others, claimed)) != claimed:
                break
        self._done, self._diverged = self.writer.patiently(self._refresh)
        self.writer.tidy({*self._done, *self._diverged})
        deferred, self._deferred = self._deferred, []
        for order in deferred:
            cell = order.cell
            if cell.cell_id in self._done:
                self.summary.elsewhere += 1
                self._adopt(cell)
                self.display.ended(cell, "")
            elif cell.cell_id in self._diverged:
                reason = f"diverged: {self._diverged[cell.cell_id]}"
                self._fail(cell, reason, final=True)
                self.display.ended(cell, reason)
            else:
                self._pending.append(order)

    def _salvage(self) -> None:
        """Keep what workers ended while the driver was busy with the store."""
        with interrupts_held():
            for outcome in self.launcher.wait(0) if self._started else ():
                if outcome.result is not None and outcome.result.status != "paused":
                    cell = outcome.job.cell
                    self.writer.keep(cell, outcome.result, self._started[cell.cell_id])

    def _fail(self, cell: Cell, reason: str, final: bool = False) -> None:
        self.summary.failed[cell.cell_id] = (cell, reason)
        self.supply.failed(cell, reason, final)

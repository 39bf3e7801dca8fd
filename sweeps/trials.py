"""From searches to cells and back: the queue of a sweep's driver.

A trial is one cell per seed. Its value is the mean of their validation objective; what the test split says is
logged beside it and never shown to the sampler. A cell that failed is ordered again, a few times; one that
diverged fails its trial. Where hopeless trials are pruned, cells pause after certain epochs and go on from
their checkpoints if their trial does.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from harness.errors import UserError, unknown
from harness.files import remove_files_of, safe_name
from harness.matrix import RESULTS_VERSION, Cell
from harness.metrics import METRICS
from harness.plan import Plan
from harness.study.writer import Writer
from harness.tracking.tags import Trial
from harness.tracking.versions import version_of
from sweeps.request import sweep_name
from sweeps.search import DIVERGED, FAILED, UNDEFINED, Budget, Search, owner_claim
from sweeps.space import Space
from sweeps.storage import open_storage

UNFINISHED = "tags.kind = 'trial' and attributes.status = 'RUNNING'"
STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


class TrialDisplay(Protocol):
    """Where the progress of a sweep is shown."""

    def trials(self, total: int, ended: Sequence[Trial]) -> None:
        """There are so many trials in all, of which these ended before."""

    def trial_started(self, trial: str) -> None:
        """A trial began, by its name."""

    def trial_ended(self, trial: Trial) -> None:
        """A trial ended."""


@dataclass
class Running:
    """A trial under way; by seed: its cells, and what is known of them."""

    search: Search
    trial: optuna.Trial | FrozenTrial
    cells: dict[int, Cell]
    started: float
    numbers: dict[int, Mapping[str, float]] = field(default_factory=dict)
    curves: dict[int, Sequence[float]] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)
    failure: tuple[str, str] = ("", "")
    rung: int = 0

    @property
    def default(self) -> bool:
        """Whether its settings are those without the sweep."""
        return list(self.cells.values()) == list(self.search.bases)

    @property
    def rungs(self) -> list[int]:
        """The epochs after which it may be pruned."""
        epochs = self.search.bases[0].backbone_settings.max_epochs
        shares = self.search.budget.prune_at if self.search.space.sampler != "grid" else ()
        return [e for e in sorted({max(1, round(share * epochs)) for share in shares}) if e < epochs]

    @property
    def pause_after(self) -> int | None:
        """The epoch after which its cells pause next."""
        return self.rungs[self.rung] if self.rung < len(self.rungs) else None


class Trials:
    """The queue of a driver that runs searches to their ends.

    Args:
        sweep: its name. retries: how often a cell is tried again that failed. synthetic: datasets that are.
    """

    def __init__(
        self,
        searches: Sequence[Search],
        writer: Writer,
        display: TrialDisplay,
        sweep: str,
        retries: int,
        synthetic: frozenset[str] = frozenset(),
    ) -> None:
        self.searches, self.writer, self.display = list(searches), writer, display
        self.sweep, self.retries, self.synthetic = sweep, retries, synthetic
        self.open = True
        self.ended = 0  # trials that ended here
        self._again: list[Cell] = []
        self._turns = list(searches)
        self._waiting: dict[str, list[tuple[Running, int]]] = {}

    def begin(self, retry_diverged: bool = False) -> None:
        """Begin all searches, and log the trials that a killed driver ended and did not log."""
        for search in self.searches:
            search.begin(retry_diverged)
        tracker = self.writer.tracker
        self._end_orphans()
        known = [r.tags for r in tracker.trials() if version_of(r.tags) in (0, RESULTS_VERSION)]
        logged = {(tags["search"], tags["trial"]) for tags in known}
        numbers = {cell_id: run.metrics for cell_id, run in tracker.complete().items()}
        for search in self.searches:
            self._again_without_cells(search, numbers)
        ended = [(search, trial) for search in self.searches for trial in search.ended()]
        records = [self._record_of(search, frozen, numbers) for search, frozen in ended]
        for record in records:
            if record.key not in logged:
                tracker.log_trial(record)
        self.display.trials(sum(search.total for search in self.searches), records)

    def _end_orphans(self) -> None:
        """Mark the runs of trials as killed whose driver died while it logged them; they are logged again."""
        tracker, ledger = self.writer.tracker, self.writer.ledger
        unfinished = {run.run_id: owner_claim(run.tags.get("owner")) for run in tracker.runs(UNFINISHED)}
        alive = ledger.claimed_by_others(set(unfinished.values())) if unfinished else set()
        # One that its driver finished between the two looks is no orphan.
        for run in tracker.runs(UNFINISHED) if unfinished else ():
            if unfinished.get(run.run_id, "") not in alive and run.run_id in unfinished:
                tracker.abandon(run.run_id)

    def _again_without_cells(self, search: Search, numbers: Mapping[str, Any]) -> None:
        """Enqueue complete trials again whose cells were deleted; drop checkpoints that nobody needs."""
        ended = search.ended()
        gone = {t.number for t in ended if t.state == TrialState.COMPLETE
                and not all(c.cell_id in numbers for c in self._cells(search, t).values())}  # fmt: skip
        if gone:
            search.again(gone)
        for trial in ended:
            if trial.state == TrialState.PRUNED or trial.user_attrs.get("why") == DIVERGED:
                self._discard(self._cells(search, trial))

    def _cells(self, search: Search, trial: FrozenTrial) -> dict[int, Cell]:
        """The cells of a trial by seed; none where its settings are refused."""
        try:
            return {base.seed: search.space.apply(base, trial.params) for base in search.bases}
        except UserError:
            return {}

    def _discard(self, cells: Mapping[int, Cell]) -> None:
        if self.writer.checkpoints is not None:
            remove_files_of({cell.cell_id for cell in cells.values()}, self.writer.checkpoints)

    def final(self) -> list[Trial]:
        """How each setting ended; a trial that failed and was tried again is left out."""
        # Another driver may have ended trials meanwhile.
        numbers = {cell_id: run.metrics for cell_id, run in self.writer.tracker.complete().items()}
        return [self._record_of(search, t, numbers) for search in self.searches for t in search.ended()]

    def more(self) -> Sequence[Cell]:
        """Cells to go on with, else those of the next trial."""
        if self._again:
            cells, self._again = self._again, []
            return cells
        for search in [search for search in self._turns if search.open]:
            trial = search.next()
            if trial is not None:
                # The next trial is the next search's, so that all of them show something soon.
                self._turns.remove(search)
                self._turns.append(search)
                return self._start(search, trial)
        self.open = bool(self._waiting) or any(search.open for search in self.searches)
        return []

    def pause_after(self, cell: Cell) -> int | None:
        """The epoch after which the trial that ordered the cell may be pruned next."""
        return self._waiting[cell.cell_id][0][0].pause_after

    def done(self, cell: Cell, numbers: Mapping[str, float]) -> None:
        """Take a cell's numbers; its trial may end with it."""
        for running, seed in self._waiting.pop(cell.cell_id, []):
            running.numbers[seed] = numbers
            self._advance(running)

    def failed(self, cell: Cell, reason: str, final: bool) -> None:
        """Order the cell again, unless it diverged or failed too often: then its trial fails."""
        waiting = self._waiting.pop(cell.cell_id, [])
        for running, seed in waiting:
            running.attempts[seed] = running.attempts.get(seed, 0) + 1
            if final or running.attempts[seed] > self.retries:
                running.failure = (DIVERGED if final else FAILED, reason)
                self._advance(running)
            else:
                self._order(running, seed)

    def paused(self, cell: Cell, curves: Mapping[str, Sequence[float]]) -> None:
        """Decide whether a trial goes on, once all its seeds have come as far."""
        curve = curves["valid_loss"]
        for running, seed in self._waiting.pop(cell.cell_id, []):
            if running.pause_after is None or len(curve) < running.pause_after:
                self._order(running, seed)  # it paused for another trial with the same settings
            else:
                running.curves[seed] = curve
                self._advance(running)

    def _start(self, search: Search, trial: optuna.Trial) -> list[Cell]:
        cells = {base.seed: search.space.apply(base, trial.params) for base in search.bases}
        running = Running(search, trial, cells, time.time())
        self.display.trial_started(self._record(running, "running").run_name)
        for seed in cells:
            self._order(running, seed)
        queued, self._again = self._again, []
        return queued

    def _order(self, running: Running, seed: int) -> None:
        """Order a cell, unless it is under way for another trial with the same settings."""
        cell = running.cells[seed]
        waiting = self._waiting.setdefault(cell.cell_id, [])
        waiting.append((running, seed))
        if len(waiting) == 1:
            self._again.append(cell)

    def _advance(self, running: Running) -> None:
        """Let a trial go on or end, unless some of its cells are still under way."""
        if any(r is running for waiting in self._waiting.values() for r, _ in waiting):
            return
        if running.failure[0]:
            self._end(running, TrialState.FAIL)
        elif len(running.numbers) == len(running.cells):
            self._complete(running)
        elif self._hopeless(running):
            self._end(running, TrialState.PRUNED)
        else:
            running.rung += 1
            for seed in running.cells.keys() - running.numbers.keys():
                self._order(running, seed)

    def _hopeless(self, running: Running) -> bool:
        """Whether the trial's best validation loss so far, as the mean over its seeds, is worth no more.

        Nothing is said of a trial with a cell that is done already, for what it was at this epoch is not
        known; and the setting as it is without the sweep is never given up, for others are compared with it.
        """
        epoch = running.rungs[running.rung]
        if running.numbers:
            return False
        loss = float(np.mean([min(curve[:epoch]) for curve in running.curves.values()]))
        trial = running.trial
        assert isinstance(trial, optuna.Trial), "a trial that ended is not pruned"
        hopeless = running.search.report(trial, loss, epoch)
        return hopeless and not running.default

    def _complete(self, running: Running) -> None:
        record = self._record(running, "complete")
        if record.value is None:
            running.failure = UNDEFINED, f"{record.objective} is undefined for one of its seeds"
            self._end(running, TrialState.FAIL)
        else:
            self._end(running, TrialState.COMPLETE, record.value)

    def _end(self, running: Running, state: TrialState, value: float | None = None) -> None:
        """Tell Optuna first: what it knows and MLflow does not is logged at the next start."""
        if state == TrialState.PRUNED or running.failure[0] == DIVERGED:
            self._discard(running.cells)
        if running.search.tell(running.trial.number, state, value, running.failure):
            record = self._record(running, STATES[state])
            self.writer.tracker.log_trial(record)
            self.display.trial_ended(record)
            self.ended += 1

    def _record(self, running: Running, state: str) -> Trial:
        search = running.search
        cells = {seed: cell.cell_id for seed, cell in running.cells.items()}
        return Trial(
            sweep=self.sweep,
            search=search.name,
            number=running.trial.number,
            base=search.bases[0],
            values=search.space.exact(running.trial.params),
            default=running.default,
            state=state,
            cells=cells,
            started=running.started,
            synthetic=search.bases[0].dataset in self.synthetic,
            reason=running.failure[1],
            owner=self.writer.ledger.owner,
            **_measured(search, running.numbers, len(cells), state),
        )

    def _record_of(self, search: Search, frozen: FrozenTrial, numbers: Mapping[str, Any]) -> Trial:
        """The record of a trial that ended earlier, from what Optuna and MLflow hold."""
        cells = self._cells(search, frozen)
        found = {s: numbers[c.cell_id] for s, c in cells.items() if c.cell_id in numbers}
        started = frozen.datetime_start.timestamp() if frozen.datetime_start else time.time()
        failure = "", str(frozen.user_attrs.get("reason", ""))
        return self._record(
            Running(search, frozen, cells, started, found, failure=failure), STATES[frozen.state]
        )


def _measured(search: Search, numbers: Mapping[int, Mapping[str, float]], seeds: int, state: str) -> Any:
    """What a trial's cells say: the objective, its mean over all seeds, and the means of all metrics."""
    objective, value, metrics = f"valid/{search.budget.objective}", None, {}
    if len(numbers) == seeds and state != "failed":
        first = next(iter(numbers.values()))
        names = [name for name in first if name.startswith(("valid/", "test"))]
        metrics = {n: float(np.mean([found[n] for found in numbers.values()])) for n in names}
        value = metrics[objective] if np.isfinite(metrics[objective]) else None
    return {"objective": objective, "value": value, "metrics": metrics}


def make_queue(
    config: Any, plan: Plan, space: Space, device: str, writer: Writer, display: TrialDisplay
) -> Trials:
    """The searches of a sweep, one per backbone and dataset, as a driver's queue; raises UserError."""
    name, tracker = sweep_name(config), writer.tracker
    storage = open_storage(config.sweep.storage, tracker.folder("optuna") / f"{safe_name(name)}.journal")
    address = config.sweep.storage or str(tracker.folder("optuna"))
    sweep = config.sweep
    budget = Budget(sweep.trials, tuple(sorted(config.seeds)), sweep.objective, tuple(sweep.prune_at))
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in sorted(plan.cells, key=lambda cell: cell.seed):
        groups.setdefault((cell.backbone_label, cell.dataset), []).append(cell)
    searches, store = [], tracker.identity()
    for (backbone, dataset), bases in groups.items():
        if sweep.objective != "loss" and sweep.objective not in METRICS[bases[0].metrics]:
            raise unknown(
                f"metric of {dataset}, for sweep.objective,", sweep.objective, METRICS[bases[0].metrics]
            )
        search = f"{plan.study}/{name}/{backbone}/{dataset}"
        own = space.for_backbone(bases[0])
        place = (storage, address, writer.ledger)
        searches.append(Search(search, *place, own, bases, budget, store, device))
    synthetic = frozenset(data.name for data in plan.datasets.values() if data.synthetic)
    return Trials(searches, writer, display, name, sweep.retries, synthetic)

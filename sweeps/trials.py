"""The trials of a sweep as a driver's queue of cells; they are started, pruned, retried and ended here.

A trial has one cell per seed. Its value is the mean of the cells' validation objective; metrics of the test
split are logged as well but never reach the sampler. A failed cell is retried a few times; a diverged cell
fails its trial. With pruning, cells pause after certain epochs and resume from checkpoints.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

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
from sweeps.display import SweepDisplay
from sweeps.request import sweep_name
from sweeps.running_trial import RunningTrial
from sweeps.search import DIVERGED, FAILED, UNDEFINED, Search, SearchBudget, owner_claim
from sweeps.space import Space
from sweeps.storage import open_storage

UNFINISHED = "tags.kind = 'trial' and attributes.status = 'RUNNING'"
STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


class Trials:
    """A driver's queue of cells (a `harness.study.queue.CellQueue`) that runs searches to their ends.

    Args:
        sweep: name of the sweep. retries: how often a failed cell is retried. synthetic: names of datasets.
    """

    def __init__(
        self,
        searches: Sequence[Search],
        writer: Writer,
        display: SweepDisplay,
        sweep: str,
        retries: int,
        synthetic: frozenset[str] = frozenset(),
    ) -> None:
        self.searches, self.writer, self.display = list(searches), writer, display
        self.sweep, self.retries, self.synthetic = sweep, retries, synthetic
        self.open = True
        self.ended = 0  # number of trials that ended in this driver
        self._again: list[Cell] = []
        self._turns = list(searches)
        self._waiting: dict[str, list[tuple[RunningTrial, int]]] = {}

    def begin(self, retry_diverged: bool = False) -> None:
        """Begin all searches, and log the trials that a killed driver ended but did not log."""
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
        """Mark the runs of trials whose driver died while logging them as killed; `begin` logs them again."""
        tracker, ledger = self.writer.tracker, self.writer.ledger
        unfinished = {run.run_id: owner_claim(run.tags.get("owner")) for run in tracker.runs(UNFINISHED)}
        alive = ledger.claimed_by_others(set(unfinished.values())) if unfinished else set()
        # The second query excludes runs that a living driver has finished since the first one.
        for run in tracker.runs(UNFINISHED) if unfinished else ():
            if unfinished.get(run.run_id, "") not in alive and run.run_id in unfinished:
                tracker.abandon(run.run_id)

    def _again_without_cells(self, search: Search, numbers: Mapping[str, Any]) -> None:
        """Enqueue again the complete trials whose cells were deleted, and remove unneeded checkpoints."""
        ended = search.ended()
        gone = {t.number for t in ended if t.state == TrialState.COMPLETE
                and not all(c.cell_id in numbers for c in self._cells(search, t).values())}  # fmt: skip
        if gone:
            search.enqueue_again(gone)
        for trial in ended:
            if trial.state == TrialState.PRUNED or trial.user_attrs.get("why") == DIVERGED:
                self._discard(self._cells(search, trial))

    def _cells(self, search: Search, trial: FrozenTrial) -> dict[int, Cell]:
        """Return seed -> cell of a trial; empty if the method rejects the trial's settings."""
        try:
            return {base.seed: search.space.apply(base, trial.params) for base in search.bases}
        except UserError:
            return {}

    def _discard(self, cells: Mapping[int, Cell]) -> None:
        if self.writer.checkpoints is not None:
            remove_files_of({cell.cell_id for cell in cells.values()}, self.writer.checkpoints)

    def final(self) -> list[Trial]:
        """Return the record of each trial that ended, except trials that were retried."""
        # Read again, because another driver may have ended trials meanwhile.
        numbers = {cell_id: run.metrics for cell_id, run in self.writer.tracker.complete().items()}
        return [self._record_of(search, t, numbers) for search in self.searches for t in search.ended()]

    def more(self) -> Sequence[Cell]:
        """Return cells to resume or retry, else the cells of the next trial."""
        if self._again:
            cells, self._again = self._again, []
            return cells
        for search in [search for search in self._turns if search.open]:
            trial = search.next()
            if trial is not None:
                # Searches take turns, so that all of them have results early.
                self._turns.remove(search)
                self._turns.append(search)
                return self._start(search, trial)
        self.open = bool(self._waiting) or any(search.open for search in self.searches)
        return []

    def pause_after(self, cell: Cell) -> int | None:
        """Return the epoch after which the trial that queued the cell may be pruned next."""
        return self._waiting[cell.cell_id][0][0].pause_after

    def done(self, cell: Cell, numbers: Mapping[str, float]) -> None:
        """Store a cell's metrics, and end its trial if this was the last cell."""
        for running, seed in self._waiting.pop(cell.cell_id, []):
            running.metrics[seed] = numbers
            self._advance(running)

    def failed(self, cell: Cell, reason: str, final: bool) -> None:
        """Queue the cell again, or fail its trial if the cell diverged or failed too often."""
        waiting = self._waiting.pop(cell.cell_id, [])
        for running, seed in waiting:
            running.attempts[seed] = running.attempts.get(seed, 0) + 1
            if final or running.attempts[seed] > self.retries:
                running.failure = (DIVERGED if final else FAILED, reason)
                self._advance(running)
            else:
                self._order(running, seed)

    def paused(self, cell: Cell, curves: Mapping[str, Sequence[float]]) -> None:
        """Store a paused cell's loss curve, and decide whether to prune its trial once all seeds paused."""
        curve = curves["valid_loss"]
        for running, seed in self._waiting.pop(cell.cell_id, []):
            if running.pause_after is None or len(curve) < running.pause_after:
                self._order(running, seed)  # the cell paused for another trial with the same settings
            else:
                running.curves[seed] = curve
                self._advance(running)

    def _start(self, search: Search, trial: optuna.Trial) -> list[Cell]:
        cells = {base.seed: search.space.apply(base, trial.params) for base in search.bases}
        running = RunningTrial(search, trial, cells, time.time())
        self.display.trial_started(self._record(running, "running").run_name)
        for seed in cells:
            self._order(running, seed)
        queued, self._again = self._again, []
        return queued

    def _order(self, running: RunningTrial, seed: int) -> None:
        """Queue a cell, unless it is already in flight for another trial with the same settings."""
        cell = running.cells[seed]
        waiting = self._waiting.setdefault(cell.cell_id, [])
        waiting.append((running, seed))
        if len(waiting) == 1:
            self._again.append(cell)

    def _advance(self, running: RunningTrial) -> None:
        """Resume or end a trial if none of its cells is in flight."""
        if any(r is running for waiting in self._waiting.values() for r, _ in waiting):
            return
        if running.failure[0]:
            self._end(running, TrialState.FAIL)
        elif len(running.metrics) == len(running.cells):
            self._complete(running)
        elif self._hopeless(running):
            self._end(running, TrialState.PRUNED)
        else:
            running.rung += 1
            for seed in running.cells.keys() - running.metrics.keys():
                self._order(running, seed)

    def _hopeless(self, running: RunningTrial) -> bool:
        """Report the best loss so far, averaged over seeds, and return whether to prune the trial."""
        epoch = running.rungs[running.rung]
        if running.metrics:  # a cell was complete from the start, so its loss at this epoch is unknown
            return False
        loss, trial = running.best_loss(epoch), running.trial
        assert isinstance(trial, optuna.Trial), "a trial that ended is not pruned"
        hopeless = running.search.report(trial, loss, epoch)
        # The default setting is never pruned, because all others are compared with it.
        return hopeless and not running.default

    def _complete(self, running: RunningTrial) -> None:
        record = self._record(running, "complete")
        if record.value is None:
            running.failure = UNDEFINED, f"{record.objective} is undefined for one of its seeds"
            self._end(running, TrialState.FAIL)
        else:
            self._end(running, TrialState.COMPLETE, record.value)

    def _end(self, running: RunningTrial, state: TrialState, value: float | None = None) -> None:
        """End a trial in Optuna, then log it to MLflow."""
        if state == TrialState.PRUNED or running.failure[0] == DIVERGED:
            self._discard(running.cells)
        # If the driver dies after `tell`, the next start logs the trial.
        if running.search.tell(running.trial.number, state, value, running.failure):
            record = self._record(running, STATES[state])
            self.writer.tracker.log_trial(record)
            self.display.trial_ended(record)
            self.ended += 1

    def _record(self, running: RunningTrial, state: str) -> Trial:
        synthetic = running.search.bases[0].dataset in self.synthetic
        return running.record(self.sweep, state, self.writer.ledger.owner, synthetic)

    def _record_of(self, search: Search, trial: FrozenTrial, metrics: Mapping[str, Any]) -> Trial:
        """Build the record of a trial that ended earlier from Optuna's and MLflow's data."""
        cells = self._cells(search, trial)
        known = {seed: metrics[c.cell_id] for seed, c in cells.items() if c.cell_id in metrics}
        started = trial.datetime_start.timestamp() if trial.datetime_start else time.time()
        failure = "", str(trial.user_attrs.get("reason", ""))
        ended = RunningTrial(search, trial, cells, started, known, failure=failure)
        return self._record(ended, STATES[trial.state])


def make_trials(
    config: Any, plan: Plan, space: Space, device: str, writer: Writer, display: SweepDisplay
) -> Trials:
    """Create the trials of a sweep with one search per backbone and dataset; raises UserError."""
    name, tracker, sweep = sweep_name(config), writer.tracker, config.sweep
    storage = open_storage(sweep.storage, tracker.folder("optuna") / f"{safe_name(name)}.journal")
    address = sweep.storage or str(tracker.folder("optuna"))
    budget = SearchBudget(sweep.trials, tuple(sorted(config.seeds)), sweep.objective, tuple(sweep.prune_at))
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in sorted(plan.cells, key=lambda cell: cell.seed):
        groups.setdefault((cell.backbone_label, cell.dataset), []).append(cell)
    searches, store = [], tracker.identity()
    for (backbone, dataset), bases in groups.items():
        metrics = METRICS[bases[0].metrics]
        if sweep.objective not in ("loss", *metrics):
            raise unknown(f"metric of {dataset}, for sweep.objective,", sweep.objective, metrics)
        study = f"{plan.study}/{name}/{backbone}/{dataset}"
        acting = space.for_backbone(bases[0])
        searches.append(Search(study, storage, address, writer.ledger, acting, bases, budget, store, device))
    synthetic = frozenset(data.name for data in plan.datasets.values() if data.synthetic)
    return Trials(searches, writer, display, name, sweep.retries, synthetic)

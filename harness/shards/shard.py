"""Training of the cells of a shard, without MLflow and ledger."""

from __future__ import annotations

import shlex
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from harness.config.compose import path_of, resolved_study_file, var_path
from harness.errors import StoreError
from harness.files import safe_name
from harness.interrupts import interrupts_held
from harness.launchers.base import Job, Launcher
from harness.matrix import Cell
from harness.plan import Plan
from harness.retry import Retry
from harness.shards.part import Shard, shard_folder
from harness.shards.stored import write_request
from harness.study.description import announcement
from harness.study.display import LiveDisplay
from harness.study.driver import POLL_S, Display
from harness.study.jobs import jobs_of
from harness.study.unlogged import UnloggedResults
from harness.tracking.codes import changes
from harness.tracking.provenance import provenance
from harness.tracking.store import DEFAULT_FOLDER
from harness.tracking.tags import cell_tags
from harness.train.result import Result


@dataclass
class ShardOutcome:
    """The outcome of a shard: counts, and the reason for each cell that has no result."""

    total: int = 0
    done_before: int = 0
    trained: int = 0
    failed: dict[str, tuple[Cell, str]] = field(default_factory=dict)


def train_shard(
    config: Any,
    plan: Plan,
    shard: Shard,
    device: str,
    launcher: Launcher,
    display: LiveDisplay,
    arguments: Sequence[str],
) -> ShardOutcome:
    """Train the cells of a shard that have no result yet.

    config: composed from ``arguments``; the plan was made from it. device: "cpu" or "cuda".
    """
    var_dir = var_path(config)
    folder = shard_folder(var_dir, plan.study)
    # A shard's name is no part of the request that all shards share.
    shared = [text for text in arguments if not text.startswith("shard=")]
    write_request(folder, announcement(plan, shared, resolved_study_file(config)))
    checkpoints = (var_dir / "checkpoints" / safe_name(plan.study)).absolute()
    results = UnloggedResults(folder)
    return ShardDriver(
        plan,
        shard,
        results,
        launcher,
        display,
        jobs_of(config, plan, device, var_dir, checkpoints, display.say),
        Retry(config.tracking.patience_s, display.trouble, results.state),
        retry_diverged=config.retry == "diverged",
        retry_changed=config.retry == "changed",
        keep_weights=config.keep is not None,
    ).run()


def collect_command(config: Any) -> str:
    """Return the command that logs the results of a study's shards."""
    located = [f"{key}={config[key]}" for key in ("var_dir",) if path_of(config[key]) != DEFAULT_FOLDER]
    return f"python -m harness.collect {shlex.join([f'study={config.study}', *located])}"


@dataclass
class ShardDriver:
    """The training of a shard's cells; `run` may be called once.

    retry_diverged, retry_changed: train cells again that have such a result, see `harness.study.driver`.
    keep_weights: train cells again whose result lacks weights.
    """

    plan: Plan
    shard: Shard
    results: UnloggedResults
    launcher: Launcher
    display: Display
    job_of: Callable[[Cell], Job]
    retry: Retry
    retry_diverged: bool = False
    retry_changed: bool = False
    keep_weights: bool = False

    def run(self) -> ShardOutcome:
        """Train the shard's cells that have no result yet, and return the outcome."""
        cells = self.shard.of(self.plan.cells)
        pending = deque(cell for cell in cells if not self._has_result(cell))
        outcome = ShardOutcome(len(cells), len(cells) - len(pending))
        self.display.begin(outcome.total, outcome.done_before, pending)
        tags = provenance()
        started: dict[str, float] = {}
        while pending or started:
            while pending and len(started) < self.launcher.slots:
                cell = pending.popleft()
                started[cell.cell_id] = time.time()
                self.display.started(cell)
                self.launcher.submit(self.job_of(cell))
            ended = self.launcher.wait(POLL_S)
            with interrupts_held():
                for one in ended:
                    result, cell = one.result, one.job.cell
                    since = started.pop(cell.cell_id)
                    if result is not None:
                        labels = self.plan.tags.get(cell.cell_id, {})
                        result = replace(result, tags={**tags, **labels}, started=since)
                        self.retry(partial(self._write, cell, result))
                    self._count(outcome, cell, result, one.error or "")
        return outcome

    def _has_result(self, cell: Cell) -> bool:
        """Return whether a result lies there that is not to be computed again."""
        result = self.results.get(cell.cell_id)
        if result is None:
            return False
        again = self.retry_diverged and result.status == "diverged"
        again = again or (self.retry_changed and bool(changes({**cell_tags(cell), **result.environment})))
        again = again or (self.keep_weights and result.lacks_weights)
        if again:
            self.results.drop(cell.cell_id)
        return not again

    def _write(self, cell: Cell, result: Result) -> None:
        error = self.results.put(cell, result)
        if error is not None:
            folder = str(self.results.folder)
            raise StoreError(f"cannot write to {folder!r} ({error.strerror or error})")

    def _count(self, outcome: ShardOutcome, cell: Cell, result: Result | None, error: str) -> None:
        if result is not None and result.status != "complete":
            error = f"{result.status}: {result.reason}"
        if error:
            outcome.failed[cell.cell_id] = cell, error
        else:
            outcome.trained += 1
        self.display.ended(cell, error)

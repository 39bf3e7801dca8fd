"""A driver and all that it works with, put together for the commands that train; and their report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.claims.ledger import Ledger
from harness.data.pretrained import text_states
from harness.databases import redact, sqlite_uri
from harness.files import locked
from harness.launchers.base import Job, Launcher
from harness.matrix import Cell, first_seeds
from harness.plan import Plan
from harness.retry import Retry
from harness.study.description import (
    CODE_FILE,
    DATASETS_FILE,
    MATRIX_FILE,
    code_text,
    datasets_text,
    describe,
    matrix_text,
)
from harness.study.display import LiveDisplay
from harness.study.driver import CellQueue, Driver, StudyOutcome
from harness.study.unlogged import UnloggedResults
from harness.study.writer import Writer
from harness.tracking.provenance import provenance
from harness.tracking.tracker import Tracker


@dataclass(frozen=True)
class Session:
    """One command at work on one study; config: as composed, of these arguments. device: "cpu" or "cuda"."""

    config: Any
    plan: Plan
    device: str
    tracker: Tracker
    launcher: Launcher
    display: LiveDisplay
    arguments: Sequence[str] = ()

    def drive(
        self,
        make_queue: Callable[[Writer], CellQueue],
        labels: Callable[[Cell], Mapping[str, str]],
        request: bool,
    ) -> StudyOutcome:
        """Run the cells of a queue, which gets the writer with ledger and tracker.

        request: whether the plan's cells are the study's matrix, see `announce`.
        """
        config, tracker = self.config, self.tracker
        uri = config.ledger.uri or sqlite_uri(tracker.var_dir / "ledger.db")
        times = {"beat_s": config.ledger.beat_s, "stale_s": config.ledger.stale_s}
        unlogged = UnloggedResults(tracker.folder("spool"))
        retry = Retry(config.tracking.patience_s, self.display.trouble, unlogged.state)
        job_of, checkpoints = self._jobs(), tracker.folder("checkpoints").absolute()
        with Ledger(uri, self.plan.study, **times) as ledger, tracker.retrying(retry):
            ledger.retry = retry
            announce(tracker, self.plan, self.arguments if request else None)
            writer = Writer(tracker, ledger, unlogged, provenance(), checkpoints, labels)
            driver = Driver(make_queue(writer), writer, self.launcher, self.display, job_of)
            driver.retry_diverged = config.retry == "diverged"
            # The seeds of a trial are averaged at once, so all of them need the same code.
            driver.retry_changed = config.retry == "changed" or not request
            return driver.run()

    def _jobs(self) -> Callable[[Cell], Job]:
        """How a job is made of a cell."""
        config, plan = self.config, self.plan
        checkpoints = self.tracker.folder("checkpoints").absolute()
        folders = {name: str(data.folder.absolute()) for name, data in plan.datasets.items()}
        states, sampled = self._text_states(), first_seeds(plan.cells)

        def job_of(cell: Cell) -> Job:
            return Job(
                cell,
                data=folders[cell.dataset],
                device=self.device,
                resident=config.data.resident,
                checkpoint=str(checkpoints / f"{cell.cell_id}.npz"),
                checkpoint_s=config.cell.checkpoint_s,
                text_model=None if plan.text_model is None else str(plan.text_model.folder.absolute()),
                text_states=states.get((cell.dataset, cell.backbone)),
                sample=cell.cell_id in sampled,
                # Beside the stored data, out of the reach of what trains.
                truth=f"{folders[cell.dataset]}.truth.npz",
            )

        return job_of

    def _text_states(self) -> Mapping[tuple[str, str], str]:
        """Folders of a frozen text encoder's states; none where text is not read by such a one."""
        plan, threads = self.plan, self.config.cell.threads
        if plan.text_model is None or plan.cells[0].text.finetune:
            return {}
        cache, say = self.tracker.var_dir / "cache", self.display.say
        return text_states(plan.text_model, plan.datasets, plan.cells, self.device, threads, cache, say)


def announce(tracker: Tracker, plan: Plan, request: Sequence[str] | None) -> None:
    """Note with the study's run what it is trained on.

    request: arguments that asked for the plan's cells as the study's matrix, which is noted too; else None.
    """
    with locked(lock_of(tracker)):
        files = {
            DATASETS_FILE: datasets_text(plan, tracker.study_file(DATASETS_FILE)),
            CODE_FILE: code_text(plan, tracker.study_file(CODE_FILE)),
        }
        if request is not None:
            # Only what looks like an address: a path may hold an @.
            shown = [redact(argument) if "://" in argument else argument for argument in request]
            files[MATRIX_FILE] = matrix_text(plan, shown)
        tracker.announce(files, None if request is None else describe(plan))


def lock_of(tracker: Tracker) -> Path:
    """The file by which one process at a time announces a study or writes its report."""
    return tracker.var_dir / f".{tracker.folder('reports').name}.lock"

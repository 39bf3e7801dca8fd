"""Setup of a driver with its ledger, tracker and writer, for the commands that train."""

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
from harness.study.driver import Driver, StudyOutcome
from harness.study.queue import CellQueue
from harness.study.unlogged import UnloggedResults
from harness.study.writer import Writer
from harness.tracking.provenance import provenance
from harness.tracking.tracker import Tracker


@dataclass(frozen=True)
class Session:
    """The run of one command on a study; config: composed from ``arguments``; device: "cpu" or "cuda"."""

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
        """Run the cells of the queue that ``make_queue`` builds from a writer; return the outcome.

        labels: see `Writer`. request: whether the plan's cells are the study's matrix, see `announce`.
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
            return Driver(
                make_queue(writer),
                writer,
                self.launcher,
                self.display,
                job_of,
                retry_diverged=config.retry == "diverged",
                # A trial averages its seeds at once, so all of them need the same code.
                retry_changed=config.retry == "changed" or not request,
            ).run()

    def _jobs(self) -> Callable[[Cell], Job]:
        """Return the function that builds a cell's job."""
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
                # The truth is in a separate file, because a training must not read it.
                truth=f"{folders[cell.dataset]}.truth.npz",
            )

        return job_of

    def _text_states(self) -> Mapping[tuple[str, str], str]:
        """Return the folders of a frozen text encoder's states, by (dataset, backbone); empty without one."""
        plan, threads = self.plan, self.config.cell.threads
        if plan.text_model is None or plan.cells[0].text.finetune:
            return {}
        cache, say = self.tracker.var_dir / "cache", self.display.say
        return text_states(plan.text_model, plan.datasets, plan.cells, self.device, threads, cache, say)


def announce(tracker: Tracker, plan: Plan, request: Sequence[str] | None) -> None:
    """Store the descriptions of the plan's datasets with the study's run.

    request: arguments of the command, if the plan's cells are the study's matrix, which is then stored too.
    """
    with locked(lock_of(tracker)):
        files = {
            DATASETS_FILE: datasets_text(plan, tracker.study_file(DATASETS_FILE)),
            CODE_FILE: code_text(plan, tracker.study_file(CODE_FILE)),
        }
        if request is not None:
            # Only addresses are redacted: a path may contain an @.
            arguments = [redact(argument) if "://" in argument else argument for argument in request]
            files[MATRIX_FILE] = matrix_text(plan, arguments, tracker.study_file(MATRIX_FILE))
        tracker.announce(files, None if request is None else describe(plan))


def lock_of(tracker: Tracker) -> Path:
    """Return the lock file for announcing a study and for writing its report."""
    return tracker.var_dir / f".{tracker.folder('reports').name}.lock"

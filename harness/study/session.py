"""Setup of a driver with its ledger, tracker and writer, for the commands that train."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.claims.ledger import Ledger
from harness.config.compose import resolved_study_file
from harness.databases import sqlite_path, sqlite_uri
from harness.errors import UserError
from harness.files import locked, network_disk
from harness.launchers.base import Launcher
from harness.matrix import Cell
from harness.plan import Plan
from harness.retry import Retry
from harness.study.description import Announcement, announcement
from harness.study.display import LiveDisplay
from harness.study.driver import Driver, StudyOutcome
from harness.study.jobs import jobs_of
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
        unlogged = UnloggedResults(tracker.folder("spool"))
        checkpoints = tracker.folder("checkpoints").absolute()
        job_of = jobs_of(config, self.plan, self.device, tracker.var_dir, checkpoints, self.display.say)
        with open_ledger(config, tracker, self.display, unlogged) as ledger:
            said = announcement(self.plan, self.arguments, resolved_study_file(config)) if request else None
            announce(tracker, said or announcement(self.plan, None))
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
                keep_weights=config.keep is not None,
            ).run()


@contextlib.contextmanager
def open_ledger(
    config: Any, tracker: Tracker, display: LiveDisplay, unlogged: UnloggedResults
) -> Iterator[Ledger]:
    """Open the ledger of the tracker's study; within the block, both retry what fails, and say so."""
    uri = config.ledger.uri or sqlite_uri(tracker.var_dir / "ledger.db")
    times = {"beat_s": config.ledger.beat_s, "stale_s": config.ledger.stale_s}
    retry = Retry(config.tracking.patience_s, display.trouble, unlogged.state)
    with Ledger(uri, tracker.study, **times) as ledger, tracker.retrying(retry):
        ledger.retry = retry
        _check_disk((uri, tracker.uri), ledger, display)
        yield ledger


def _check_disk(uris: Sequence[str], ledger: Ledger, display: LiveDisplay) -> None:
    """Warn of databases in files on a network disk; raise UserError if another host uses them, too."""
    paths = [path for uri in uris if (path := sqlite_path(uri)) is not None]
    found = [(path, kind) for path in paths if (kind := network_disk(path))]
    if not found:
        return
    path, kind = found[0]
    reason = f"{str(path)!r} lies on a network disk ({kind}), on which SQLite is not safe between machines"
    advice = (
        "use shards (shard=1/4, then python -m harness.collect), or a server (tracking.uri=, ledger.uri=)"
    )
    if ledger.works_elsewhere():
        raise UserError(f"Another machine works on this study, and {reason}; {advice}.")
    display.say(f"{reason}. Use this study from one machine at a time; for several, {advice}.")


def announce(tracker: Tracker, said: Announcement) -> None:
    """Store the description of a plan with the study's run."""
    with locked(lock_of(tracker)):
        tracker.announce(said.files(tracker.study_file), said.description)


def lock_of(tracker: Tracker) -> Path:
    """Return the lock file for announcing a study and for writing its report."""
    return tracker.var_dir / f".{tracker.folder('reports').name}.lock"

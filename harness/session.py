"""A driver and all that it works with, put together for the commands that train; and their report."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.databases import locked, sqlite_uri
from harness.display import LiveDisplay
from harness.driver import Driver, Summary, Supply
from harness.launchers import Job, Launcher
from harness.ledger import Ledger
from harness.matrix import Cell, first_seeds
from harness.plan import Plan, describe_datasets
from harness.provenance import provenance
from harness.spool import Spool
from harness.text import text_states
from harness.tracking import Tracker
from harness.writer import Writer


@dataclass(frozen=True)
class Session:
    """One command at work on one study; config: as composed. device: "cpu" or "cuda"."""

    config: Any
    plan: Plan
    device: str
    tracker: Tracker
    launcher: Launcher
    display: LiveDisplay

    def drive(
        self,
        make_supply: Callable[[Writer], Supply],
        labels: Callable[[Cell], Mapping[str, str]],
    ) -> Summary:
        """Run the cells of a supply, which gets the writer with ledger and tracker."""
        config, tracker = self.config, self.tracker
        checkpoints = tracker.folder("checkpoints").absolute()
        uri = config.ledger.uri or sqlite_uri(tracker.var_dir / "ledger.db")
        job_of = self._jobs()
        times = {"beat_s": config.ledger.beat_s, "stale_s": config.ledger.stale_s}
        with Ledger(uri, self.plan.study, **times) as ledger:
            spool, patience_s = Spool(tracker.folder("spool")), config.tracking.patience_s
            trouble = self.display.trouble
            writer = Writer(tracker, ledger, spool, provenance(), patience_s, trouble, checkpoints, labels)
            retry = config.retry == "diverged"
            return Driver(make_supply(writer), writer, self.launcher, self.display, job_of, retry).run()

    def _jobs(self) -> Callable[[Cell], Job]:
        """How a job is made of a cell."""
        config, plan, var_dir = self.config, self.plan, self.tracker.var_dir
        checkpoints = self.tracker.folder("checkpoints").absolute()
        folders = {name: str(data.folder.absolute()) for name, data in plan.datasets.items()}
        text_model = None if plan.text_model is None else str(plan.text_model.folder.absolute())
        states = text_states(plan, self.device, config.cell.threads, var_dir / "cache", self.display.say)
        sampled = first_seeds(plan.cells)

        def job_of(cell: Cell) -> Job:
            checkpoint = str(checkpoints / f"{cell.cell_id}.npz")
            resident, checkpoint_s = config.data.resident, config.cell.checkpoint_s
            text = text_model, states.get((cell.dataset, cell.backbone))
            # Truth lies beside the stored data, out of the reach of what trains.
            extras = cell.cell_id in sampled, f"{folders[cell.dataset]}.truth.npz"
            place = folders[cell.dataset], self.device, resident
            return Job(cell, *place, checkpoint, checkpoint_s, *text, *extras)

        return job_of


def write_report(tracker: Tracker, plan: Plan, description: str | None) -> None:
    """Write the report and datasets.json unless they are up to date, and store both with the study's run.

    description: of the study; None: it stays as it is.
    """
    from reports.build import build

    folder = tracker.folder("reports")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(f".{folder.name}.lock")):
        runs = [*tracker.complete().values(), *tracker.trials()]
        # Drivers that end together: the one that waited may find it done.
        if tracker.reported(runs) and folder.exists():
            return
        build(tracker, folder)
        if description is not None:
            tracker.describe(description)
            datasets = json.dumps(describe_datasets(plan), indent=1, ensure_ascii=False)
            (folder / "datasets.json").write_text(datasets)
        tracker.attach(folder)
        tracker.mark_reported(runs)

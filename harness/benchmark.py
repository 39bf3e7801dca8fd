"""``python -m harness.benchmark KEY=VALUE ...``: run a study, resume it, print its table, build its report.

Exit status: 0 all cells done, 1 some have no result, 2 the request is wrong, 130 interrupted. Everything
heavy is imported inside functions: spawned workers import this module again.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.interrupts import ignore_interrupts

if TYPE_CHECKING:
    from rich.console import Console

    from harness.display import LiveDisplay
    from harness.driver import Summary
    from harness.launchers import Launcher
    from harness.matrix import Cell
    from harness.plan import Plan
    from harness.tracking import Run, Tracker

HELP = """\
usage: python -m harness.benchmark [KEY=VALUE ...]

Runs methods x backbones x datasets x seeds, skips what is done, and builds the report.

  profile=quick|paper               settings for a quick look, or for the full matrix
  datasets=[mosi] data_root=DIR     MMSA files below DIR
  datasets=[mine] dataset.mine.path=FILE dataset.mine.label_scale=3 dataset.mine.metrics=mosi
  backbones=[tfn] methods=[none,ms_mix] seeds=[1111,1112] study=NAME
  text=bert bert.model=DIR bert.finetune=true|false
                                    text through a pretrained encoder instead of features
  matrix=ablation                   ms_mix with every combination of SASS, SIG and SAL
  occlusion.ratios=[0,0.5] occlusion.protocols=[test,train]
  launcher=inline|processes jobs=N device=auto|cpu|cuda var_dir=DIR
  method.NAME.KEY=VALUE backbone.NAME.KEY=VALUE

All settings with their defaults: harness/conf/config.yaml; of methods and backbones: their files."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        print(HELP)
        return 0
    from harness.errors import StoreError, UserError

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _run(arguments)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except StoreError as error:
        print(f"Error: {error}; the same command resumes.", file=sys.stderr)
        return 1
    except OSError as error:
        where = f" {str(error.filename)!r}" if error.filename else ""
        print(
            f"Error: cannot use the file{where}: {error.strerror or error}; the same command resumes.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        ignore_interrupts()
        print("Stopped; the same command resumes where it was.", file=sys.stderr)
        return 130


def _run(arguments: Sequence[str]) -> int:
    from rich.console import Console

    from harness.config import load_benchmark
    from harness.plan import make_plan, resolve_device

    config = load_benchmark(arguments)
    console = Console() if sys.stdout.isatty() else Console(width=120)
    device = resolve_device(config.device)
    if device == "cuda" and config.deterministic:
        # Without it cuBLAS is not deterministic; it is read when CUDA starts, here or in a worker.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    plan = make_plan(config)
    for data in plan.datasets.values():
        console.print(f"{data.name}: {data.source}", markup=False, highlight=False, soft_wrap=True)
        for note in () if data.synthetic else data.notes:
            console.print(f"  {note}", style="dim", markup=False, highlight=False, soft_wrap=True)
    return _drive(config, plan, device, console)


def _drive(config: Any, plan: Plan, device: str, console: Console) -> int:
    """Run the plan and show how it ended; returns the exit status."""
    from harness.display import LiveDisplay, closing_table, failure_table
    from harness.launchers import make_launcher
    from harness.plan import var_path
    from harness.tracking import Tracker
    from harness.work import run_job

    tracker = Tracker(config.tracking.uri, var_path(config), plan.study)
    launcher = make_launcher(config.launcher.name, config.jobs, run_job)
    try:
        with LiveDisplay(console, launcher.slots) as display:
            summary = _train(config, plan, device, tracker, launcher, display)
    finally:
        launcher.close()
    complete = tracker.complete()
    if summary.done_before == summary.total:
        console.print(f"All {summary.total} cells of study {plan.study!r} are done.", markup=False)
    else:
        console.print(closing_table(plan, complete))
    if summary.failed:
        console.print(failure_table(summary))
    # A driver may have died between its last cell and the report, or in the middle of it.
    if config.report:
        _report(plan, tracker, complete)
    console.print(f"Report: {tracker.folder('reports')}", markup=False, soft_wrap=True)
    console.print("Browse the runs with `make ui`.", markup=False, soft_wrap=True)
    return 0 if summary.complete else 1


def _train(
    config: Any, plan: Plan, device: str, tracker: Tracker, launcher: Launcher, display: LiveDisplay
) -> Summary:
    """Put the driver together and let it run."""
    from harness.databases import sqlite_uri
    from harness.driver import Driver
    from harness.launchers import Job
    from harness.ledger import Ledger
    from harness.matrix import first_seeds
    from harness.provenance import provenance
    from harness.spool import Spool
    from harness.text import text_states
    from harness.writer import Writer

    checkpoints = tracker.folder("checkpoints").absolute()
    folders = {name: str(data.folder.absolute()) for name, data in plan.datasets.items()}
    text_model = None if plan.text_model is None else str(plan.text_model.folder.absolute())
    states = text_states(plan, device, config.cell.threads, tracker.var_dir / "cache", display.say)

    sampled = first_seeds(plan.cells)

    def job_of(cell: Cell) -> Job:
        checkpoint = str(checkpoints / f"{cell.cell_id}.npz")
        resident, checkpoint_s = config.data.resident, config.cell.checkpoint_s
        text = text_model, states.get((cell.dataset, cell.backbone))
        # Truth lies beside the stored data, out of the reach of what trains.
        extras = cell.cell_id in sampled, f"{folders[cell.dataset]}.truth.npz"
        return Job(cell, folders[cell.dataset], device, resident, checkpoint, checkpoint_s, *text, *extras)

    uri = config.ledger.uri or sqlite_uri(tracker.var_dir / "ledger.db")
    with Ledger(uri, plan.study, beat_s=config.ledger.beat_s, stale_s=config.ledger.stale_s) as ledger:
        spool = Spool(tracker.folder("spool"))
        patience_s, trouble = config.tracking.patience_s, display.trouble
        writer = Writer(tracker, ledger, spool, provenance(), patience_s, trouble, checkpoints)
        return Driver(plan, writer, launcher, display, job_of, config.retry == "diverged").run()


def _report(plan: Plan, tracker: Tracker, complete: Mapping[str, Run]) -> None:
    """Write the report and datasets.json unless they are up to date, and store both with the study's run."""
    import json

    from harness.databases import locked
    from harness.plan import describe, describe_datasets
    from reports.build import build

    folder = tracker.folder("reports")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(f".{folder.name}.lock")):
        # Drivers that end together: the one that waited may find it done.
        if tracker.reported(complete) and folder.exists():
            return
        build(tracker, folder)
        datasets = json.dumps(describe_datasets(plan), indent=1, ensure_ascii=False)
        (folder / "datasets.json").write_text(datasets)
        tracker.study_run(describe(plan), complete, folder)


if __name__ == "__main__":
    status = main()
    # Python's own end takes a while, and a signal then would replace the status of what is done.
    ignore_interrupts()
    sys.exit(status)

"""``python -m harness.benchmark KEY=VALUE ...``: run or resume a study, print its table, build its report.

Exit status: 0 if all cells are done, 1 if some have no result, 2 if the request is invalid, 130 if
interrupted. Heavy modules are imported inside functions, so that ``--help`` answers at once.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli import importing, leave, make_console, run_command, shell_command, unused_address
from harness.launchers.choose import open_launcher

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from harness.launchers.base import Launcher
    from harness.matrix import Cell
    from harness.plan import Plan
    from harness.shards.part import Shard
    from harness.study.driver import StudyOutcome
    from harness.tracking.tracker import Tracker

HELP = """\
usage: python -m harness.benchmark [FILE.yaml] [KEY=VALUE ...] [--dry-run]

Trains methods x backbones x datasets x seeds, skips cells that have a result, and builds the report.

  FILE.yaml                         the same settings in a file; those of the command line win
  --dry-run                         print what would be trained, and how long it takes by what was measured
  profile=quick|paper               a small study, or the full matrix
  datasets=[mosi] data_root=DIR     MMSA feature files below DIR
  datasets=[mine] dataset.mine.path=FILE dataset.mine.like=mosi|mosei|sims
  dataset.mine.label_center=3 dataset.mine.label_scale=2 dataset.mine.standardize=true
                                    labels in [1, 5], and features scaled to mean 0 and deviation 1
  backbones=[tfn] methods=[none,ms_mix] seeds=[1111,1112] study=NAME
  text=bert bert.model=DIR bert.finetune=true|false
                                    encode text with a pretrained BERT instead of stored features
  matrix=ablation                   ms_mix with every combination of SASS, SIG and SAL
  occlusion.ratios=[0,0.5] occlusion.protocols=[test,train]
  evaluate.test_curve=true          score the test split after every epoch, to show what choosing by it adds
  tuned=DIR                         settings found by python -m sweeps.run tune=METHOD
  keep=weights                      store each cell's best weights, for python -m harness.predict
  launcher=inline|processes|ray jobs=N device=auto|cpu|cuda var_dir=DIR
  launcher.address=HOST:PORT launcher.gpus_per_cell=0.25
                                    with launcher=ray: an existing cluster (default: start one here)
  shard=1/4 | shard=slurm           train every 4th cell, or the part of a SLURM array task, without MLflow;
                                    python -m harness.collect study=NAME logs the results of all parts
  jobs_per_gpu=N precision=fp32|tf32|bf16 compile=true|false
  method.NAME.KEY=VALUE backbone.NAME.KEY=VALUE
  plugins=[my_mix.py]               methods and backbones of your own, see methods/README.md
  report.baseline=mixup report.equal_within.mae=0.02
                                    compare with mixup, too; gains within 0.02 count as equal
  report.claims=FILE                test claims of your own, see reports/claims/reader.py

Settings and defaults: harness/conf/config.yaml; for methods and backbones: python -m harness.catalog"""


DRY_RUN = "--dry-run"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run_command(_run, sys.argv[1:] if arguments is None else arguments, HELP)


def run(*files: str | Path, **settings: Any) -> pd.DataFrame:
    """Run or resume a study as the command does; return all its numbers, as ``reports.export`` gives them.

    files: study files. settings: those of the command line, with nested settings as dicts, as in
    ``train={"max_epochs": 2}``, or under their dotted names, as in ``**{"train.max_epochs": 2}``. Warns of
    cells without a result.

    Raises:
        UserError: the request is invalid, with the sentence that the command prints.
        StoreError: the tracking store or the ledger does not answer; the same call resumes.
    """
    with importing():
        from harness.config.study_file import arguments_of, expand

    arguments = expand(arguments_of(files, settings))
    config, plan, shard, console = _request(arguments)
    if shard is not None:
        from harness.errors import UserError

        raise UserError(
            f"shard={config.shard} trains a part of a study, whose numbers python -m harness.collect logs; "
            "leave shard out, or use python -m harness.benchmark."
        )
    tracker, outcome = _drive(config, plan, console, arguments)
    if outcome.failed:
        count = f"{len(outcome.failed)} of {outcome.total} cells of study {plan.study!r} have no result"
        warnings.warn(f"{count}; the table above has the reasons.", stacklevel=3)
    from reports.build import tidy_frame

    return tidy_frame(tracker)


def _run(arguments: Sequence[str]) -> int:
    with importing():
        from harness.config.study_file import expand

    dry = DRY_RUN in arguments
    arguments = expand([text for text in arguments if text != DRY_RUN])
    config, plan, shard, console = _request(arguments)
    if dry:
        return _show_plan(config, plan, console)
    if shard is not None:
        return _train_shard(config, plan, shard, console, arguments)
    _, outcome = _drive(config, plan, console, arguments)
    return 0 if outcome.complete else 1


def _request(arguments: Sequence[str]) -> tuple[Any, Plan, Shard | None, Console]:
    """Check a request and plan its cells; return configuration, plan, shard (if it asks for one), console."""
    with importing():
        from harness.config.compose import given_keys, load_benchmark

        config = load_benchmark(arguments)
        from harness.shards.part import parse_shard

        shard = None if config.shard is None else parse_shard(config.shard, os.environ)
        from harness.plan import make_plan
        from harness.study.display import show_datasets
        from reports.build import check_claims

    console = make_console()
    if unused := unused_address(config.tracking.uri):
        console.print(unused, markup=False, soft_wrap=True)
    plan = make_plan(config, given_keys(arguments))
    # Training takes hours, and an invalid file of claims would end it without a report.
    check_claims(config.report)
    show_datasets(console, plan)
    return config, plan, shard, console


def _show_plan(config: Any, plan: Plan, console: Console) -> int:
    """Print what the command would train, and return the exit status."""
    from harness.config.compose import var_path
    from harness.study.dry_run import show_plan

    stored = config.tracking.uri is not None or (var_path(config) / "mlflow.db").exists()
    show_plan(console, plan, config, stored)
    return 0


def _drive(
    config: Any, plan: Plan, console: Console, arguments: Sequence[str]
) -> tuple[Tracker, StudyOutcome]:
    """Run the plan, print its results, and return the tracker of the study and the outcome."""
    launcher, device = open_launcher(config, plan.cells, plan.folders())
    with contextlib.closing(launcher):
        tracker, outcome = _train(config, plan, device, launcher, console, arguments)
    from harness.study.display import closing_table, failure_table
    from reports.build import write_report

    if outcome.done_before == outcome.total:
        console.print(f"All {outcome.total} cells of study {plan.study!r} are done.", markup=False)
    console.print(closing_table(plan, outcome.comparable()))
    if outcome.failed:
        console.print(failure_table(outcome))
    without = sum(run.tags.get("weights") != "true" for run in outcome.runs.values()) if config.keep else 0
    if without:
        advice = "to train them again, delete their runs in MLflow, or give another study=NAME"
        reason = f"have no weights, because they were trained without keep=weights; {advice}."
        console.print(f"{without} cells {reason}", markup=False, soft_wrap=True)
    # An earlier driver may have trained all cells but died before it finished the report.
    if config.report.build:
        write_report(tracker, config.report)
        console.print(f"Report: {tracker.folder('reports') / 'index.html'}", markup=False, soft_wrap=True)
    browse = shell_command("ui", "reports.ui", plan.study, tracker.located())
    console.print(f"Browse the runs with `{browse}`.", markup=False, highlight=False, soft_wrap=True)
    return tracker, outcome


def _train_shard(
    config: Any,
    plan: Plan,
    shard: Shard,
    console: Console,
    arguments: Sequence[str],
) -> int:
    """Train a shard's cells, print what became of them and return the exit status."""
    with importing():
        from harness.shards.shard import collect_command, train_shard
        from harness.study.display import LiveDisplay, failure_table

    launcher, device = open_launcher(config, shard.of(plan.cells), plan.folders())
    with contextlib.closing(launcher), LiveDisplay(console) as display:
        outcome = train_shard(config, plan, shard, device, launcher, display, arguments)
    done = outcome.total - len(outcome.failed)
    cells = f"{done} of the {outcome.total} cells of shard {shard} of study {plan.study!r}"
    console.print(f"{cells} have a result.", markup=False)
    if outcome.failed:
        console.print(failure_table(outcome))
    advice = f"Log the results of all shards with `{collect_command(config)}`."
    console.print(advice, markup=False, highlight=False, soft_wrap=True)
    return 1 if outcome.failed else 0


def _train(
    config: Any, plan: Plan, device: str, launcher: Launcher, console: Console, arguments: Sequence[str]
) -> tuple[Tracker, StudyOutcome]:
    """Run the plan's cells; return the tracker of the study and the outcome."""
    with importing():
        from harness.config.compose import var_path
        from harness.study.display import LiveDisplay
        from harness.study.queue import Matrix
        from harness.study.session import Session
        from harness.tracking.tracker import Tracker

        tracker = Tracker(config.tracking.uri, var_path(config), plan.study)

    def labels(cell: Cell) -> Mapping[str, str]:
        return plan.tags.get(cell.cell_id, {})

    with LiveDisplay(console) as display:
        session = Session(config, plan, device, tracker, launcher, display, arguments)
        return tracker, session.drive(lambda writer: Matrix(plan.cells), labels, request=True)


if __name__ == "__main__":
    leave(main())

"""``python -m sweeps.run param=NAME|tune=METHOD KEY=VALUE ...``: run, resume and report a sweep.

Exit status: 0 all trials done, 1 some failed, 2 invalid request, 130 interrupted. Spawned workers import this
module again, so heavy imports are inside functions.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from harness.cli import importing, leave, make_console, run_command, unused_address
from harness.launchers.choose import open_launcher

if TYPE_CHECKING:
    from rich.console import Console

    from harness.launchers.base import Launcher
    from harness.plan import Plan
    from harness.study.writer import Writer
    from harness.tracking.tracker import Tracker
    from sweeps.space import Space
    from sweeps.trials import Trials

HELP = """\
usage: python -m sweeps.run param=NAME [KEY=VALUE ...]
       python -m sweeps.run tune=METHOD [KEY=VALUE ...]

Compares settings on the validation split, skips finished trials, and adds the sweep to the study's report.

  param=delta|xi|alpha|heads        a grid over settings of MS-Mix (Figure 4)
  param=FILE.yaml                   a search space of your own, written like those in sweeps/spaces/
  param=all                         all settings of MS-Mix, sampled by TPE; unpromising trials are pruned
  tune=METHOD                       the settings of any method (none: learning rate and dropout), by TPE;
                                    writes var/tuned/, which the benchmark reads with tuned=var/tuned
  backbones=[misa] datasets=[mosi] seeds=[1111,1112]
                                    one search per backbone and dataset; a trial averages over the seeds
  sweep.trials=30                   number of trials of a TPE search
  sweep.objective=loss              validation loss, or a validation metric such as mae
  sweep.name=NAME                   name of the sweep; changed settings need a new name
  sweep.storage=postgresql://USER@HOST/DATABASE
                                    database of Optuna's studies; default: a file below var_dir

All settings of python -m harness.benchmark are accepted, too. Search spaces: sweeps/spaces/."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    return run_command(_run, sys.argv[1:] if arguments is None else arguments, HELP)


def _run(arguments: Sequence[str]) -> int:
    with importing():
        from harness.config.compose import given_keys, load_sweep

        config = load_sweep(arguments)
        from harness.plan import make_plan
        from reports.build import check_claims
        from sweeps.request import check_request, left_out, space_of

    space = space_of(config)
    check_request(config, space, given_keys(arguments))
    config.methods, config.occlusion.protocols = [space.method], ["test"]
    from harness.study.display import show_datasets

    console = make_console()
    if unused := unused_address(config.tracking.uri):
        console.print(unused, markup=False, soft_wrap=True)
    plan = make_plan(config, given_keys(arguments))
    check_claims(config.report)
    show_datasets(console, plan)
    for sentence in left_out(config, arguments):
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    return _drive(config, plan, space, console)


def _drive(config: Any, plan: Plan, space: Space, console: Console) -> int:
    """Run the sweep, print its result and return the exit status."""
    launcher, device = open_launcher(config, plan.cells, plan.folders())
    with contextlib.closing(launcher):
        tracker, trials = _train(config, plan, space, device, launcher, console)
    from sweeps.display import closing_lines
    from sweeps.finish import conclude

    records = trials.final()
    if not trials.ended:
        console.print(f"All {len(records)} trials of the sweep {trials.sweep!r} are done.", markup=False)
    for line in chain(closing_lines(records), conclude(config, plan, tracker, trials)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 1 if any(record.state == "failed" for record in records) else 0


def _train(
    config: Any, plan: Plan, space: Space, device: str, launcher: Launcher, console: Console
) -> tuple[Tracker, Trials]:
    """Run the sweep's trials, and return the tracker and the trials."""
    # Workers need neither MLflow nor Optuna.
    with importing():
        from harness.config.compose import var_path
        from harness.study.session import Session
        from harness.tracking.tracker import SWEEP, Tracker
        from sweeps.display import SweepDisplay
        from sweeps.request import sweep_name
        from sweeps.trials import make_trials

        tracker = Tracker(config.tracking.uri, var_path(config), plan.study)

    trials: list[Trials] = []
    name, display = sweep_name(config), SweepDisplay(console)

    def begin(writer: Writer) -> Trials:
        trials.append(make_trials(config, plan, space, device, writer, display))
        trials[0].begin(config.retry == "diverged")
        return trials[0]

    with display:
        session = Session(config, plan, device, tracker, launcher, display)
        session.drive(begin, lambda cell: {SWEEP: name}, request=False)
    return tracker, trials[0]


if __name__ == "__main__":
    leave(main())

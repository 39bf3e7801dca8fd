"""``python -m sweeps.run param=NAME|tune=METHOD KEY=VALUE ...``: run a sweep, resume it, report it.

Exit status: 0 all trials done, 1 some failed, 2 the request is wrong, 130 interrupted. Everything heavy is
imported inside functions: spawned workers import this module again.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness.cli import importing, leave, make_console, run_command
from harness.launchers.choose import open_launcher
from harness.study.display import show_datasets

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

Tries settings on the validation split, skips what is done, and adds the sweep to the study's report.

  param=delta|xi|alpha|heads        a grid over settings of MS-Mix (Figure 4)
  param=FILE.yaml                   a search space of your own, written like those in sweeps/spaces/
  param=all                         all settings of MS-Mix, chosen by TPE, hopeless trials pruned
  tune=METHOD                       the settings of any method (none: learning rate and dropout), by TPE;
                                    writes var/tuned/, for the benchmark's tuned=var/tuned
  backbones=[misa] datasets=[mosi] seeds=[1111,1112]
                                    one search per backbone and dataset; a trial is the mean over the seeds
  sweep.trials=30                   the budget of a search by TPE
  sweep.objective=loss              what is optimised on the validation split, or a metric such as mae
  sweep.name=NAME                   a name of its own; a sweep goes on only with the request it began with
  sweep.storage=postgresql://USER@HOST/DATABASE
                                    where Optuna keeps its studies; default: a file below var_dir

and every setting of python -m harness.benchmark. Search spaces: sweeps/spaces/."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run_command(_run, sys.argv[1:] if arguments is None else arguments, HELP)


def _run(arguments: Sequence[str]) -> int:
    with importing():
        from harness.config.compose import given_keys, load_sweep

        config = load_sweep(arguments)
        from harness.plan import make_plan
        from sweeps.request import check_request, left_out, space_of

    space = space_of(config)
    check_request(config, space, given_keys(arguments))
    config.methods, config.occlusion.protocols = [space.method], ["test"]
    console = make_console()
    plan = make_plan(config, given_keys(arguments))
    show_datasets(console, plan)
    for sentence in left_out(config, arguments):
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    return _drive(config, plan, space, console)


def _drive(config: Any, plan: Plan, space: Space, console: Console) -> int:
    """Run the sweep and show how it ended; returns the exit status."""
    launcher, device = open_launcher(config, plan.cells, plan.folders())
    with contextlib.closing(launcher):
        tracker, supply = _train(config, plan, space, device, launcher, console)
    from sweeps.display import closing_lines
    from sweeps.finish import conclude
    from sweeps.request import sweep_name

    trials = supply.final()
    if not supply.ended:
        console.print(f"All {len(trials)} trials of the sweep {sweep_name(config)!r} are done.", markup=False)
    for line in closing_lines(trials):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for sentence in conclude(config, plan, tracker, supply):
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    return 1 if any(trial.state == "failed" for trial in trials) else 0


def _train(
    config: Any, plan: Plan, space: Space, device: str, launcher: Launcher, console: Console
) -> tuple[Tracker, Trials]:
    """Run the sweep's trials; what is imported here (MLflow and Optuna) is not needed by workers."""
    with importing():
        from harness.plan import var_path
        from harness.study.session import Session
        from harness.tracking.tracker import SWEEP, Tracker
        from sweeps.display import SweepDisplay
        from sweeps.request import sweep_name
        from sweeps.trials import make_queue

        tracker = Tracker(config.tracking.uri, var_path(config), plan.study)

    supplies: list[Trials] = []
    name, display = sweep_name(config), SweepDisplay(console)

    def begin(writer: Writer) -> Trials:
        supplies.append(make_queue(config, plan, space, device, writer, display))
        supplies[0].begin(config.retry == "diverged")
        return supplies[0]

    with display:
        session = Session(config, plan, device, tracker, launcher, display)
        session.drive(begin, lambda cell: {SWEEP: name}, request=False)
    return tracker, supplies[0]


if __name__ == "__main__":
    leave(main())

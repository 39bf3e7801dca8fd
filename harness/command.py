"""What the commands that train have in common: errors as sentences and exit statuses, signals, the console.

Exit status: 0 all done, 1 something has no result, 2 the request is wrong, 130 interrupted.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from harness import startup
from harness.errors import visible
from harness.interrupts import ignore_interrupts, raise_interrupts

if TYPE_CHECKING:
    from rich.console import Console

    from harness.launchers import Launcher
    from harness.plan import Plan


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether the usage is to be shown, whatever else is given."""
    return bool({"-h", "--help"} & set(arguments))


def run_command(action: Callable[[Sequence[str]], int], arguments: Sequence[str], usage: str) -> int:
    """Print the usage, or run a command; returns the exit status."""
    if asks_for_help(arguments):
        print(usage)
        return 0
    from harness.errors import StoreError, UserError

    raise_interrupts()
    try:
        return action(arguments)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except StoreError as error:
        print(f"Error: {error}; the same command resumes.", file=sys.stderr)
        return 1
    except OSError as error:
        where = f" {str(error.filename)!r}" if error.filename else ""
        sentence = f"Error: cannot use the file{where}: {error.strerror or error}"
        if error.errno == errno.ENAMETOOLONG:  # no waiting makes it shorter
            print(f"{sentence}.", file=sys.stderr)
            return 2
        print(f"{sentence}; the same command resumes.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        ignore_interrupts()
        print("Stopped; the same command resumes where it was.", file=sys.stderr)
        return 130


def leave(status: int) -> NoReturn:
    """End the process with this status."""
    # A signal from here on would replace the status of what is done.
    ignore_interrupts()
    startup.end(status)


def make_console() -> Console:
    """Where a command prints, names as they stand; wide where nobody's terminal says otherwise."""
    from rich.console import Console

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # it may know fewer signs than names have
    # Rich draws a picture for a name like "a:x:b" unless it is told not to.
    return Console(emoji=False, width=None if sys.stdout.isatty() else 120)


def open_launcher(config: Any, plan: Plan) -> tuple[Launcher, str]:
    """The launcher that was asked for, and the torch device of its cells; raises UserError.

    A pool's first worker imports what it needs from now on.
    """
    with startup.importing():
        from harness.launchers import make_launcher
        from harness.packing import choose_packing
        from harness.plan import resolve_device
        from harness.work import run_job

    if config.deterministic:
        # Without it cuBLAS is not deterministic; it is read when CUDA starts, here or in a worker.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if config.launcher.name == "ray":
        return _join_cluster(config)
    device = resolve_device(config.device)
    if config.compile:
        from harness.precision import check_compiler

        # With a small function, here rather than in every cell.
        check_compiler(device)
    folders = {name: data.folder for name, data in plan.datasets.items()}
    jobs, devices = choose_packing(config, plan.cells, folders, device)
    launcher = make_launcher(config.launcher.name, jobs, run_job, devices)
    launcher.start_worker()
    return launcher, device


def _join_cluster(config: Any) -> tuple[Launcher, str]:
    """The launcher on a Ray cluster, which may have GPUs where this machine has none."""
    from harness.launchers import Cluster
    from harness.launchers.ray import RayLauncher
    from harness.precision import check_precision
    from harness.work import run_job

    settings, share = config.launcher, config.launcher.gpus_per_cell
    if share is None and config.jobs_per_gpu is not None:
        share = 1 / config.jobs_per_gpu
    cluster = Cluster(settings.address, config.device, config.cell.threads, share, settings.max_retries)
    launcher = RayLauncher(config.jobs, run_job, cluster)
    try:
        check_precision(config.precision, launcher.device)
    except BaseException:
        launcher.close()
        raise
    launcher.start_worker()
    return launcher, launcher.device


def show_datasets(console: Console, plan: Plan) -> None:
    """Print where each dataset comes from, what was found in the user's, and the plan's notes."""
    for data in plan.datasets.values():
        source = visible(data.source)
        console.print(f"{data.name}: {source}", markup=False, highlight=False, soft_wrap=True)
        for note in () if data.synthetic else data.notes:
            console.print(f"  {visible(note)}", style="dim", markup=False, highlight=False, soft_wrap=True)
    for note in plan.notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)

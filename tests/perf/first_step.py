"""``python -m tests.perf.first_step FILE KEY=VALUE ...``: the benchmark, noting when it first trains.

It runs `harness.benchmark` as it stands, with one job replaced by the same job and a look at the clock: the
time (seconds since the epoch) at which the first training step begins is written to FILE.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import benchmark
from harness.launchers import choose
from harness.launchers.base import Job

NOTE = "PERF_FIRST_STEP"  # the environment hands the file's name to worker processes


def preload() -> None:
    """See `harness.launchers.job.preload`."""
    from harness.launchers import job as work

    work.preload()


def noting_job(job: Job) -> Any:
    """Run the job, and note when its first epoch begins."""
    from harness.launchers import job as work
    from harness.train import loop

    plain = loop.train_epoch

    def noting(*args: Any, **kwargs: Any) -> Any:
        loop.train_epoch = plain
        Path(os.environ[NOTE]).write_text(repr(time.time()), encoding="utf-8")
        return plain(*args, **kwargs)

    loop.train_epoch = noting
    try:
        return work.run_job(job)
    finally:
        loop.train_epoch = plain


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    os.environ[NOTE] = arguments[0]
    plain = choose.make_launcher
    choose.make_launcher = lambda name, jobs, work, *more: plain(name, jobs, noting_job, *more)
    try:
        return benchmark.main(arguments[1:])
    finally:
        choose.make_launcher = plain


if __name__ == "__main__":
    # Workers import the job by the module's own name.
    from tests.perf import first_step

    benchmark.leave(first_step.main(sys.argv[1:]))

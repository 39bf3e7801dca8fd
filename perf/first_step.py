"""``python -m perf.first_step FILE KEY=VALUE ...``: the benchmark's command, noting when it first trains.

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

from harness import benchmark, launchers
from harness.launchers import Job

NOTE = "PERF_FIRST_STEP"  # the environment hands the file's name to worker processes


def prepare() -> None:
    """See `harness.work.prepare`."""
    from harness import work

    work.prepare()


def noting_job(job: Job) -> Any:
    """Run the job, and note when its first epoch begins."""
    from harness import train, work

    plain = train.train_epoch

    def noting(*args: Any, **kwargs: Any) -> Any:
        train.train_epoch = plain
        Path(os.environ[NOTE]).write_text(repr(time.time()), encoding="utf-8")
        return plain(*args, **kwargs)

    train.train_epoch = noting
    try:
        return work.run_job(job)
    finally:
        train.train_epoch = plain


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    os.environ[NOTE] = arguments[0]
    plain = launchers.make_launcher
    launchers.make_launcher = lambda name, jobs, work, *more: plain(name, jobs, noting_job, *more)
    try:
        return benchmark.main(arguments[1:])
    finally:
        launchers.make_launcher = plain


if __name__ == "__main__":
    # Workers import the job by the module's own name.
    from perf import first_step

    benchmark.leave(first_step.main(sys.argv[1:]))

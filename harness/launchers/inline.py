"""A launcher that trains one cell at a time in this process, for debugging."""

from __future__ import annotations

import time

from harness.launchers.base import Job, Outcome, Work, attempt


class InlineLauncher:
    """A launcher with one slot; `wait` runs the submitted job, and so may exceed its timeout."""

    slots = 1

    def __init__(self, work: Work) -> None:
        self._work = work
        self._job: Job | None = None

    def start_worker(self) -> None:
        """Do nothing: this process is ready."""

    def submit(self, job: Job) -> None:
        """Store the job for `wait`."""
        assert self._job is None, "one job at a time"
        self._job = job

    def wait(self, timeout_s: float) -> list[Outcome]:
        """Run the submitted job to its end, or sleep if there is none; `KeyboardInterrupt` is not caught."""
        job, self._job = self._job, None
        if job is None:
            time.sleep(timeout_s)
            return []
        return [attempt(lambda: self._work(job), job)]

    def close(self) -> None:
        """Drop the submitted job."""
        self._job = None

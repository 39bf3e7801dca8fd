"""A launcher with a pool of worker processes; a worker that dies costs only its own cell.

Workers are started on demand (the first one may be started early), run many jobs, and keep no state between
jobs. Each worker watches the driver and exits when the driver is gone. It imports nothing heavy before that
watch starts; then it imports the work and calls ``preload()`` of that module, if defined, ahead of any job.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for

from harness.errors import line_with_type
from harness.interrupts import interrupts_held
from harness.launchers.base import Job, Outcome, Work
from harness.launchers.worker import (
    ENVIRONMENT,
    answer,
    breaks_worker,
    from_bytes,
    name_of,
    pack_job,
    preload,
    to_bytes,
)

CONTEXT = multiprocessing.get_context("spawn")
GRACE_S = 1.0


class ProcessLauncher:
    """A launcher that runs up to ``slots`` jobs at once, each in its own process.

    devices: GPUs, shared evenly: each worker uses one of them for all jobs. Empty: each job names its own.
    """

    def __init__(self, slots: int, work: Work, devices: Sequence[str] = ()) -> None:
        self.slots = slots
        self._devices = devices
        self._work = name_of(work)
        self._workers: list[_Worker] = []
        self._outcomes: list[Outcome] = []

    def start_worker(self) -> None:
        """Start the first worker ahead of its first job."""
        if not self._workers:
            self._new_worker()

    def submit(self, job: Job) -> None:
        """Send the job to an idle worker, or to a new one."""
        try:
            payload = pack_job(job)
        except Exception as error:
            reason = f"the job cannot be sent to a worker: {line_with_type(error)}"
            self._outcomes.append(Outcome(job, None, reason))
            return
        worker = self._idle_worker()
        if worker.device is not None:
            payload = pack_job(replace(job, device=worker.device))
        worker.take(job, payload)

    def wait(self, timeout_s: float) -> list[Outcome]:
        """Return the outcomes that arrived; a dead worker yields one too, and is replaced for later jobs."""
        busy = [worker for worker in self._workers if worker.job is not None]
        handles = [handle for worker in busy for handle in (worker.channel, worker.process.sentinel)]
        ready = wait_for(handles, 0 if self._outcomes else timeout_s)
        with interrupts_held():  # a received result exists only here
            for worker in busy:
                # A child process of the job keeps the sentinel from firing, so the process is polled as well.
                if worker.channel in ready or not worker.process.is_alive():
                    self._outcomes.append(worker.collect())
            self._workers = [worker for worker in self._workers if not worker.dead]
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def close(self) -> None:
        """Terminate all workers, and kill those that are still alive after a second."""
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.process.terminate()
        deadline = time.monotonic() + GRACE_S
        for worker in workers:
            worker.end(max(0.0, deadline - time.monotonic()))

    def _idle_worker(self) -> _Worker:
        for worker in [worker for worker in self._workers if worker.job is None]:
            if worker.process.is_alive():
                return worker
            worker.end(0.0)
            self._workers.remove(worker)
        assert len(self._workers) < self.slots, "no free slot"
        return self._new_worker()

    def _new_worker(self) -> _Worker:
        devices = [worker.device for worker in self._workers]
        device = min(self._devices, key=devices.count, default=None)
        self._workers.append(_Worker(self._work, device))
        return self._workers[-1]


class _Worker:
    """The driver's side of one worker process; device: of all its jobs, None: each job names its own."""

    def __init__(self, work: str, device: str | None) -> None:
        self.job: Job | None = None
        self.device = device
        self.dead = False
        self.channel, theirs = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=_serve, args=(theirs, work), daemon=True)
        with _starting():
            self.process.start()
        # If the driver kept this end open, the channel would not close when the worker dies.
        theirs.close()

    def take(self, job: Job, payload: bytes) -> None:
        self.job = job
        with contextlib.suppress(OSError):  # the worker died, which `collect` reports
            self.channel.send_bytes(payload)

    def collect(self) -> Outcome:
        """Return the outcome of the job, which has ended or lost its process."""
        job, self.job = self.job, None
        assert job is not None
        payload = self._receive()
        if payload is None:
            self.dead = True
            return Outcome(job, None, f"worker died ({_cause_of_death(self.end(GRACE_S))})")
        outcome = from_bytes(payload, job)
        if breaks_worker(outcome):
            self.dead = True
            self.end(0.0)
        return outcome

    def _receive(self) -> bytes | None:
        try:
            # A child process of a dead worker may keep the channel open: never block.
            return self.channel.recv_bytes() if self.channel.poll(0) else None
        except (EOFError, OSError):
            return None

    def end(self, grace_s: float) -> int:
        """Join the process, kill it after ``grace_s``, free its resources and return its exit code."""
        self.process.join(grace_s)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        code = self.process.exitcode
        self.channel.close()
        self.process.close()
        return int(code or 0)


def usable_cores() -> int:
    """Return the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cause_of_death(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    if -code == signal.SIGKILL:
        return f"signal {-code}: killed; often out of memory"
    return f"signal {-code}: {signal.strsignal(-code)}"


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    """Set what a worker inherits: one thread in the maths libraries, Ctrl-C blocked, an empty main module."""
    # Started first, since its start unblocks Ctrl-C.
    resource_tracker.ensure_running()
    environment = {name: os.environ.get(name) for name in ENVIRONMENT}
    main = sys.modules["__main__"]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.environ.update(ENVIRONMENT)
    # Otherwise each worker would import the driver's main module before it watches the driver.
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        for name, value in environment.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _serve(channel: Connection, work: str) -> None:
    """Run jobs until the channel closes (in the worker)."""
    threading.Thread(target=_leave_with_driver, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # An error here is raised again by the first job, which reports it.
    with contextlib.suppress(Exception, SystemExit):
        preload(work)
    with contextlib.suppress(EOFError, OSError):  # the driver is gone, or has closed the pool
        while True:
            channel.send_bytes(to_bytes(answer(channel.recv_bytes(), work)))


def _leave_with_driver() -> None:
    driver = multiprocessing.parent_process()
    assert driver is not None
    driver.join()
    os._exit(1)

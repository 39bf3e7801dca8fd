"""The worker's side of every launcher: import the work, answer a job.

Nothing heavy is imported before `preload` or `answer` is called.
"""

from __future__ import annotations

import importlib
import pickle
import sys
from dataclasses import replace
from typing import Any

from harness.cli import importing
from harness.launchers.base import Job, Outcome, Work, attempt

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # glibc gives large blocks back to the system at once and takes them anew, page by page, at every step:
    # a third of a TFN step's time at MOSI size. Kept, they are used again. Other systems ignore these.
    "MALLOC_MMAP_THRESHOLD_": str(2**31),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
}


def name_of(work: Work) -> str:
    """The name under which workers import the work; it must be a module's function."""
    name = f"{work.__module__}:{work.__qualname__}"
    module = sys.modules[work.__module__]
    assert getattr(module, work.__qualname__, None) is work, f"workers cannot import {name}"
    return name


def resolve(name: str) -> Any:
    """The function that `name_of` named."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def preload(work: str) -> None:
    """Import the work, and call ``preload()`` of its module, if there is one."""
    with importing():
        module = importlib.import_module(work.partition(":")[0])
        getattr(module, "preload", lambda: None)()


def answer(payload: bytes, work: str) -> Outcome:
    """Do a job; importing the work and reading the job may fail as well, then that is the job's reason."""
    return attempt(lambda: resolve(work)(read_job(payload)))


def read_job(payload: bytes) -> Job:
    """The job that a driver pickled."""
    job = pickle.loads(payload)  # noqa: S301  (written by our driver)
    assert isinstance(job, Job)
    return job


def to_bytes(outcome: Outcome) -> bytes:
    """A worker's outcome as it is sent to the driver."""
    pickled = attempt(lambda: pickle.dumps(outcome))
    if pickled.error is not None:
        error = f"the result cannot be sent to the driver: {pickled.error}"
        return pickle.dumps(replace(pickled, error=error))
    assert pickled.result is not None
    return bytes(pickled.result)


def from_bytes(payload: bytes, job: Job) -> Outcome:
    """The outcome of a job at the driver; an error in reading it is the outcome otherwise."""
    received = attempt(lambda: pickle.loads(payload))  # noqa: S301  (written by our worker)
    outcome: Any = received if received.error is not None else received.result
    return replace(outcome, job=job)


def breaks_worker(outcome: Outcome) -> bool:
    """Whether an error came from the device: it leaves a context in which every later job would fail too."""
    return outcome.error is not None and "CUDA" in outcome.error

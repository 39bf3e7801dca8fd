"""The worker's side of every launcher: find the work, prepare for it, answer a job.

Nothing heavy is imported before `prepare` or `answer` is called.
"""

from __future__ import annotations

import importlib
import pickle
from typing import Any

from harness.cli import importing
from harness.launchers.base import Attempt, Job, Work, attempt

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
    assert attempt(lambda: resolve(name)).result is work, f"workers cannot import {name}"
    return name


def resolve(name: str) -> Any:
    """The function that `name_of` named."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def prepare(work: str) -> None:
    """Import the work, and call ``prepare()`` of its module, if there is one."""
    with importing():
        module = importlib.import_module(work.partition(":")[0])
        getattr(module, "prepare", lambda: None)()


def answer(payload: bytes, work: str) -> Attempt:
    """Do a job; importing the work and reading the job may fail as well, then that is the job's reason."""
    return attempt(lambda: resolve(work)(read_job(payload)))


def read_job(payload: bytes) -> Job:
    """The job that a driver pickled."""
    job = pickle.loads(payload)  # noqa: S301  (written by our driver)
    assert isinstance(job, Job)
    return job


def packed(done: Attempt) -> bytes:
    """An answer as it is sent to the driver."""
    packed = attempt(lambda: pickle.dumps(tuple(done)))
    if packed.result is not None:
        return bytes(packed.result)
    return pickle.dumps((None, f"the result cannot be sent to the driver: {packed.error}", packed.traceback))


def unpacked(payload: bytes) -> Attempt:
    """The inverse of `packed`, at the driver; what cannot be read has that as its reason."""
    received = attempt(lambda: Attempt(*pickle.loads(payload)))  # noqa: S301  (written by our worker)
    return received if received.result is None else received.result


def breaks_worker(done: Attempt) -> bool:
    """Whether an error came from the device: it leaves a context in which every later job would fail too."""
    return done.error is not None and "CUDA" in done.error

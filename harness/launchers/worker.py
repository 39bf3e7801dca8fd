"""The worker's side of every launcher: import the work, run a job, return its outcome.

Nothing heavy is imported before `preload` or `answer` is called.
"""

from __future__ import annotations

import importlib
import pickle
import re
import sys
from dataclasses import replace
from typing import Any

from harness import plugins
from harness.cli import importing
from harness.launchers.base import Job, Outcome, Work, attempt

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # By default glibc returns large blocks to the system and maps them again at every step, which takes a
    # third of a TFN step's time at MOSI size. With these variables it reuses them; other systems ignore them.
    "MALLOC_MMAP_THRESHOLD_": str(2**31),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
}
# As PyTorch words errors of CUDA and its libraries, for example "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED".
CUDA_ERROR = re.compile(r"CUDA|cuDNN error|CU(DNN|BLAS|SOLVER|SPARSE|FFT)_|NVRTC")


def name_of(work: Work) -> str:
    """Return the name by which workers import the work, which must be a module-level function."""
    name = f"{work.__module__}:{work.__qualname__}"
    module = sys.modules[work.__module__]
    assert getattr(module, work.__qualname__, None) is work, f"workers cannot import {name}"
    return name


def resolve(name: str) -> Any:
    """Return the function that `name_of` named."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def preload(work: str) -> None:
    """Import the module of the work, and call its ``preload()`` if it has one."""
    with importing():
        module = importlib.import_module(work.partition(":")[0])
        getattr(module, "preload", lambda: None)()


def answer(payload: bytes, work: str) -> Outcome:
    """Run a job; errors in importing the work or reading the job are returned as its outcome, too."""
    return attempt(lambda: resolve(work)(read_job(payload)))


def pack_job(job: Job) -> bytes:
    """Pickle a job with the code of the plugins in use, so that a worker needs none of their files."""
    return pickle.dumps((plugins.loaded(), pickle.dumps(job)))


def read_job(payload: bytes) -> Job:
    """Return the job that `pack_job` pickled; register its plugins first, whose classes the job holds."""
    own, content = pickle.loads(payload)  # noqa: S301  (written by our driver)
    plugins.load(own)
    job = pickle.loads(content)  # noqa: S301
    assert isinstance(job, Job)
    return job


def to_bytes(outcome: Outcome) -> bytes:
    """Pickle a worker's outcome for the driver; if that fails, pickle the error instead."""
    pickled = attempt(lambda: pickle.dumps(outcome))
    if pickled.error is not None:
        error = f"the result cannot be sent to the driver: {pickled.error}"
        return pickle.dumps(replace(pickled, error=error))
    assert pickled.result is not None
    return bytes(pickled.result)


def from_bytes(payload: bytes, job: Job) -> Outcome:
    """Unpickle a job's outcome in the driver; if that fails, the error becomes the outcome."""
    received = attempt(lambda: pickle.loads(payload))  # noqa: S301  (written by our worker)
    outcome: Any = received if received.error is not None else received.result
    return replace(outcome, job=job)


def breaks_worker(outcome: Outcome) -> bool:
    """Return whether a CUDA error broke the worker: all later jobs in its CUDA context would fail, too."""
    return outcome.error is not None and CUDA_ERROR.search(outcome.error) is not None

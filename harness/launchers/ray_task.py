"""The task that launcher "ray" runs in the workers of a cluster."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.launchers.base import Job, attempt
from harness.launchers.worker import breaks_worker, preload, read_job, resolve, to_bytes

_READY: list[str] = []  # the work that this worker has preloaded
_BROKEN: list[str] = []  # why this worker can run no more jobs
_VISIBLE: list[str | None] = []  # the GPUs of this worker's first job, to which CUDA binds the process
LEAVE_S = 0.5  # seconds between such a reason and the worker's exit, in which the answer is sent
REFUSED = b""  # the answer of a worker that can run no job


def get_ready(work: str) -> None:
    """Preload the work once, and ignore Ctrl-C, which only the driver handles."""
    if work not in _READY:
        _READY.append(work)
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        # An error here is raised again by the job, which reports it.
        with contextlib.suppress(Exception, SystemExit):
            preload(work)


def run(
    work: str, payload: bytes, checkpoint: bytes | None, names: tuple[str, ...], *parcels: Any
) -> tuple[bytes, bytes | None]:
    """Run a job; return the pickled outcome and, if it paused away from the driver's disk, its checkpoint."""
    if _BROKEN or _bound_elsewhere():
        return REFUSED, None
    get_ready(work)
    checkpoints: list[bytes | None] = [None]

    def do() -> Any:
        job = _with_local_paths(read_job(payload), dict(zip(names, parcels, strict=True)))
        with _checkpoint_at_hand(job, checkpoint) as (job, remote):
            result = resolve(work)(job)
            if remote and job.pause_after is not None:
                checkpoints[0] = bytes_of(job.checkpoint)
        return result

    outcome = attempt(do)
    if breaks_worker(outcome):
        _leave(str(outcome.error))
    _release_memory()
    return to_bytes(outcome), checkpoints[0]


def _bound_elsewhere() -> bool:
    """Return whether Ray assigned other GPUs than to this worker's first job; if so, the worker exits."""
    # Ray sets this variable for each task, but CUDA reads it only once:
    # https://github.com/ray-project/ray/issues/3245
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not _VISIBLE:
        _VISIBLE.append(visible)
    if _VISIBLE[0] == visible:
        return False
    _leave(f"the worker is bound to the GPUs {_VISIBLE[0]}, not {visible}")
    return True


def _leave(reason: str) -> None:
    """End the worker soon; until then it refuses jobs, so that none is lost."""
    _BROKEN.append(reason)
    threading.Timer(LEAVE_S, os._exit, (1,)).start()


def _release_memory() -> None:
    """Free unused GPU memory: Ray may give the GPU to another worker while this one is idle."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        # After a fatal error, each call fails, and the worker leaves anyway.
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()


def _with_local_paths(job: Job, parcels: Mapping[str, Any]) -> Job:
    """Return the job with paths that are valid on this node."""
    if not parcels:
        return job
    from harness.launchers.shipping import node_cache, write_parcel

    paths: dict[str, Any] = {
        name: str(write_parcel(parcel, node_cache())) for name, parcel in parcels.items()
    }
    return replace(job, **paths)


@contextlib.contextmanager
def _checkpoint_at_hand(job: Job, content: bytes | None) -> Iterator[tuple[Job, bool]]:
    """Yield the job with a writable checkpoint path, and whether the driver cannot reach that path."""
    if job.checkpoint is None or Path(job.checkpoint).parent.is_dir():
        yield job, False
        return
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as folder:
        file = Path(folder) / Path(job.checkpoint).name
        if content is not None:
            file.write_bytes(content)
        yield replace(job, checkpoint=str(file)), True


def bytes_of(file: str | None) -> bytes | None:
    """Return the content of a file; None if it cannot be read."""
    try:
        return None if file is None else Path(file).read_bytes()
    except OSError:
        return None

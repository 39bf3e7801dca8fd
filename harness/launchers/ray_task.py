"""What launcher "ray" runs in the cluster's workers."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.launchers.base import Job, attempt
from harness.launchers.worker import breaks_worker, packed, prepare, read_job, resolve

_READY: list[str] = []  # the work that this worker has prepared
_BROKEN: list[str] = []  # the error on the device after which no job can be done here
LEAVE_S = 0.5  # after such an error, for the answer to be sent
REFUSED = b""  # the answer of a worker that can do no job


def get_ready(work: str) -> None:
    """Prepare once; Ctrl-C in a terminal is the driver's affair."""
    if work not in _READY:
        _READY.append(work)
        attempt(lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
        # What fails here fails again with the job, and is its reason then.
        attempt(lambda: prepare(work))


def run(
    work: str, payload: bytes, checkpoint: bytes | None, names: tuple[str, ...], *parcels: Any
) -> tuple[bytes, bytes | None]:
    """Do a job; returns the packed answer and, where it paused far from the driver's disk, its checkpoint."""
    if _BROKEN:
        return REFUSED, None
    get_ready(work)
    kept: list[bytes | None] = []

    def do() -> Any:
        job = _unpacked(read_job(payload), dict(zip(names, parcels, strict=True)))
        with _checkpoint_at_hand(job, checkpoint) as (job, far):
            result = resolve(work)(job)
            kept.append(bytes_of(job.checkpoint) if far and job.pause_after is not None else None)
        return result

    done = attempt(do)
    if breaks_worker(done):
        _BROKEN.append(str(done.error))
        # Until then it refuses jobs, so that none is lost with it.
        threading.Timer(LEAVE_S, os._exit, (1,)).start()
    return packed(done), (kept or [None])[0]


def _unpacked(job: Job, parcels: Mapping[str, Any]) -> Job:
    """The job with the paths that hold on this node."""
    if not parcels:
        return job
    from harness.launchers.shipping import node_cache, unpack

    here: dict[str, Any] = {name: str(unpack(parcel, node_cache())) for name, parcel in parcels.items()}
    return replace(job, **here)


@contextlib.contextmanager
def _checkpoint_at_hand(job: Job, content: bytes | None) -> Iterator[tuple[Job, bool]]:
    """The job with a checkpoint that can be written, and whether it is out of the driver's reach."""
    if job.checkpoint is None or Path(job.checkpoint).parent.is_dir():
        yield job, False
        return
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as folder:
        file = Path(folder) / Path(job.checkpoint).name
        if content is not None:
            file.write_bytes(content)
        yield replace(job, checkpoint=str(file)), True


def bytes_of(file: str | None) -> bytes | None:
    """What a file holds; None where there is none."""
    try:
        return None if file is None else Path(file).read_bytes()
    except OSError:
        return None

"""Where cells are trained: in this process, in a pool of worker processes, or on a Ray cluster.

A launcher takes jobs and hands outcomes back in the order in which they end. It knows nothing of what a job
does: ``work`` is a module-level function from a `Job` to a result.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from harness.errors import UserError


@dataclass(frozen=True)
class Job:
    """One cell to train.

    data: path of the folder that holds the stored dataset. device: "cpu", "cuda", "cuda:1".
    resident: where the dataset's tensors live, "auto", "device" or "host". checkpoint: file of a state to
    go on from, if it is there; checkpoint_s: least time between two writes of it, None: only to pause.
    text_model: folder of a pretrained text encoder; text_states: folder of its states, where it is frozen.
    pause_after: an epoch after which a training stops that would go on; then its checkpoint is written.
    sample: also store latents for figures. truth: file of a synthetic dataset's truth, for mechanism checks.
    """

    cell: Any
    data: str
    device: str
    resident: str = "auto"
    checkpoint: str | None = None
    checkpoint_s: float | None = None
    text_model: str | None = None
    text_states: str | None = None
    sample: bool = False
    truth: str | None = None
    pause_after: int | None = None


@dataclass(frozen=True)
class Outcome:
    """How a job ended: ``result`` is what ``work`` returned, or ``error`` says in one line why there is none.

    traceback: the full text behind ``error``; None where there is none (a worker that died).
    """

    job: Job
    result: Any | None
    error: str | None = None
    traceback: str | None = None


Work = Callable[[Job], Any]


class Launcher(Protocol):
    """What the driver sees of a pool."""

    @property
    def slots(self) -> int:
        """How many jobs may be in flight; it may change while nodes come and go."""

    def start_worker(self) -> None:
        """Get ready for the first job before there is one; nothing where jobs run in this process."""

    def submit(self, job: Job) -> None:
        """Take a job; at most ``slots`` may be in flight."""

    def wait(self, timeout_s: float) -> list[Outcome]:
        """Outcomes that came in, at least one unless ``timeout_s`` went by."""

    def close(self) -> None:
        """End all workers at once; jobs in flight are lost."""


class Attempt(NamedTuple):
    """The part of an `Outcome` that a worker knows."""

    result: Any | None
    error: str | None = None
    traceback: str | None = None


def attempt(action: Callable[[], Any]) -> Attempt:
    """Call ``action``; whatever it raises, except `KeyboardInterrupt`, becomes the reason."""
    try:
        return Attempt(action())
    except (Exception, SystemExit) as error:
        return Attempt(None, describe(error), traceback.format_exc())


def describe(error: BaseException) -> str:
    """One line for people; the name of the exception is left out where the sentence is meant for the user."""
    lines = str(error).strip().splitlines()
    if isinstance(error, UserError) and lines:
        return lines[0]
    name = type(error).__name__
    return f"{name}: {lines[0]}" if lines else name


@dataclass(frozen=True)
class Cluster:
    """What launcher "ray" needs to know.

    address: HOST:PORT of a cluster's head, or "auto"; None: one is started on this machine. device: "auto",
    "cpu" or "cuda". cpus_per_cell, gpus_per_cell: what a cell takes, a GPU in parts or whole; None: one GPU.
    max_retries: how often a cell is tried again whose worker or node died.
    """

    address: str | None = None
    device: str = "auto"
    cpus_per_cell: int = 1
    gpus_per_cell: float | None = None
    max_retries: int = 3

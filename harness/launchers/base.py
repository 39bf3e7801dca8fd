"""Jobs, outcomes, and the protocol of all launchers.

A launcher accepts jobs and returns outcomes in the order in which the jobs end. To run a job it calls
``work``, a module-level function from a `Job` to a result.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from harness.errors import line_with_type


@dataclass(frozen=True)
class Job:
    """One cell to train.

    data: path of the folder that holds the stored dataset. device: "cpu", "cuda", "cuda:1". resident: where
    the dataset's tensors are kept, "auto", "device" or "host". checkpoint: file to resume from, if it exists;
    checkpoint_s: minimum seconds between writes of it, None: write it only to pause. text_model: folder of a
    pretrained text encoder; text_states: folder of its hidden states, if it is frozen. pause_after: epoch
    after which an unfinished training saves its checkpoint and stops. sample: also store latents for figures.
    truth: file with the ground truth of a synthetic dataset, for mechanism checks. keep_weights: also return
    the best weights.
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
    keep_weights: bool = False


@dataclass(frozen=True)
class Outcome:
    """The end of a job: ``result`` is the return value of ``work``, or ``error`` is its error in one line.

    job: None in a worker, since only the driver holds the job as it was submitted. traceback: the full
    traceback of ``error``; None without one (a dead worker).
    """

    job: Any
    result: Any | None
    error: str | None = None
    traceback: str | None = None


Work = Callable[[Job], Any]


class Launcher(Protocol):
    """The interface of all launchers."""

    @property
    def slots(self) -> int:
        """Maximum number of jobs in flight; it may change when nodes join or leave."""

    def start_worker(self) -> None:
        """Prepare a worker ahead of the first job; no effect if jobs run in this process."""

    def submit(self, job: Job) -> None:
        """Accept a job; at most ``slots`` may be in flight."""

    def wait(self, timeout_s: float) -> list[Outcome]:
        """Return the outcomes that arrived, at least one unless ``timeout_s`` seconds passed."""

    def close(self) -> None:
        """Terminate all workers at once; jobs in flight are lost."""


def attempt(action: Callable[[], Any], job: Job | None = None) -> Outcome:
    """Call ``action`` and return its outcome; exceptions other than `KeyboardInterrupt` become its error."""
    try:
        return Outcome(job, action())
    except (Exception, SystemExit) as error:
        return Outcome(job, None, line_with_type(error), traceback.format_exc())

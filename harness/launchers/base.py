"""Jobs, outcomes, and the protocol of all launchers.

A launcher takes jobs and hands outcomes back in the order in which they end. It knows nothing of what a job
does: ``work`` is a module-level function from a `Job` to a result.
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

    job: None in a worker, for only the driver has the job as it was handed in. traceback: the full text
    behind ``error``; None where there is none (a worker that died).
    """

    job: Any
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


def attempt(action: Callable[[], Any], job: Job | None = None) -> Outcome:
    """Call ``action``; whatever it raises, except `KeyboardInterrupt`, becomes the reason."""
    try:
        return Outcome(job, action())
    except (Exception, SystemExit) as error:
        return Outcome(job, None, line_with_type(error), traceback.format_exc())

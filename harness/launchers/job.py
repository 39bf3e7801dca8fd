"""The work of a job: load the data, set the threads, train, measure time and memory."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from harness.code import code_tags
from harness.data.store import load_dataset
from harness.data.strict.npy import read_npz
from harness.data.text_inputs import with_text
from harness.errors import UserError, printable
from harness.launchers.base import Job
from harness.train.arithmetic import set_arithmetic
from harness.train.checkpoint import Checkpoint, identity_of
from harness.train.device import device_name, peak_memory_mb, reset_peak_memory, start_device
from harness.train.inspection import Inspection
from harness.train.loop import train
from harness.train.result import Diverged, Result


def preload() -> None:
    """Import what the first training needs: torch's optimizers load its compiler, which takes a second."""
    import torch._dynamo  # noqa: F401


def run_job(job: Job) -> Result:
    """Train and evaluate ``job.cell``; return a result even if it diverged, and raise any other error."""
    cell = job.cell
    device = torch.device(job.device)
    torch.set_num_threads(cell.threads)
    start_device(device)
    set_arithmetic(cell.precision, cell.deterministic, device)
    started, cpu_started = time.perf_counter(), time.process_time()
    reset_peak_memory(device)
    try:
        dataset = with_text(load_dataset(Path(job.data)), cell.text, _path(job.text_states))
        checkpoint, text_model = _checkpoint(job, device), _path(job.text_model)
        inspection = Inspection(job.sample, _truth(job.truth), job.keep_weights)
        result = train(cell, dataset, device, job.resident, checkpoint, text_model, inspection)
    except Diverged as error:
        result = Result("diverged", reason=str(error))
    numbers = {
        "wall_s": time.perf_counter() - started,
        "cpu_s": time.process_time() - cpu_started,
        "peak_memory_mb": peak_memory_mb(device),
    }
    environment = {**result.environment, "device": device_name(device), "torch": torch.__version__}
    environment |= code_tags(cell)
    return replace(result, cell={**result.cell, **numbers}, environment=environment)


def _checkpoint(job: Job, device: torch.device) -> Checkpoint | None:
    if job.checkpoint is None:
        return None
    identity = identity_of(job.cell, device)
    return Checkpoint(Path(job.checkpoint), job.checkpoint_s, identity, job.pause_after)


def _truth(file: str | None) -> dict[str, np.ndarray] | None:
    """Return the ground truth of the synthetic test split; None if there is no file."""
    if file is None or not Path(file).exists():
        return None
    try:
        stored = read_npz(Path(file))
        return {key: stored[f"test/{key}"] for key in ("u", "a")}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"The ground truth {file!r} is damaged ({printable(error)}); "
            "delete it and run again, which skips the mechanism checks."
        ) from error


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)

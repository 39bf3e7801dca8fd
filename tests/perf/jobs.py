"""What workers do for `cells` and `trials`: answer at once, or train and say where time went."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from harness.launchers import job as work
from harness.launchers.base import Job
from harness.metrics import METRICS
from harness.train import loop
from harness.train.result import Predictions, Result
from tests.perf.stopwatch import Watched, watched

# As many points and clips as the cells of the quick profile have.
EPOCHS, CURVES, TEST_CLIPS = 12, 22, 686

# Building is the start of a training: network, method, optimizer, the copy of the best weights.
PARTS: dict[str, Watched] = {
    "own": {"loading": (work, ("load_dataset",)), "building": (loop, ("start_or_resume",))},
    "others": {"scoring": (loop, ("final_result",)), "inspecting": (loop, ("inspect",))},
}


def preload() -> None:
    """See `harness.launchers.job.preload`."""
    work.preload()


def ready_result(job: Job, loss: float = 0.5) -> Result:
    """A result as large as one of MOSI, without a training."""
    generator = np.random.default_rng(0)
    scores = dict.fromkeys(METRICS[job.cell.metrics], 0.5) | {"loss": loss}
    keys = ["valid", *("test" if not r else f"test_r{r:.2f}" for r in job.cell.ratios)]
    values = generator.standard_normal(TEST_CLIPS).astype(np.float32)
    ids = np.array([f"video_{i // 20}$_${i % 20}" for i in range(TEST_CLIPS)])
    return Result(
        "complete",
        {key: scores for key in keys},
        cell={"train_s": 1.0, "epoch_s": 0.1},
        curves={f"curve_{i}": generator.standard_normal(EPOCHS).tolist() for i in range(CURVES)},
        predictions=Predictions(ids, values, {ratio: values for ratio in job.cell.ratios}),
    )


def timed_job(job: Job) -> Result:
    """Run a job; its result also has where the time beside its epochs went, see `worker_overhead`."""
    started = time.perf_counter()
    with watched(PARTS["own"]) as own, watched(PARTS["others"]) as others:
        result = work.run_job(job)
    taken = time.perf_counter() - started - sum(result.curves["epoch_s"]) - sum(others.values())
    parts = {"cell": taken, **own, **others}
    measured = {f"perf_{name}_ms": 1e3 * seconds for name, seconds in parts.items()}
    return replace(result, cell={**result.cell, **measured})

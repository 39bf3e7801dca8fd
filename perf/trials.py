"""What a trial costs beside its trainings: Optuna, MLflow, ledger and driver.

A sweep by TPE, two seeds per trial, whose trainings return a ready result at once, on two worker processes
and fresh local stores; once with hopeless trials pruned, as by default, and once without.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from harness.command import make_console
from harness.config import load_sweep
from harness.launchers import Job, make_launcher
from harness.metrics import METRICS
from harness.plan import make_plan
from harness.records import Trial
from harness.result import Predictions, Result
from harness.session import Session
from harness.tracking import Tracker
from harness.writer import Writer
from perf.rows import Part, Row
from perf.stopwatch import Watched, watched
from sweeps.display import SweepDisplay
from sweeps.search import Search
from sweeps.space import load_space
from sweeps.supply import Trials, make_supply

BOUND_MS = 150.0
TRIALS, WARM_UP = 40, 5  # the first ones wait for the workers to start
# As many points and clips as the cells of the quick profile have.
WORKERS, EPOCHS, CURVES, TEST_CLIPS = 2, 12, 22, 686
WAYS = {"with pruning": True, "without": False}
WATCHED: Watched = {
    "MLflow, cells": (Tracker, ("log", "finish")),
    "MLflow, trial": (Tracker, ("log_trial",)),
    "Optuna and claims": (Search, ("next", "report", "tell")),
}


class Quiet(SweepDisplay):
    """Notes when trials end, and says nothing."""

    def __init__(self) -> None:
        super().__init__(make_console())
        self.ends: list[float] = []

    def trial_ended(self, trial: Trial) -> None:
        """Take the time."""
        self.ends.append(time.perf_counter())


def ready_result(job: Job) -> Result:
    """A result as large as one of MOSI, without a training; the loss follows delta."""
    generator = np.random.default_rng(0)
    loss = (job.cell.method_settings.delta - 0.4) ** 2
    if job.pause_after is not None:
        return Result("paused", curves={"valid_loss": [1 + loss] * job.pause_after})
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


def cost_ms(trials: int, pruned: bool) -> dict[str, float]:
    """Milliseconds per trial, as the mean over the trials after the first ones, and where they went."""
    with tempfile.TemporaryDirectory() as folder:
        asked = [
            f"var_dir={folder}",
            "study=perf",
            "profile=quick",
            "backbones=[tfn]",
            f"sweep.trials={trials}",
        ]
        config = load_sweep(["param=all", *asked])
        config.methods = ["ms_mix"]
        if not pruned:
            config.sweep.prune_at = []
        plan, display = make_plan(config), Quiet()
        tracker = Tracker(None, Path(folder), "perf")
        launcher = make_launcher("processes", WORKERS, ready_result)

        def begin(writer: Writer) -> Trials:
            supply = make_supply(config, plan, load_space("all"), writer, display)
            supply.begin()
            return supply

        with watched(WATCHED) as spent:
            try:
                session = Session(config, plan, "cpu", tracker, launcher, display)
                summary = session.drive(begin, lambda cell: {"sweep": "all"}, request=False)
            finally:
                launcher.close()
        assert summary.complete, summary.failed
    found = {"trial": 1e3 * float(np.diff(display.ends)[WARM_UP:].mean())}
    return found | {name: 1e3 * seconds / trials for name, seconds in spent.items()}


def measure(trials: int = TRIALS) -> Part:
    """Both ways of running a sweep; more trials than those to warm up."""
    rows: list[Row] = []
    for name, pruned in WAYS.items():
        found = cost_ms(trials, pruned)
        rows.append(Row(f"trial, {name}", found.pop("trial"), "ms", BOUND_MS))
        rows += [Row(f"{part}, {name}", value, "ms") for part, value in found.items()]
    how = f"Per trial of two seeds without its trainings, {WORKERS} workers, {trials} trials."
    return Part("trials", "What a trial of a sweep costs", how, tuple(rows))

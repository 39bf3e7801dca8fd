"""What a trial costs beside its trainings: Optuna, MLflow, ledger and driver.

A sweep by TPE, two seeds per trial, whose trainings return a ready result at once, on two worker processes
and fresh local stores; once with hopeless trials pruned, as by default, and once without.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from harness.cli import make_console
from harness.config.compose import load_sweep
from harness.launchers.base import Job
from harness.launchers.choose import make_launcher
from harness.plan import make_plan
from harness.study.session import Session
from harness.study.writer import Writer
from harness.tracking.tags import Trial
from harness.tracking.tracker import Tracker
from harness.train.result import Result
from sweeps.display import SweepDisplay
from sweeps.search import Search
from sweeps.space import load_space
from sweeps.trials import Trials, make_queue
from tests.perf.jobs import ready_result
from tests.perf.rows import Part, Row
from tests.perf.stopwatch import Watched, watched

BOUND_MS = 150.0
TRIALS, WARM_UP = 40, 5  # the first ones wait for the workers to start
WORKERS = 2
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


def ready_trial(job: Job) -> Result:
    """A ready result, or a pause where one is due; the loss follows delta."""
    loss = (job.cell.method_settings.delta - 0.4) ** 2
    if job.pause_after is not None:
        return Result("paused", curves={"valid_loss": [1 + loss] * job.pause_after})
    return ready_result(job, loss)


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
        launcher = make_launcher("processes", WORKERS, ready_trial)

        def begin(writer: Writer) -> Trials:
            supply = make_queue(config, plan, load_space("all"), "cpu", writer, display)
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

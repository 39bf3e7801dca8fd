"""``python -m sweeps.perf``: what a trial costs beside its trainings: Optuna, MLflow, ledger and driver.

A sweep by TPE, two seeds per trial, whose trainings return a ready result at once, on two worker processes
and fresh local stores; once with hopeless trials pruned, as by default, and once without. Writes
``sweeps.json`` and ``sweeps.md`` below ``var/perf``. Exit status: 0; 1 where a trial costs too much.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

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
from sweeps.display import SweepDisplay
from sweeps.search import Search
from sweeps.space import load_space
from sweeps.supply import Trials, make_supply

BOUND_MS = 150.0
WARM_UP = 5  # trials; the first ones wait for the workers to start
# As many points and clips as the cells of the quick profile have.
WORKERS, EPOCHS, CURVES, TEST_CLIPS = 2, 12, 22, 686
WAYS = {"with pruning": True, "without": False}
WATCHED: dict[str, tuple[type, tuple[str, ...]]] = {
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


def measure(trials: int, pruned: bool) -> dict[str, float]:
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

        with watched() as spent:
            try:
                session = Session(config, plan, "cpu", tracker, launcher, display)
                summary = session.drive(begin, lambda cell: {"sweep": "all"}, request=False)
            finally:
                launcher.close()
        assert summary.complete, summary.failed
    found = {"trial": 1e3 * float(np.diff(display.ends)[WARM_UP:].mean())}
    return found | {name: 1e3 * seconds / trials for name, seconds in spent.items()}


class watched:
    """Adds up the seconds spent in the calls of `WATCHED`."""

    def __enter__(self) -> dict[str, float]:
        self.spent: dict[str, float] = defaultdict(float)
        self.plain = [(kind, name, getattr(kind, name)) for kind, names in WATCHED.values() for name in names]
        for label, (kind, names) in WATCHED.items():
            for name in names:
                setattr(kind, name, self._timed(getattr(kind, name), label))
        return self.spent

    def __exit__(self, *_: object) -> None:
        for kind, name, method in self.plain:
            setattr(kind, name, method)

    def _timed(self, method: Callable[..., Any], label: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self.spent[label] += time.perf_counter() - started

        return call


def table(found: dict[str, dict[str, float]], trials: int) -> Iterator[str]:
    """Lines of a Markdown table, a column per way of running the sweep."""
    yield f"Milliseconds per trial of two seeds without its trainings, {WORKERS} workers, {trials} trials."
    yield ""
    yield f"| part | {' | '.join(found)} |"
    yield "|---|" + "---|" * len(found)
    for part in next(iter(found.values())):
        values = " | ".join(f"{parts[part]:.0f}" for parts in found.values())
        yield f"| {part} | {values} |"
    yield ""
    yield f"The bound of {BOUND_MS:.0f} ms per trial {'holds' if holds(found) else 'is BROKEN'}."


def holds(found: dict[str, dict[str, float]]) -> bool:
    """Whether a trial costs no more than its bound."""
    return all(parts["trial"] <= BOUND_MS for parts in found.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write the table; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m sweeps.perf", description=__doc__, allow_abbrev=False)
    parser.add_argument("--trials", type=int, default=40, help="trials of the sweep (default: 40)")
    parser.add_argument("--var-dir", default="var", help="where perf/ is written (default: var)")
    options = parser.parse_args(arguments)
    if options.trials <= WARM_UP + 1:
        print(f"Error: --trials must be above {WARM_UP + 1}, however: {options.trials}.", file=sys.stderr)
        return 2
    found = {name: measure(options.trials, pruned) for name, pruned in WAYS.items()}
    text = "\n".join(table(found, options.trials))
    print(text)
    folder = Path(options.var_dir) / "perf"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweeps.md").write_text(text + "\n", encoding="utf-8")
    stored = {"trials": options.trials, "workers": WORKERS, "bound_ms": BOUND_MS, "ms_per_trial": found}
    (folder / "sweeps.json").write_text(json.dumps(stored, indent=1), encoding="utf-8")
    return 0 if holds(found) else 1


if __name__ == "__main__":
    # Workers import the work by the module's own name.
    from sweeps import perf

    sys.exit(perf.main())

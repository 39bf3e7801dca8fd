"""What a cell costs beside its training, how soon a command answers, and how soon it trains.

Every function measures one thing on this machine and returns plain numbers; `measure` puts them together as
rows, each with its unit and, where there is one, its bound. Stores are fresh and local, below a temporary
folder.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.cli import make_console
from harness.config.compose import load_benchmark
from harness.launchers.base import Job, Launcher
from harness.launchers.choose import make_launcher
from harness.launchers.job import run_job
from harness.ledger import Ledger
from harness.matrix import Cell
from harness.plan import Plan, make_plan
from harness.study.display import LiveDisplay
from harness.study.driver import Matrix
from harness.study.session import Session
from harness.study.unlogged import UnloggedResults
from harness.tracking.tracker import Tracker
from harness.train.result import Result
from tests.perf.jobs import PARTS, ready_result, timed_job
from tests.perf.stopwatch import Watched, watched
from tests.support.paths import ROOT

OVERHEAD_BOUND_MS = 150.0
"""Most that a cell may take beside its training, in milliseconds: in the driver, and in its worker."""
ANSWER_BOUND_S = 2.0
"""Most that a command may take for ``--help`` or to refuse a wrong key, in seconds."""
FIRST_STEP_BOUND_S = 6.0
"""Most from the start of a command of one cell to its first training step, in seconds."""

WORKERS, WARM_UP = 2, 10  # the first cells wait for the workers to start
LAUNCHERS = ("processes", "inline")
COMMANDS = (
    "harness.benchmark",
    "sweeps.run",
    "reports.build",
    "reports.export",
    "reports.ui",
    "harness.catalog",
    "harness.data",
)
QUESTIONS = {"--help": 0, "backbnes=[tfn]": 2}  # argument -> exit status
SHORT = ("train.max_epochs=3",)
ENVIRONMENT = {"MLFLOW_DISABLE_TELEMETRY": "true"}

STORES: Watched = {
    "MLflow": (Tracker, ("log", "finish")),
    "ledger": (Ledger, ("claim", "holds", "finish")),
    "unlogged results": (UnloggedResults, ("put", "get", "drop")),
}


class Quiet(LiveDisplay):
    """Notes when cells end, in seconds of a monotonic clock, and says nothing."""

    def __init__(self) -> None:
        super().__init__(make_console())
        self.ends: list[float] = []

    def ended(self, cell: Cell, note: str) -> None:
        """Take the time; a cell must not fail."""
        assert not note, f"{cell.run_name}: {note}"
        self.ends.append(time.perf_counter())


def measure(folder: Path | None = None, cells: int = 60, repeats: int = 3) -> list[dict[str, Any]]:
    """All measurements as rows: ``name``, ``value``, ``unit`` and ``bound`` (None: it is there to be read).

    Units: "ms" per cell, "s", "cells/min". Values with a bound of `holds` must not be above it.

    Args:
        folder: for stores and data, removed by nobody; None: a temporary one. It must not be in use.
        cells: how many stub cells are counted for the overhead. repeats: commands are called so often, and
            the fastest call counts: what else the machine does only ever adds to it.
    """
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            return measure(Path(temporary), cells, repeats)
    driver, worker = driver_overhead(folder, cells), worker_overhead(folder)
    rows = [_row("overhead per cell, driver", driver.pop("cell"), "ms", OVERHEAD_BOUND_MS)]
    rows += [_row(f"driver: {name}", value, "ms") for name, value in driver.items()]
    rows += [_row("overhead per cell, worker", worker.pop("cell"), "ms", OVERHEAD_BOUND_MS)]
    rows += [_row(f"worker: {name}", value, "ms") for name, value in worker.items()]
    for workers in range(1, WORKERS + 1):
        rows.append(_row(f"pace, workers: {workers}", pace(folder, workers), "cells/min"))
    for (command, question), seconds in answers(repeats).items():
        rows.append(_row(f"answer, {command} {question}", seconds, "s", ANSWER_BOUND_S))
    for launcher in LAUNCHERS:
        seconds = min(first_step(folder, launcher, seed) for seed in range(repeats))
        rows.append(_row(f"first step, {launcher}", seconds, "s", FIRST_STEP_BOUND_S))
    return rows


def holds(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether every value of `measure` is within its bound."""
    return all(row["bound"] is None or row["value"] <= row["bound"] for row in rows)


def driver_overhead(folder: Path, cells: int) -> dict[str, float]:
    """Milliseconds per cell of driver, ledger, spool and tracking, with worker processes that only answer.

    cell: as time goes by, over the cells after the first ones. MLflow, ledger, spool: spent in their calls.
    """
    plan, config = _plan(folder, "stubs", "backbones=[tfn]", f"seeds={list(range(WARM_UP + cells))}")
    with watched(STORES) as spent, contextlib.closing(_pool(WORKERS, ready_result)) as launcher:
        display = _drive(config, plan, folder, launcher)
    found = {"cell": 1e3 * float(np.diff(display.ends[WARM_UP - 1 :]).mean())}
    return found | {name: 1e3 * seconds / len(plan.cells) for name, seconds in spent.items()}


def worker_overhead(folder: Path, cells: int = 4) -> dict[str, float]:
    """Milliseconds per cell that a worker spends on a small real one beside epochs, scores and inspection.

    cell: all of it, of which loading: opening the dataset; building: network, method and optimizer. scoring,
    inspecting: what is not counted. Means over the cells after the first, which also warms the worker up.
    """
    plan, config = _plan(folder, "parts", "backbones=[tfn]", f"seeds={list(range(1 + cells))}", *SHORT)
    with contextlib.closing(_pool(1, timed_job)) as launcher:
        _drive(config, plan, folder, launcher)
    runs = Tracker(None, folder, plan.study, create=False).complete()
    stored = [runs[cell.cell_id].metrics for cell in plan.cells[1:]]
    names = ("cell", *PARTS["own"], *PARTS["others"])
    return {name: float(np.mean([metrics[f"cell/perf_{name}_ms"] for metrics in stored])) for name in names}


def pace(folder: Path, workers: int, seeds: int = 4) -> float:
    """Cells per minute with so many worker processes: TFN and LMF, three epochs of the quick profile.

    The workers have run a cell each before the clock starts.
    """
    study = f"pace{workers}"
    first, config = _plan(
        folder, study, "backbones=[lmf]", f"seeds={list(range(100, 100 + workers))}", *SHORT
    )
    rest, _ = _plan(folder, study, "backbones=[tfn,lmf]", f"seeds={list(range(seeds))}", *SHORT)
    with contextlib.closing(_pool(workers, run_job)) as launcher:
        _drive(config, first, folder, launcher)
        started = time.perf_counter()
        display = _drive(config, rest, folder, launcher)
    return 60 * len(display.ends) / (display.ends[-1] - started)


def answers(repeats: int = 3) -> dict[tuple[str, str], float]:
    """Seconds that every command takes for help and to refuse a wrong key, by (command, argument).

    The fastest of the repeats. An unexpected exit status is an AssertionError.
    """
    return {
        (command, question): min(_answer(command, question, status) for _ in range(repeats))
        for command in COMMANDS
        for question, status in QUESTIONS.items()
    }


def _answer(command: str, question: str, status: int) -> float:
    started = time.perf_counter()
    done = _python("-m", command, question)
    taken = time.perf_counter() - started
    assert done.returncode == status, f"{command} {question}: {done.stdout}{done.stderr}"
    return taken


def first_step(folder: Path, launcher: str, seed: int = 0) -> float:
    """Seconds from the start of a command of one cell, in a var_dir that exists, to its first training step.

    The command is `harness.benchmark` as a user starts it, with the stores of ``folder``; it trains a cell
    that is not there yet, one batch of one epoch.
    """
    note = folder / f"first_step_{launcher}_{seed}"
    asked = ["study=first", "backbones=[tfn]", f"seeds=[{seed}]", "report=false", "train.max_batches=1"]
    given = [*_base(folder), *asked, f"occlusion.mask_seed={LAUNCHERS.index(launcher)}", "train.max_epochs=1"]
    started = time.time()
    done = _python("-m", "tests.perf.first_step", str(note), f"launcher={launcher}", *given)
    assert done.returncode == 0, done.stdout + done.stderr
    return float(note.read_text(encoding="utf-8")) - started


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python as it is started by hand, from the top of the project."""
    environment = {**os.environ, **ENVIRONMENT}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def _base(folder: Path) -> list[str]:
    return [f"var_dir={folder}", "profile=quick", "datasets=[synthetic_mosi]", "methods=[none]"]


def _plan(folder: Path, study: str, *asked: str) -> tuple[Plan, Any]:
    config = load_benchmark([*_base(folder), f"study={study}", *asked])
    return make_plan(config), config


def _pool(workers: int, job: Callable[[Job], Result]) -> Launcher:
    return make_launcher("processes", workers, job)


def _drive(config: Any, plan: Plan, folder: Path, launcher: Launcher) -> Quiet:
    """Run a plan's cells to their ends."""
    display = Quiet()
    session = Session(config, plan, "cpu", Tracker(None, folder, plan.study), launcher, display)
    summary = session.drive(lambda writer: Matrix(plan.cells), lambda cell: {}, request=True)
    assert summary.complete, summary.failed
    return display


def _row(name: str, value: float, unit: str, bound: float | None = None) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "bound": bound}

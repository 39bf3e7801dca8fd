"""Overhead of a cell and a trial beside their training, and startup times of commands."""

import itertools
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console

from harness.config.compose import load_benchmark, load_sweep
from harness.launchers.base import Job
from harness.launchers.choose import LOCAL, make_launcher
from harness.launchers.job import run_job
from harness.plan import make_plan
from harness.study.queue import Matrix
from harness.study.session import Session
from harness.tracking.tracker import Tracker
from harness.train import loop
from sweeps.display import SweepDisplay
from sweeps.space_file import load_space
from sweeps.trials import make_trials
from tests.perf.bounds import Section
from tests.perf.child import timed, watched
from tests.perf.made_up import ready_result, ready_trial

OVERHEAD_MS = 150.0  # of a cell or a trial in the driver, and of a cell in its worker
ANSWER_S = 2.0  # for help or to refuse a wrong key
FIRST_STEP_S = 6.0  # from the start of a command of one cell to its first training step

WORKERS, CELLS, TRIALS = 2, 60, 40
WARM_UP_CELLS, WARM_UP_TRIALS = 10, 5  # they wait for the workers to start
REPEATS = 3  # the fastest counts: what else the machine does only ever adds to it
COMMANDS = ("harness.benchmark", "harness.catalog", "harness.data", "sweeps.run")
COMMANDS += ("reports.build", "reports.export", "reports.ui")
QUESTIONS = {"--help": 0, "backbnes=[tfn]": 2}  # argument -> exit status


def cells(_=None):
    part = Section("cells", "What a cell costs", "Beside its training, with local stores.")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        part.add("overhead per cell, driver", driver_ms(folder), "ms", OVERHEAD_MS)
        part.add("overhead per cell, worker", worker_ms(folder), "ms", OVERHEAD_MS)
        for command, (question, status) in itertools.product(COMMANDS, QUESTIONS.items()):
            answer_s = min(timed("-m", command, question, status=status)["s"] for _ in range(REPEATS))
            part.add(f"answer, {command} {question}", answer_s, "s", ANSWER_S)
        for launcher in LOCAL:
            step_s = min(first_step_s(folder, launcher, repeat) for repeat in range(REPEATS))
            part.add(f"first step, {launcher}", step_s, "s", FIRST_STEP_S)
    return [part]


def driver_ms(folder, count=CELLS):
    """Measure ms per cell of driver, ledger, spool and tracking, with worker processes that only answer."""
    seeds = f"seeds={list(range(WARM_UP_CELLS + count))}"
    config = load_benchmark([*_quick(folder, "stubs"), seeds])
    plan = make_plan(config)
    ends = run_ends(drive(config, plan, ready_result, lambda writer, display: Matrix(plan.cells)))
    return 1e3 * (ends[-1] - ends[WARM_UP_CELLS - 1]) / count


def worker_ms(folder, count=4, *more):
    """Measure the ms of a worker on a small cell beside its epochs, scores and inspection.

    Returns the mean over the cells after the first, which also warms up.
    """
    seeds = f"seeds={list(range(1 + count))}"
    plan = make_plan(load_benchmark([*_quick(folder, "work"), seeds, "train.max_epochs=3", *more]))
    [data] = plan.folders().values()
    overheads_s = []
    for cell in plan.cells:
        with watched(scores=(loop, "final_result"), inspection=(loop, "inspect")) as spent:
            started = time.perf_counter()
            result = run_job(Job(cell, str(data), "cpu"))
            whole_s = time.perf_counter() - started
        overheads_s.append(whole_s - sum(result.curves["epoch_s"]) - sum(spent.values()))
    return 1e3 * float(np.mean(overheads_s[1:]))


def first_step_s(folder, launcher, repeat=0):
    """Measure the seconds from the start of a command, in a var_dir that exists, to its first training step.

    The cell is not there yet, and trains one batch of one epoch. What comes after this epoch until the run
    is logged counts as well, tens of milliseconds.
    """
    study = f"first_{launcher}_{repeat}"
    few = ["report=false", "train.max_batches=1", "train.max_epochs=1", f"launcher={launcher}"]
    command = timed("-m", "harness.benchmark", *_quick(folder, study), "seeds=[1]", *few)
    tracker = Tracker(None, folder, study, create=False)
    [run], [ended] = tracker.complete().values(), run_ends(tracker)
    return ended - run.metrics["cell/epoch_s"] - command["started"]


def trials(_=None):
    how = f"Per trial of two seeds without its trainings, {WORKERS} workers, {TRIALS} trials."
    part = Section("trials", "What a trial of a sweep costs", how)
    for name, pruned in (("with pruning", True), ("without", False)):
        with tempfile.TemporaryDirectory() as folder:
            part.add(f"trial, {name}", trial_ms(Path(folder), pruned), "ms", OVERHEAD_MS)
    return [part]


def trial_ms(folder, pruned, count=TRIALS):
    """Measure what a trial of TPE costs without its trainings, in ms: Optuna, MLflow, ledger and driver."""
    config = load_sweep(["param=all", *_quick(folder, "trials"), f"sweep.trials={count}"])
    config.methods = ["ms_mix"]
    if not pruned:
        config.sweep.prune_at = []
    plan, space = make_plan(config), load_space("all")

    def begin(writer, display):
        supply = make_trials(config, plan, space, "cpu", writer, display)
        supply.begin()
        return supply

    ends = run_ends(drive(config, plan, ready_trial, begin), "trial")
    return 1e3 * (ends[-1] - ends[WARM_UP_TRIALS]) / (count - 1 - WARM_UP_TRIALS)


def drive(config, plan, job, begin):
    """Run a supply of cells to its end, on worker processes that do the job."""
    tracker = Tracker(None, Path(config.var_dir), plan.study)
    launcher, display = make_launcher("processes", WORKERS, job), SweepDisplay(Console(quiet=True))
    session = Session(config, plan, "cpu", tracker, launcher, display)
    try:
        summary = session.drive(lambda writer: begin(writer, display), lambda cell: {}, request=True)
    finally:
        launcher.close()
    assert summary.complete, summary.failed
    return tracker


def run_ends(tracker, kind="cell"):
    """Return when a study's cells or trials ended, in ascending seconds since the epoch."""
    runs = tracker.client.search_runs([tracker.experiment_id], f"tags.kind = '{kind}'", max_results=1000)
    return sorted(run.info.end_time / 1e3 for run in runs)


def _quick(folder, study):
    names = ["datasets=[synthetic_mosi]", "backbones=[tfn]", "methods=[none]"]
    return [f"var_dir={folder}", f"study={study}", "profile=quick", *names]

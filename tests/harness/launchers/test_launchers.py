"""Launchers: equal outcomes from all, a fault costs only its cell, and no process is left."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from harness.errors import UserError
from harness.launchers import processes
from harness.launchers.base import Job, Outcome
from harness.launchers.choose import make_launcher
from harness.launchers.worker import breaks_worker
from tests.support.drivers.clusters import kill_marked
from tests.support.drivers.driving import marked_processes, start, wait_until_gone
from tests.support.drivers.jobs import (
    PRELOADED,
    assert_outcomes,
    assert_unsent,
    eventually,
    job,
    outcomes_of,
    results_of,
    run,
)
from tests.support.paths import ROOT


@pytest.fixture
def launch():
    """make_launcher for `run`, closed at the end."""
    made = []

    def make(name, jobs=None, work=run, devices=()):
        made.append(make_launcher(name, jobs, work, devices))
        return made[-1]

    yield make
    for launcher in made:
        launcher.close()


@pytest.fixture
def pool(launch):
    return launch("processes", 2)


@pytest.mark.parametrize(("name", "jobs"), [("inline", 1), ("processes", 1), ("processes", 3)])
def test_the_same_outcomes_whatever_the_launcher_and_the_order(launch, name, jobs):
    assert_outcomes(launch(name, jobs), seed=jobs)


def test_large_jobs_and_results_of_two_workers_at_once(pool):
    text = "x" * 10_000_000
    jobs = [job("large", 50_000_000), job("large", 50_000_001), *[job("fail", text)] * 3, job("square", 3)]
    outcomes = outcomes_of(pool, jobs)
    assert sorted(len(o.result) for o in outcomes if o.job.cell[0] == "large") == [50_000_000, 50_000_001]
    assert [o.error == f"ValueError: {text}" for o in outcomes if o.error] == [True] * 3
    assert_unsent(pool)


def test_slots_and_waiting_without_outcomes(launch):
    requests = ("inline", 5), ("processes", None), ("processes", 5)
    launchers = inline, _, pool = [launch(*request) for request in requests]
    assert [launcher.slots for launcher in launchers] == [1, len(os.sched_getaffinity(0)), 5]
    assert pool.wait(0.01) == inline.wait(0.01) == []
    pool.submit(job("sleep", 60))
    assert pool.wait(0.01) == []


def test_an_interrupt_while_outcomes_are_collected_loses_none(pool, monkeypatch):
    collect = processes._Worker.collect

    def interrupted(worker):
        outcome = collect(worker)
        signal.raise_signal(signal.SIGINT)
        return outcome

    monkeypatch.setattr(processes._Worker, "collect", interrupted)
    results = []

    def both():
        with contextlib.suppress(KeyboardInterrupt):
            results.extend(outcome.result for outcome in pool.wait(1))
        return len(results) == 2

    pool.submit(job("square", 2))
    pool.submit(job("square", 3))
    eventually(both, 60)
    assert sorted(results) == [4, 9]


@pytest.mark.parametrize(
    ("cell", "error"),
    [
        (("die", signal.SIGSEGV), "worker died (signal 11: Segmentation fault)"),
        (("exit_at_once", 3), "worker died (exit status 3)"),
        (("exit_at_once", 0), "worker died (exit status 0)"),
        (("die_with_heir", None), "worker died (signal 9: killed; often out of memory)"),
    ],
)
def test_a_dead_worker_costs_only_its_cell(pool, cell, error):
    jobs = [job(*cell), job("sleep", 0.3), *(job("square", x) for x in range(4)), job(*cell), job(*cell)]
    outcomes = outcomes_of(pool, jobs)
    assert len(outcomes) == len(jobs)
    dead = [(o.job.cell, o.error, o.traceback) for o in outcomes if o.error]
    assert dead == [(cell, error, None)] * 3
    pids = {pid for pid, *_ in results_of(pool, job("surroundings"), job("surroundings"))}
    assert len(pids) == 2, "two jobs in flight, two processes"


def test_an_idle_worker_that_dies_costs_nothing(launch):
    pool = launch("processes", 1)
    [(first, *_)] = results_of(pool, job("surroundings"))
    os.kill(first, signal.SIGKILL)
    eventually(lambda: not pool._workers[0].process.is_alive())
    [(second, *_)] = results_of(pool, job("surroundings"))
    assert second != first


@pytest.mark.parametrize(
    ("error", "broken"),
    [
        (None, False),
        ("ValueError: plain", False),
        ("UserError: device=cuda needs a GPU", False),
        ("AcceleratorError: CUDA error: an illegal memory access was encountered", True),
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", True),
        ("RuntimeError: cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", True),
        ("RuntimeError: cusolver error: CUSOLVER_STATUS_EXECUTION_FAILED", True),
        ("RuntimeError: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`", True),
        ("RuntimeError: cuFFT error: CUFFT_EXEC_FAILED", True),
    ],
)
def test_errors_of_cuda_and_its_libraries_break_a_worker(error, broken):
    assert breaks_worker(Outcome(None, None, error)) is broken


@pytest.mark.parametrize(("text", "same"), [("plain", True), ("CUDA error: device-side assert", False)])
def test_a_worker_is_replaced_only_after_an_error_on_the_device(launch, text, same):
    jobs = [job("surroundings"), job("fail", text), job("surroundings")]
    before, failed, after = outcomes_of(launch("processes", 1), jobs)
    assert failed.error == f"ValueError: {text}"
    assert (before.result[0] == after.result[0]) is same


@pytest.mark.parametrize(
    ("preload", "later", "outcome"),
    [
        ("", "import no_such_module", (None, "ModuleNotFoundError: No module named 'no_such_module'")),
        ("def preload():\n    raise RuntimeError('no')\n", "", (1, None)),
    ],
)
def test_work_that_cannot_be_imported_or_preloaded(tmp_path, monkeypatch, launch, preload, later, outcome):
    """A failed import is the job's error; a worker whose preload fails still gets its job."""
    name = f"fragile_work_{outcome[0]}"
    module = tmp_path / f"{name}.py"
    module.write_text(f"{preload}def run(job):\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    pool = launch("processes", 1, __import__(name).run)
    module.write_text(f"{module.read_text()}{later}\n")
    pool.start_worker()
    assert [(o.result, o.error) for o in outcomes_of(pool, [job("any")])] == [outcome]


def test_every_worker_preloads_once_and_one_started_early_takes_the_first_job(pool):
    pool.start_worker()
    pool.start_worker()
    [worker] = pool._workers
    [(pid, _, preloaded)] = results_of(pool, job("surroundings"))
    assert (pid, preloaded) == (worker.process.pid, [pid])
    assert len(pool._workers) == 1
    for pid, _, preloaded in results_of(pool, *[job("surroundings")] * 3):
        assert preloaded == [pid]
    assert PRELOADED == [], "the driver does not"


def test_workers_share_devices_evenly_and_keep_to_theirs(launch):
    pool = launch("processes", 4, devices=("cuda:0", "cuda:1"))
    pool.start_worker()
    jobs = [Job(("device", k), "", "cuda") for k in range(4)]
    first, second = (outcomes_of(pool, jobs) for _ in range(2))
    places = {o.result for o in first}
    assert len(places) == 4
    assert sorted(device for _, device in places) == ["cuda:0", "cuda:0", "cuda:1", "cuda:1"]
    assert {o.result for o in second} <= places
    assert {o.job for o in first} == set(jobs), "the driver sees its own jobs"


def test_workers_have_one_thread_and_the_driver_keeps_its_own(monkeypatch, launch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    main = sys.modules["__main__"]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    [(_, threads, _)] = results_of(launch("processes", 1), job("surroundings"))
    assert threads == ("1", "1")
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ
    assert sys.modules["__main__"] is main
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask


def test_interrupts_reach_the_driver_only(launch, pool):
    assert results_of(pool, job("interrupted")) == ["carried on"]
    inline = launch("inline")
    inline.submit(job("interrupted"))
    with pytest.raises(KeyboardInterrupt):
        inline.wait(0)


def test_requests_that_make_no_sense():
    unknown = r"Unknown launcher 'inlin'.*inline, processes.*Did you mean 'inline'"
    for name, jobs, reason in (("inlin", None, unknown), ("processes", 0, "jobs must be at least 1, got 0")):
        with pytest.raises(UserError, match=reason):
            make_launcher(name, jobs, run)
    with pytest.raises(AssertionError):
        make_launcher("processes", 1, lambda job: None)


DRIVER = """
import sys
sys.path.insert(0, sys.argv[1])
with open(sys.argv[2], "a") as imports:
    imports.write("main module ran\\n")
from harness.interrupts import raise_interrupts
from harness.launchers.choose import make_launcher
from tests.support.drivers import jobs

raise_interrupts()
print("ready", flush=True)
launcher = make_launcher("processes", 3, jobs.run)
try:
    for _ in range(3):
        launcher.submit(jobs.job("sleep", 100))
    print("submitted", flush=True)
    while True:
        launcher.wait(0.2)
except KeyboardInterrupt:
    launcher.close()
    sys.exit(130)
"""


@pytest.fixture
def driver(tmp_path):
    """A driver of three sleeping workers in a process group of its own, and the mark of all of them."""
    mark, script = f"{os.getpid()}-{time.monotonic_ns()}", tmp_path / "driver.py"
    script.write_text(DRIVER)
    process = start("", mark, program=(script, ROOT, tmp_path / "imports"), matrix=())
    assert process.stdout.readline() == "ready\n"
    yield process, mark
    kill_marked(mark)
    process.communicate()


@pytest.mark.parametrize("delay_s", [0.05, 0.3, 2.0])
def test_workers_leave_with_a_killed_driver(driver, tmp_path, delay_s):
    process, mark = driver
    time.sleep(delay_s)
    if delay_s == 2.0:
        eventually(lambda: len(marked_processes(mark)) >= 4)  # the driver and its workers
        assert (tmp_path / "imports").read_text() == "main module ran\n", "workers do not import it again"
    process.kill()
    assert not wait_until_gone(mark)


@pytest.mark.parametrize("delay_s", [0.0, 0.9])
def test_interrupting_the_whole_group_is_quiet(driver, delay_s):
    process, mark = driver
    assert process.stdout.readline() == "submitted\n"
    time.sleep(delay_s)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert (output, process.returncode) == ("", 130)
    assert not wait_until_gone(mark)


@pytest.mark.parametrize("busy", [True, False])
def test_closing_ends_busy_and_starting_workers(launch, busy):
    pool = launch("processes", 3)
    pool.start_worker()
    if busy:
        [(first, *_)] = results_of(pool, job("surroundings"))
        pool.submit(job("sleep", 100))
        pool.submit(job("sleep", 100))
        assert pool._workers[0].process.pid == first
    pids = [worker.process.pid for worker in pool._workers]
    assert len(pids) == 1 + busy
    pool.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    pool.close()


HEAVY = {"mlflow", "hydra", "omegaconf", "optuna", "ray", "transformers", "pandas", "matplotlib", "sklearn"}


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("harness.launchers.processes, harness.launchers.inline", HEAVY | {"torch", "numpy", "sqlalchemy"}),
        ("harness.train.loop, methods, backbones", HEAVY),
    ],
)
def test_launchers_and_training_import_nothing_heavy(modules, heavy):
    command = [sys.executable, "-c", f"import sys, {modules}; print(*sys.modules)"]
    loaded = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert not heavy & set(loaded.stdout.split())

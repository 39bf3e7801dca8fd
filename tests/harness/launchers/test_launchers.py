"""Launchers: the same outcomes wherever work is done, a fault costs its cell, nobody is left behind."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from harness.errors import UserError
from harness.launchers import processes
from harness.launchers.base import Job
from harness.launchers.choose import make_launcher
from tests.support.driving import MARK, marked_processes, wait_until_gone
from tests.support.jobs import (
    PRELOADED,
    assert_as_inline,
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


@pytest.mark.parametrize(
    ("name", "jobs", "seed"), [("inline", 1, 2), ("processes", 1, 0), ("processes", 3, 1)]
)
def test_the_same_outcomes_whatever_the_launcher_and_the_order(launch, name, jobs, seed):
    inline = launch("inline")
    assert_as_inline(launch(name, jobs), inline, seed)
    assert results_of(inline, *(job("square", x) for x in range(6))) == [0, 1, 4, 9, 16, 25]


def test_large_jobs_and_results_of_two_workers_at_once(pool):
    text = "x" * 10_000_000
    jobs = [job("large", 50_000_000), job("large", 50_000_001), *[job("fail", text)] * 3, job("square", 3)]
    outcomes = outcomes_of(pool, jobs)
    assert sorted(len(o.result) for o in outcomes if o.job.cell[0] == "large") == [50_000_000, 50_000_001]
    assert [o.error == f"ValueError: {text}" for o in outcomes if o.error] == [True] * 3


def test_waiting_without_outcomes_gives_nothing_back(launch, pool):
    assert pool.wait(0.01) == launch("inline").wait(0.01) == []
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

    for x in (2, 3):
        pool.submit(job("square", x))
    eventually(both, 60)
    assert sorted(results) == [4, 9]


@pytest.mark.parametrize(
    ("cell", "error"),
    [
        (("die", signal.SIGKILL), "worker died (signal 9: killed; often out of memory)"),
        (("die", signal.SIGSEGV), "worker died (signal 11: Segmentation fault)"),
        (("exit_at_once", 3), "worker died (exit status 3)"),
        (("exit_at_once", 0), "worker died (exit status 0)"),
        (("die_with_heir", None), "worker died (signal 9: killed; often out of memory)"),
    ],
)
def test_a_dead_worker_costs_only_its_cell(pool, cell, error):
    jobs = [job("sleep", 0.3), job(*cell), *(job("square", x) for x in range(4))]
    outcomes = outcomes_of(pool, jobs, limit_s=15.0)
    assert len(outcomes) == len(jobs)
    assert {o.job.cell: (o.error, o.traceback) for o in outcomes if o.error} == {cell: (error, None)}


def test_a_dead_workers_slot_is_filled_again(pool):
    outcomes_of(pool, [job("die", signal.SIGKILL), job("die", signal.SIGKILL)])
    both = results_of(pool, job("surroundings"), job("surroundings"))
    assert len({pid for pid, *_ in both}) == 2, "two jobs in flight, two processes"


def test_an_idle_worker_that_dies_costs_nothing(launch):
    pool = launch("processes", 1)
    [(first, *_)] = results_of(pool, job("surroundings"))
    os.kill(first, signal.SIGKILL)
    eventually(lambda: not pool._workers[0].process.is_alive())
    (second,) = outcomes_of(pool, [job("surroundings")])
    assert second.error is None
    assert second.result[0] != first


@pytest.mark.parametrize(("text", "same"), [("plain", True), ("CUDA error: device-side assert", False)])
def test_a_worker_is_replaced_only_after_an_error_on_the_device(launch, text, same):
    jobs = [job("surroundings"), job("fail", text), job("surroundings")]
    before, failed, after = outcomes_of(launch("processes", 1), jobs)
    assert failed.error == f"ValueError: {text}"
    assert (before.result[0] == after.result[0]) is same


def test_what_cannot_be_sent_is_the_reason(pool):
    assert_unsent(pool)


@pytest.mark.parametrize(
    ("source", "later", "outcome"),
    [
        (
            "def run(job):\n    return 1\n",
            "import no_such_module_at_all\n",
            (None, "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ),
        ("def preload():\n    raise RuntimeError('no')\n\n\ndef run(job):\n    return 1\n", None, (1, None)),
    ],
)
def test_work_that_cannot_be_imported_or_preloaded(tmp_path, monkeypatch, launch, source, later, outcome):
    """An import that fails is the job's reason; what cannot preload still gets its job."""
    name = f"fragile_work_{outcome[0]}"
    module = tmp_path / f"{name}.py"
    module.write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    pool = launch("processes", 1, __import__(name).run)
    module.write_text(later or source)
    pool.start_worker()
    assert [(o.result, o.error) for o in outcomes_of(pool, [job("any")])] == [outcome]


def test_every_worker_preloads_once_and_one_started_early_takes_the_first_job(pool):
    pool.start_worker()
    pool.start_worker()
    [worker] = pool._workers
    pid = worker.process.pid
    assert results_of(pool, job("preloads")) == [(pid, [pid])]
    assert len(pool._workers) == 1
    results = [*results_of(pool, job("preloads"), job("preloads")), *results_of(pool, job("preloads"))]
    assert all(preloaded == [pid] for pid, preloaded in results)
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
    [(_, *threads)] = results_of(launch("processes", 1), job("surroundings"))
    assert threads == ["1", "1"]
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ
    assert sys.modules["__main__"] is main
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask


def test_interrupts_reach_the_driver_only(launch, pool):
    assert results_of(pool, job("interrupted")) == ["carried on"]
    inline = launch("inline")
    inline.submit(job("raise_interrupt"))
    with pytest.raises(KeyboardInterrupt):
        inline.wait(0)


def test_requests_that_make_no_sense():
    with pytest.raises(
        UserError, match=r"Unknown launcher 'inlin'.*inline, processes.*Did you mean 'inline'"
    ):
        make_launcher("inlin", None, run)
    for jobs in (0, -1):
        with pytest.raises(UserError, match=f"jobs must be at least 1, got {jobs}"):
            make_launcher("processes", jobs, run)
    with pytest.raises(AssertionError):
        make_launcher("processes", 1, lambda job: None)


@pytest.mark.parametrize(
    ("name", "jobs", "slots"),
    [("inline", 5, 1), ("processes", None, len(os.sched_getaffinity(0))), ("processes", 5, 5)],
)
def test_slots(name, jobs, slots):
    assert make_launcher(name, jobs, run).slots == slots


# Nobody is left behind.


DRIVER = """
import sys
sys.path.insert(0, sys.argv[1])
with open(sys.argv[2], "a") as imports:
    imports.write("main module ran\\n")
from harness.interrupts import raise_interrupts
from harness.launchers.choose import make_launcher
from tests.support import jobs

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
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    process = subprocess.Popen(
        [sys.executable, script, ROOT, tmp_path / "imports"],
        env={**os.environ, MARK: mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "ready\n"
    yield process, mark
    for pid in marked_processes(mark):
        os.kill(pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("delay_s", [0.0, 0.05, 0.1, 0.3, 0.8, 2.0])
def test_workers_leave_with_a_killed_driver(driver, tmp_path, delay_s):
    process, mark = driver
    time.sleep(delay_s)
    if delay_s == 2.0:
        eventually(lambda: len(marked_processes(mark)) >= 4)  # the driver and its workers
        assert (tmp_path / "imports").read_text() == "main module ran\n", "workers do not import it again"
    process.kill()
    assert not wait_until_gone(mark)


@pytest.mark.parametrize("delay_s", [0.0, 0.3, 0.9])
def test_interrupting_the_whole_group_is_quiet(driver, delay_s):
    process, mark = driver
    assert process.stdout.readline() == "submitted\n"
    time.sleep(delay_s)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert stderr == ""
    assert process.returncode == 130
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
    started = time.monotonic()
    pool.close()
    assert time.monotonic() - started < 10
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    pool.close()


def test_launchers_import_nothing_heavy():
    code = "import sys, harness.launchers.processes, harness.launchers.inline; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"torch", "numpy", "sqlalchemy", "mlflow", "hydra"} & set(loaded.stdout.split())

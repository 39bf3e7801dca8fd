"""Launchers: the same outcomes wherever work is done, a fault costs its cell, nobody is left behind."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.launchers import processes
from harness.launchers.base import Job, Launcher, Outcome
from harness.launchers.choose import make_launcher
from tests.support.paths import ROOT

MARKER = "LAUNCHER_TEST_MARKER"


# What the jobs below do; a cell is (name of the function, argument).


def square(x):
    return x * x


def nothing(_):
    return None


def fail(text):
    raise ValueError(text)


def refuse(text):
    raise UserError(text)


def leave(status):
    sys.exit(status)


def chatter(size):
    print("x" * size)
    print("y" * size, file=sys.stderr, flush=True)
    os.write(1, b"\x00\xffnoise\n")
    return size


def large(size):
    return bytes(size)


def surroundings(_):
    return os.getpid(), os.environ.get("OMP_NUM_THREADS"), os.environ.get("MKL_NUM_THREADS")


def preparations(_):
    return os.getpid(), list(PREPARED)


def interrupted(_):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.1)
    return "carried on"


def die(number):
    os.kill(os.getpid(), number)
    time.sleep(60)


def exit_at_once(status):
    os._exit(status)


def die_with_heir(_):
    if os.fork() == 0:
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        time.sleep(20)
        os._exit(0)
    die(signal.SIGKILL)


def sleep(duration_s):
    time.sleep(duration_s)
    return duration_s


def unpicklable(_):
    return lambda: None


def raise_interrupt(_):
    raise KeyboardInterrupt


class Treacherous:
    """Can be pickled, and raises wherever it is read."""

    def __reduce__(self):
        return fail, ("cannot be read",)


def treacherous(_):
    return Treacherous()


PREPARED = []


def prepare():
    """Called once in every worker."""
    PREPARED.append(os.getpid())


def run(job):
    name, argument = job.cell
    if name == "device":
        time.sleep(0.5)  # so that all workers get one
        return os.getpid(), job.device
    return globals()[name](argument)


def job(name, argument=None):
    return Job((name, argument), "folder", "cpu")


def outcomes_of(launcher: Launcher, jobs, limit_s=60.0) -> list[Outcome]:
    """Keep the launcher's slots full until every job has its outcome."""
    waiting, in_flight, outcomes = list(jobs), 0, []
    deadline = time.monotonic() + limit_s
    while waiting or in_flight:
        while waiting and in_flight < launcher.slots:
            launcher.submit(waiting.pop(0))
            in_flight += 1
        came = launcher.wait(1.0)
        in_flight -= len(came)
        outcomes += came
        assert time.monotonic() < deadline, f"no outcome for {in_flight} jobs"
    return outcomes


def by_cell(outcomes):
    return sorted((repr(o.job.cell), o.result, o.error, o.traceback is None) for o in outcomes)


@pytest.fixture
def launch():
    """make_launcher for `run`, closed at the end."""
    made = []

    def make(name, jobs=None, work=run):
        made.append(make_launcher(name, jobs, work))
        return made[-1]

    yield make
    for launcher in made:
        launcher.close()


@pytest.fixture
def pool(launch):
    return launch("processes", 2)


JOBS = [
    *(job("square", x) for x in range(6)),
    job("nothing"),
    job("fail", "first line\nsecond line"),
    job("fail", ""),
    job("refuse", "No such thing."),
    job("leave", 3),
    job("leave", 0),
    job("chatter", 200_000),
]
ERRORS = {
    ("fail", "first line\nsecond line"): "ValueError: first line",
    ("fail", ""): "ValueError",
    ("refuse", "No such thing."): "No such thing.",
    ("leave", 3): "SystemExit: 3",
    ("leave", 0): "SystemExit: 0",
}


def test_the_same_outcomes_whatever_the_launcher_and_the_order(launch):
    inline = outcomes_of(launch("inline"), JOBS)
    assert {o.job.cell: o.error for o in inline if o.error is not None} == ERRORS
    assert {o.job.cell[1]: o.result for o in inline if o.job.cell[0] == "square"} == {
        x: x * x for x in range(6)
    }
    assert all(o.job is submitted for o, submitted in zip(inline, JOBS, strict=True))
    assert all("Traceback" in o.traceback for o in inline if o.error)
    for jobs, seed in [(1, 0), (3, 1)]:
        shuffled = random.Random(seed).sample(JOBS, len(JOBS))
        outcomes = outcomes_of(launch("processes", jobs), shuffled)
        assert by_cell(outcomes) == by_cell(inline)
        assert all("Traceback" in o.traceback for o in outcomes if o.error)


def test_large_results_from_two_workers_at_once(pool):
    outcomes = outcomes_of(pool, [job("large", 50_000_000), job("large", 50_000_001), job("square", 3)])
    assert sorted(o.result if o.job.cell[0] == "square" else len(o.result) for o in outcomes) == [
        9,
        50_000_000,
        50_000_001,
    ]


def test_large_jobs(pool):
    text = "x" * 10_000_000
    outcomes = outcomes_of(pool, [job("fail", text), job("fail", text), job("fail", text)])
    assert [o.error == f"ValueError: {text}" for o in outcomes] == [True] * 3


def test_waiting_without_outcomes_gives_nothing_back(launch, pool):
    assert pool.wait(0.01) == []
    assert launch("inline").wait(0.01) == []
    pool.submit(job("sleep", 60))
    assert pool.wait(0.01) == []


def test_an_interrupt_while_outcomes_are_collected_loses_none(pool, monkeypatch):
    collect = processes._Worker.collect

    def interrupted(worker):
        outcome = collect(worker)
        signal.raise_signal(signal.SIGINT)
        return outcome

    monkeypatch.setattr(processes._Worker, "collect", interrupted)
    for x in (2, 3):
        pool.submit(job("square", x))
    found = []
    deadline = time.monotonic() + 60
    while len(found) < 2:
        assert time.monotonic() < deadline
        with contextlib.suppress(KeyboardInterrupt):
            found += [outcome.result for outcome in pool.wait(1)]
    assert sorted(found) == [4, 9]


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
    both = outcomes_of(pool, [job("surroundings"), job("surroundings")])
    assert len({o.result[0] for o in both}) == 2, "two jobs in flight, two processes"


def test_an_idle_worker_that_dies_costs_nothing(launch):
    pool = launch("processes", 1)
    (first,) = outcomes_of(pool, [job("surroundings")])
    os.kill(first.result[0], signal.SIGKILL)
    assert eventually(lambda: not pool._workers[0].process.is_alive())
    (second,) = outcomes_of(pool, [job("surroundings")])
    assert second.error is None
    assert second.result[0] != first.result[0]


@pytest.mark.parametrize(("text", "same"), [("plain", True), ("CUDA error: device-side assert", False)])
def test_a_worker_is_replaced_only_after_an_error_on_the_device(launch, text, same):
    jobs = [job("surroundings"), job("fail", text), job("surroundings")]
    before, failed, after = outcomes_of(launch("processes", 1), jobs)
    assert failed.error == f"ValueError: {text}"
    assert (before.result[0] == after.result[0]) is same


def test_what_cannot_be_sent_is_the_reason(pool):
    jobs = [
        Job(lambda: None, "", "cpu"),
        job("unpicklable"),
        job("treacherous"),
        Job(Treacherous(), "", "cpu"),
        job("square", 2),
    ]
    errors = {jobs.index(o.job): o.error for o in outcomes_of(pool, jobs)}
    assert errors[0].startswith("the job cannot be sent to a worker: ")
    assert errors[1].startswith("the result cannot be sent to the driver: ")
    assert errors[2] == errors[3] == "ValueError: cannot be read"
    assert errors[4] is None


def test_work_that_fails_to_import_in_a_worker_is_the_reason(tmp_path, monkeypatch, launch):
    module = tmp_path / "fragile_work.py"
    module.write_text("def run(job):\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    import fragile_work

    pool = launch("processes", 1, fragile_work.run)
    module.write_text("import no_such_module_at_all\n")
    (outcome,) = outcomes_of(pool, [job("any")])
    assert outcome.error == "ModuleNotFoundError: No module named 'no_such_module_at_all'"


def test_a_worker_started_early_takes_the_first_job(pool):
    pool.start_worker()
    pool.start_worker()
    [worker] = pool._workers
    pid = worker.process.pid
    assert [o.result for o in outcomes_of(pool, [job("preparations")])] == [(pid, [pid])]
    assert len(pool._workers) == 1


def test_workers_share_devices_evenly_and_keep_to_theirs():
    pool = make_launcher("processes", 4, run, ("cuda:0", "cuda:1"))
    try:
        pool.start_worker()
        jobs = [Job(("device", k), "", "cuda") for k in range(4)]
        first, second = (outcomes_of(pool, jobs) for _ in range(2))
    finally:
        pool.close()
    places = {o.result for o in first}
    assert len(places) == 4
    assert sorted(device for _, device in places) == ["cuda:0", "cuda:0", "cuda:1", "cuda:1"]
    assert {o.result for o in second} <= places
    assert {o.job for o in first} == set(jobs), "the driver sees its own jobs"


def test_every_worker_prepares_itself_once(pool):
    both = outcomes_of(pool, [job("preparations"), job("preparations")])
    (again,) = outcomes_of(pool, [job("preparations")])
    assert all(prepared == [pid] for pid, prepared in (o.result for o in [*both, again]))
    assert PREPARED == [], "the driver does not"


def test_work_that_cannot_prepare_itself_still_gets_its_job(tmp_path, monkeypatch, launch):
    module = "def prepare():\n    raise RuntimeError('no')\n\n\ndef run(job):\n    return 'done'\n"
    (tmp_path / "unprepared_work.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    import unprepared_work

    pool = launch("processes", 1, unprepared_work.run)
    pool.start_worker()
    (outcome,) = outcomes_of(pool, [job("any")])
    assert outcome.result == "done"


def test_a_pool_that_had_no_job_leaves_nobody_behind():
    pool = make_launcher("processes", 1, run)
    pool.start_worker()
    [worker] = pool._workers
    pid = worker.process.pid
    pool.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_workers_have_one_thread_and_the_driver_keeps_its_own(monkeypatch, launch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    main = sys.modules["__main__"]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    (outcome,) = outcomes_of(launch("processes", 1), [job("surroundings")])
    assert outcome.result[1:] == ("1", "1")
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ
    assert sys.modules["__main__"] is main
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask


def test_interrupts_reach_the_driver_only(launch, pool):
    (outcome,) = outcomes_of(pool, [job("interrupted")])
    assert outcome.result == "carried on"
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
        with pytest.raises(UserError, match=f"jobs={jobs}"):
            make_launcher("processes", jobs, run)
    with pytest.raises(AssertionError):
        make_launcher("processes", 1, lambda job: None)


def test_slots():
    assert make_launcher("inline", 5, run).slots == 1
    assert make_launcher("processes", None, run).slots == len(os.sched_getaffinity(0))
    assert make_launcher("processes", 5, run).slots == 5


# Nobody is left behind.


def eventually(condition, limit_s=20.0):
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def marked(value):
    """Ids of living processes that were started with our marker in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARKER}={value}".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


DRIVER = """
import sys
sys.path.insert(0, sys.argv[1])
with open(sys.argv[2], "a") as imports:
    imports.write("main module ran\\n")
from harness.interrupts import raise_interrupts
from harness.launchers.choose import make_launcher
from tests.harness.launchers import test_launchers

raise_interrupts()
print("ready", flush=True)
launcher = make_launcher("processes", 3, test_launchers.run)
try:
    for _ in range(3):
        launcher.submit(test_launchers.job(sys.argv[3], 100))
    print("submitted", flush=True)
    while True:
        launcher.wait(0.2)
except KeyboardInterrupt:
    launcher.close()
    sys.exit(130)
"""


@pytest.fixture
def driver(tmp_path, request):
    """A driver of three sleeping workers in a process group of its own, and the marker of all of them."""
    marker = f"{os.getpid()}-{time.monotonic_ns()}"
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    process = subprocess.Popen(
        [sys.executable, script, ROOT, tmp_path / "imports", "sleep"],
        env={**os.environ, MARKER: marker},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "ready\n"
    yield process, marker
    for pid in marked(marker):
        os.kill(pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the workers through /proc")
@pytest.mark.parametrize("delay_s", [0.0, 0.05, 0.1, 0.3, 0.8, 2.0])
def test_workers_leave_with_a_killed_driver(driver, tmp_path, delay_s):
    process, marker = driver
    time.sleep(delay_s)
    if delay_s == 2.0:
        assert len(marked(marker)) >= 4, "the driver and its workers were seen"
        assert (tmp_path / "imports").read_text() == "main module ran\n", "workers do not import it again"
    process.kill()
    assert eventually(lambda: not marked(marker), 3.0)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the workers through /proc")
@pytest.mark.parametrize("delay_s", [0.0, 0.3, 0.9])
def test_interrupting_the_whole_group_is_quiet(driver, delay_s):
    process, marker = driver
    assert process.stdout.readline() == "submitted\n"
    time.sleep(delay_s)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert stderr == ""
    assert process.returncode == 130
    assert eventually(lambda: not marked(marker), 3.0)


def test_closing_ends_busy_and_starting_workers(launch):
    pool = launch("processes", 3)
    outcomes = outcomes_of(pool, [job("surroundings")])
    pool.submit(job("sleep", 100))
    pool.submit(job("sleep", 100))
    pids = [worker.process.pid for worker in pool._workers]
    assert outcomes[0].result[0] in pids
    started = time.monotonic()
    pool.close()
    assert time.monotonic() - started < 10
    assert len(pids) == 2
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

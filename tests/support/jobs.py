"""Jobs for the launchers' tests; workers import this module, so it imports nothing heavy.

A job's cell is (name of a function below, argument).
"""

import os
import random
import signal
import sys
import time

from harness.errors import UserError
from harness.launchers.base import Job

PRELOADED = []


def square(x):
    return x * x


def nothing(_):
    return None


def fail(text):
    raise ValueError(text)


def refuse(text):
    raise UserError(text)


def chatter(size):
    print("x" * size)
    print("y" * size, file=sys.stderr, flush=True)
    os.write(1, b"\x00\xffnoise\n")
    return size


def surroundings(_):
    return os.getpid(), os.environ.get("OMP_NUM_THREADS"), os.environ.get("MKL_NUM_THREADS")


def preloads(_):
    return os.getpid(), list(PRELOADED)


def interrupted(_):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.1)
    return "carried on"


def die(number):
    os.kill(os.getpid(), number)
    time.sleep(60)


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


leave, exit_at_once, large = sys.exit, os._exit, bytes


def preload():
    """Called once in every worker."""
    PRELOADED.append(os.getpid())


def run(job):
    name, argument = job.cell
    if name == "device":
        time.sleep(0.5)  # so that all workers get one
        return os.getpid(), job.device
    return globals()[name](argument)


def job(name, argument=None):
    return Job((name, argument), "folder", "cpu")


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
UNSENT = [Job(lambda: None, "", "cpu"), job("unpicklable"), job("treacherous"), Job(Treacherous(), "", "cpu")]


def outcomes_of(launcher, jobs, limit_s=60.0):
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


def results_of(launcher, *jobs):
    return [outcome.result for outcome in outcomes_of(launcher, jobs)]


def assert_as_inline(launcher, inline, seed=0):
    """The same outcomes as inline, in whatever order; the driver gets back the very jobs it handed in."""
    jobs = random.Random(seed).sample(JOBS, len(JOBS))
    outcomes = outcomes_of(launcher, jobs)
    mine, theirs = (
        sorted((repr(o.job.cell), o.result, o.error, o.traceback is None) for o in some)
        for some in (outcomes, outcomes_of(inline, JOBS))
    )
    assert mine == theirs
    assert {o.job.cell: o.error for o in outcomes if o.error is not None} == ERRORS
    assert all("Traceback" in o.traceback for o in outcomes if o.error)
    assert all(any(o.job is j for j in jobs) for o in outcomes)


def assert_unsent(launcher):
    """What cannot be sent, in either direction, is the reason; other jobs go on."""
    jobs = [*UNSENT, job("square", 2)]
    errors = {next(k for k, j in enumerate(jobs) if j is o.job): o.error for o in outcomes_of(launcher, jobs)}
    assert errors[0].startswith("the job cannot be sent to a worker: ")
    assert errors[1].startswith("the result cannot be sent to the driver: ")
    assert errors[2] == errors[3] == "ValueError: cannot be read"
    assert errors[4] is None


def eventually(find, limit_s=30.0):
    """Wait until ``find`` returns something true; returns it."""
    deadline = time.monotonic() + limit_s
    while not (found := find()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
    return found

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
    """The process, its threads, and the processes that have preloaded it."""
    threads = os.environ.get("OMP_NUM_THREADS"), os.environ.get("MKL_NUM_THREADS")
    return os.getpid(), threads, list(PRELOADED)


def interrupted(_):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.1)
    return "carried on"


def die(number):
    os.kill(os.getpid(), number)
    time.sleep(60)


def die_with_heir(_):
    if os.fork() == 0:
        os.closerange(1, 3)  # otherwise a reader of the tests' output would wait for it
        time.sleep(90)  # longer than the tests' timeouts
        os._exit(0)
    die(signal.SIGKILL)


def unpicklable(_):
    return lambda: None


class Treacherous:
    """An object that can be pickled, but raises when it is unpickled."""

    def __init__(self, _=None):
        pass

    def __reduce__(self):
        return fail, ("cannot be read",)


leave, exit_at_once, large, sleep = sys.exit, os._exit, bytes, time.sleep


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


def assert_outcomes(launcher, seed=0):
    """Results and errors of jobs in some order, with the very jobs that were handed in."""
    results = {**{("square", x): x * x for x in range(6)}, ("sleep", 0): None, ("chatter", 200_000): 200_000}
    errors = {
        ("fail", "first line\nsecond line"): "ValueError: first line",
        ("fail", ""): "ValueError",
        ("refuse", "No such thing."): "No such thing.",
        ("leave", 0): "SystemExit: 0",
    }
    jobs = [job(*cell) for cell in (*results, *errors)]
    random.Random(seed).shuffle(jobs)
    outcomes = outcomes_of(launcher, jobs)
    assert sorted(map(id, jobs)) == sorted(id(o.job) for o in outcomes)
    assert {o.job.cell: o.result for o in outcomes if o.error is None} == results
    assert {o.job.cell: o.error for o in outcomes if o.error is not None} == errors
    assert all("Traceback" in o.traceback if o.error else o.traceback is None for o in outcomes)


def assert_unsent(launcher):
    """A job or result that cannot be pickled fails with that reason; other jobs continue."""
    jobs = [job("square", 2), job("unpicklable"), job("Treacherous")]
    jobs += [Job(cell, "", "cpu") for cell in (Treacherous(), lambda: None)]
    outcomes = outcomes_of(launcher, jobs)
    errors = [next(o.error for o in outcomes if o.job is job) for job in jobs]
    assert errors[0] is None
    assert errors[1].startswith("the result cannot be sent to the driver: ")
    assert errors[2] == errors[3] == "ValueError: cannot be read"
    assert errors[4].startswith("the job cannot be sent to a worker: ")


def eventually(find, limit_s=30.0):
    """Wait until ``find`` returns something true; returns it."""
    deadline = time.monotonic() + limit_s
    while not (found := find()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
    return found

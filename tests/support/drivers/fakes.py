"""In-memory stores, launcher and display that can fail, or kill their driver, at any call."""

import dataclasses
import itertools
from collections import Counter
from types import SimpleNamespace

import numpy as np

import harness.retry
import harness.study.driver
import harness.study.writer
from harness.claims.ledger import Ledger
from harness.launchers.base import Outcome
from harness.matrix import RESULTS_VERSION
from harness.retry import Retry, retried
from harness.study.unlogged import UnloggedResults
from harness.study.writer import Writer
from harness.tracking.tags import numbers
from harness.tracking.tracker import Run
from harness.train.result import Predictions, Result
from tests.harness.test_matrix import CELL

CELLS = tuple(dataclasses.replace(CELL, seed=seed) for seed in range(3))
FIRST, SECOND, _ = (cell.cell_id for cell in CELLS)


def result_of(number, status="complete"):
    values = {0.0: np.array([number, 0.1], np.float32)}
    predictions = Predictions(np.array(["a", "b"]), np.array([1.0, 2.0], np.float32), values)
    reason = "" if status == "complete" else "a loss is not finite at epoch 1, step 2"
    return Result(status, {"test": {"mae": float(number)}}, predictions=predictions, reason=reason)


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the driver may run after it but what unwinds."""


class Memory:
    """State that outlives a driver: MLflow's runs, the ledger's claims, and the living drivers."""

    def __init__(self):
        self.runs, self.claims, self.alive, self.trials = {}, {}, set(), []
        self.trained, self.handed_out = Counter(), Counter()
        self.ids = itertools.count()
        self.before_call = self.after_call = lambda name: None

    def call(self, name, action):
        self.before_call(name)
        answer = action()
        self.after_call(name)
        return answer

    def complete(self):
        return [r for r in self.runs.values() if r["complete"] and r["status"] == "FINISHED"]


def stored(run_id, run):
    tags = {"cell_id": run["cell_id"], "reason": run["reason"], "results_version": str(RESULTS_VERSION)}
    tags = {**run.get("tags", {}), **tags}
    return Run(run_id, "0", tags, numbers(run["result"]) if run.get("result") else {})


class FakeTracker:
    """The part of `Tracker` that writer and driver use."""

    study = "s"

    def __init__(self, memory):
        self.memory = memory

    def runs(self, wanted):
        if "'trial'" in wanted:
            return iter([])  # a trial's run is logged by one call here
        found = [stored(k, r) for k, r in self.memory.runs.items() if r["status"] == "RUNNING"]
        return self.memory.call("runs", lambda: iter(found))

    def adopt(self, run, tags):
        kept = {k: v for k, v in self.memory.runs[run.run_id]["tags"].items() if k != "sweep"}
        self.memory.call("adopt", lambda: self.memory.runs[run.run_id].update(tags={**kept, **tags}))

    def log_trial(self, trial):
        self.memory.call("log_trial", lambda: self.memory.trials.append(trial))

    def trials(self):
        tags = [{"search": t.search, "trial": str(t.number)} for t in self.memory.trials]
        return self.memory.call("trials", lambda: [SimpleNamespace(tags=t) for t in tags])

    def complete(self, everywhere=False):
        runs = self.memory.runs.items()
        found = {r["cell_id"]: stored(k, r) for k, r in runs if r in self.memory.complete()}
        return self.memory.call("complete", lambda: {} if everywhere else found)

    def diverged(self):
        runs = self.memory.runs.items()
        found = {r["cell_id"]: stored(k, r) for k, r in runs if r["outcome"] == "diverged"}
        return self.memory.call("diverged", lambda: found)

    def log(self, cell, result, labels):
        run_id = next(self.memory.ids)
        run = {"cell_id": cell.cell_id, "status": "RUNNING", "outcome": "", "complete": False, "result": None}
        run |= {"reason": result.reason, "tags": {**result.tags, **labels}}
        self.memory.call("create_run", lambda: self.memory.runs.__setitem__(run_id, run))
        self.memory.call("log_artifacts", lambda: run.update(result=result))
        return run_id

    def finish(self, run_id, result):
        run = self.memory.runs[run_id]
        good = result.status == "complete"
        self.memory.call("set_tag", lambda: run.update(complete=good))
        ended = {"status": "FINISHED"} if good else {"status": "FAILED", "outcome": result.status}
        self.memory.call("set_terminated", lambda: run.update(ended))

    def log_failure(self, cell, reason, tags, started):
        run = {"cell_id": cell.cell_id, "status": "FAILED", "outcome": "failed", "complete": False}
        entry = {**run, "reason": reason, "result": None, "tags": dict(tags)}
        self.memory.call("log_failure", lambda: self.memory.runs.__setitem__(next(self.memory.ids), entry))

    def abandon(self, run_id):
        self.memory.call("abandon", lambda: self.memory.runs[run_id].update(status="KILLED"))


class FakeLedger:
    """`Ledger` in a dict: cell_id -> [owner, state]; a claim expires with its owner."""

    exclusive = Ledger.exclusive

    def __init__(self, memory, owner):
        self.memory, self.owner, self.claims = memory, owner, memory.claims
        memory.alive.add(owner)

    def _claim(self, cell_id):
        owner, state = self.claims.get(cell_id, (None, "working"))
        if state == "done" or (owner in self.memory.alive and owner != self.owner):
            return False
        self.claims[cell_id] = [self.owner, "working"]
        return True

    def claim(self, cell_id):
        return self.memory.call("claim", lambda: self._claim(cell_id))

    def holds(self, cell_id):
        return self.memory.call("holds", lambda: self.claims.get(cell_id) == [self.owner, "working"])

    def _finish(self, cell_id):
        mine = self.claims.get(cell_id, [None])[0] == self.owner
        if mine:
            self.claims[cell_id][1] = "done"
        return mine

    def finish(self, cell_id):
        return self.memory.call("finish", lambda: self._finish(cell_id))

    def release(self, cell_id):
        self.memory.call("release", lambda: self.claims.pop(cell_id, None))

    def done(self):
        return self.memory.call(
            "done", lambda: {c for c, (_, state) in self.claims.items() if state == "done"}
        )

    def forget(self, cell_ids):
        self.memory.call("forget", lambda: [self.claims.pop(c, None) for c in cell_ids])

    def claimed_by_others(self, cell_ids):
        others = self.memory.alive - {self.owner}
        working = [[owner, "working"] for owner in others]
        return self.memory.call("claimed", lambda: {c for c in cell_ids if self.claims.get(c) in working})


for store in (FakeTracker, FakeLedger):
    for name, method in list(vars(store).items()):
        if not name.startswith("_") and name not in ("study", "exclusive"):
            setattr(store, name, retried(method))


def make_writer(memory, folder, owner, patience_s=60.0, report=lambda *wait: None, **settings):
    """A writer with stores in memory, which are retried; settings: of `Writer`."""
    unlogged, tracker, ledger = UnloggedResults(folder), FakeTracker(memory), FakeLedger(memory, owner)
    tracker.retry = ledger.retry = Retry(patience_s, report, unlogged.state)
    return Writer(tracker, ledger, unlogged, {}, **settings)


class FakeLauncher:
    """Ends all its jobs at once, or one by one in any order, each with its cell's result (or a reason).

    one_by_one: a generator of random numbers, or None. results: by cell_id, or a function of the job.
    """

    slots = 2
    one_by_one = None

    def __init__(self, memory, results):
        self.memory, self.results, self.jobs = memory, results, []

    def submit(self, job):
        self.memory.trained[job.cell.cell_id] += 1
        self.jobs.append(job)

    def wait(self, timeout_s):
        if self.one_by_one is None:
            jobs, self.jobs = self.jobs, []
        else:
            jobs = [self.jobs.pop(self.one_by_one.integers(len(self.jobs)))]
        self.memory.handed_out.update(job.cell.cell_id for job in jobs)
        of = self.results if callable(self.results) else lambda job: self.results[job.cell.cell_id]
        found = [(job, of(job)) for job in jobs]
        return [Outcome(j, None, r) if isinstance(r, str) else Outcome(j, r) for j, r in found]


class Silent:
    """A display that remembers."""

    def __init__(self):
        self.notes = {}

    def ended(self, cell, note):
        self.notes[cell.cell_id] = note

    def trials(self, total, ended):
        self.begun_with = [total, len(ended)]

    def __getattr__(self, name):
        return lambda *shown: None


def fake_clock(monkeypatch):
    """A clock that only `sleep` advances, for driver, writer and retries."""
    now = SimpleNamespace(s=0.0, slept=[])

    def sleep(seconds):
        now.s += seconds
        now.slept.append(seconds)

    fake = SimpleNamespace(monotonic=lambda: now.s, sleep=sleep, time=lambda: now.s)
    for module in (harness.retry, harness.study.writer, harness.study.driver):
        monkeypatch.setattr(module, "time", fake)
    return now

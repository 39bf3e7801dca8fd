"""Unlogged results, retries, writer and driver with stores in memory that fail or lose their driver."""

import contextlib
import dataclasses
import itertools
import os
import signal
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import StoreError
from harness.interrupts import interrupts_held
from harness.launchers.base import Job
from harness.retry import LONGEST_WAIT_S, Retry
from harness.study.driver import Driver
from harness.study.queue import Matrix
from harness.study.unlogged import UnloggedResults
from harness.tracking.tracker import Run
from tests.support.drivers.fakes import (
    CELLS,
    FIRST,
    SECOND,
    FakeLauncher,
    Killed,
    Memory,
    Silent,
    fake_clock,
    make_writer,
    result_of,
)

RESULTS = {cell.cell_id: result_of(i) for i, cell in enumerate(CELLS)}
DIVERGING = {**RESULTS, SECOND: result_of(1, "diverged")}


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    return fake_clock(monkeypatch)


@pytest.fixture
def memory():
    return Memory()


def make_driver(memory, folder, owner="me", results=RESULTS, retry=False, **settings):
    writer = make_writer(memory, folder, owner, **settings)
    launcher = FakeLauncher(memory, results)
    return Driver(Matrix(CELLS), writer, launcher, Silent(), lambda cell: Job(cell, "", "cpu"), retry)


def fails(times, error, name="create_run"):
    """A hook that makes the first calls of one kind fail."""
    left = itertools.count()

    def hook(called):
        if called == name and next(left) < times:
            raise error

    return hook


def assert_whole(memory, folder):
    assert sorted(r["cell_id"] for r in memory.complete()) == sorted(c.cell_id for c in CELLS)
    for run in memory.complete():
        assert run["result"].to_json() == RESULTS[run["cell_id"]].to_json()
    assert not [r for r in memory.runs.values() if r["status"] == "RUNNING"]
    assert not list(folder.glob("*"))


# Retries


def test_waits_grow_and_are_told_and_end_with_an_answer(tmp_path, clock, memory):
    told = []
    memory.before_call = fails(8, StoreError("the store sleeps"), "claim")
    driver = make_driver(memory, tmp_path, patience_s=1000.0, report=lambda *wait: told.append(wait))
    assert driver.run().complete
    waits = [seconds for _, seconds in told]
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30] == clock.slept[:8]
    assert max(waits) == LONGEST_WAIT_S
    assert {reason for reason, _ in told} == {"the store sleeps; all trained results are saved"}
    assert_whole(memory, tmp_path)


@pytest.mark.parametrize("patience_s", [0.0, 5.0, 100.0])
def test_patience_ends_and_nested_calls_share_it(clock, patience_s):
    retry, calls = Retry(patience_s, print, lambda: "all is kept"), []

    def action():
        calls.append(clock.s)
        raise StoreError("away")

    with pytest.raises(StoreError, match=r"^away; all is kept$"):
        retry(lambda: retry(action))
    assert sum(clock.slept) <= patience_s
    assert len(calls) == len(clock.slept) + 1


@pytest.mark.parametrize("reason", ["database disk image is malformed", "file is not a database"])
def test_a_damaged_file_is_not_waited_for(clock, reason):
    def action():
        raise StoreError(reason)

    with pytest.raises(StoreError, match="restore it from a backup, or move it away"):
        Retry(60.0, print, str)(action)
    assert not clock.slept


def test_a_result_that_cannot_be_kept_is_said_so(tmp_path):
    """At the second wait, the disk has room again."""
    place, told = tmp_path / "spool", []
    place.write_text("")

    def make_room(*wait):
        told.append(wait)
        if place.is_file():
            place.unlink()

    memory = Memory()
    memory.before_call = fails(3, StoreError("full"))
    assert make_driver(memory, place, report=make_room).run().complete
    assert told[0][0] == f"full; 2 results are only in memory: cannot write to {place} (Not a directory)"
    assert told[-1][0] == "full; all trained results are saved"
    assert_whole(memory, place)


def test_artifacts_that_cannot_be_read_are_trained_anew(tmp_path, memory):
    def load(run):
        raise StoreError("no such artifact")

    driver = make_driver(memory, tmp_path)
    elsewhere, complete = {FIRST: Run("old", "1", {"cell_id": FIRST}, {})}, driver.tracker.complete
    driver.tracker.complete = lambda everywhere=False: elsewhere if everywhere else complete()
    driver.tracker.load = load
    assert driver.run().trained == len(CELLS)
    assert_whole(memory, tmp_path)


# Driver


@pytest.mark.parametrize("when", ["before_call", "after_call"])
def test_killed_at_every_store_call(tmp_path, when):
    """Every cell ends up exactly once, and no result that a launcher handed out is trained again."""
    for place in itertools.count(1):
        memory, folder = Memory(), tmp_path / str(place)
        calls = itertools.count(1)

        def strike(name, place=place, calls=calls):
            if next(calls) == place:
                raise Killed

        setattr(memory, when, strike)
        with contextlib.suppress(Killed):
            make_driver(memory, folder, "first").run()
        memory.alive.clear()
        setattr(memory, when, lambda name: None)
        assert make_driver(memory, folder, "second").run().complete
        assert_whole(memory, folder)
        assert set(memory.handed_out.values()) == {1}
        if next(calls) <= place:
            break  # the first call did not fail
    assert place > 20


@given(seed=st.integers(0, 2**32), chance=st.floats(0.01, 0.3))
def test_killed_over_and_over(seed, chance):
    generator = np.random.default_rng(seed)

    def strike(name):
        if generator.random() < chance:
            raise Killed

    with tempfile.TemporaryDirectory() as folder:
        memory = Memory()
        for number in range(40):
            memory.before_call = memory.after_call = strike if number < 39 else (lambda name: None)
            with contextlib.suppress(Killed):
                make_driver(memory, Path(folder), f"driver {number}").run()
            memory.alive.clear()
        assert_whole(memory, Path(folder))


@pytest.mark.parametrize(
    "name", ["create_run", "log_artifacts", "set_tag", "set_terminated", "finish", "holds"]
)
@pytest.mark.parametrize("when", ["before_call", "after_call"])
def test_a_store_that_answers_late_costs_nothing(tmp_path, memory, name, when):
    """The call is retried, whether the request or the answer was lost."""
    setattr(memory, when, fails(2, StoreError("away"), name))
    assert make_driver(memory, tmp_path).run().trained == len(CELLS)
    assert_whole(memory, tmp_path)


def test_a_store_that_stays_away_costs_no_result(tmp_path, memory):
    memory.before_call = fails(10**6, StoreError("away"))
    with pytest.raises(StoreError, match="away; all trained results are saved"):
        make_driver(memory, tmp_path, "first", patience_s=10).run()
    memory.alive.clear()
    memory.before_call = lambda name: None
    kept = set(memory.trained)
    assert kept == {c.cell_id for c in CELLS if UnloggedResults(tmp_path).get(c.cell_id)}
    assert len(kept) == FakeLauncher.slots + 1, "those that came in together, and the one begun meanwhile"
    outcome = make_driver(memory, tmp_path, "second").run()
    assert (outcome.reused, outcome.trained) == (len(kept), len(CELLS) - len(kept))
    assert set(memory.trained.values()) == {1}
    assert_whole(memory, tmp_path)


@pytest.mark.parametrize("error", [StoreError("away"), KeyboardInterrupt()])
def test_what_workers_end_meanwhile_is_kept(tmp_path, memory, error):
    """The driver stops while it claims the second cell; the first one has been trained by then."""
    calls = itertools.count(1)

    def hook(name):
        if name == "claim" and next(calls) >= 2:
            raise error

    memory.before_call = hook
    with pytest.raises(type(error)):
        make_driver(memory, tmp_path, patience_s=0.0).run()
    assert UnloggedResults(tmp_path).get(FIRST) is not None


def test_a_lost_claim_is_waited_for_and_its_result_kept(tmp_path, memory):
    """Another driver takes a cell over while this one stands still, and dies: the kept result is logged."""
    taken = []

    def hook(name):
        if name == "log_artifacts" and not taken:
            taken.append(FIRST)
            memory.alive.add("other")
            memory.claims[FIRST] = ["other", "working"]
        elif name == "claimed" and taken:
            memory.alive.discard("other")

    memory.before_call = hook
    outcome = make_driver(memory, tmp_path).run()
    assert outcome.complete
    assert outcome.trained + outcome.reused == len(CELLS)
    assert not [run for run in memory.runs.values() if run["status"] == "KILLED" and run["complete"]]
    assert set(memory.trained.values()) == {1}
    assert_whole(memory, tmp_path)


def test_what_killed_drivers_left_unfinished_is_gone_when_all_is_done(tmp_path, memory):
    """One driver was killed before; another lost its claims, and is killed during its last write."""
    checkpoints, folder = tmp_path / "checkpoints", tmp_path / "spool"

    def leave(number):
        for cell, place in itertools.product(CELLS, (checkpoints, folder)):
            (place / f"{cell.cell_id}.{number}.tmp").mkdir(parents=True)

    leave(1)
    driver = make_driver(memory, folder, results=DIVERGING, checkpoints=checkpoints)
    driver._end_orphans = lambda: driver.outcome.runs and leave(2)
    driver.run()
    assert list(driver.outcome.failed) == [SECOND]
    assert not [*checkpoints.iterdir(), *folder.iterdir()]


def test_a_run_that_ends_between_two_looks_is_no_orphan(tmp_path, memory):
    """Another driver completes its run after it was seen running and before its claim is looked at."""
    make_driver(memory, tmp_path, "other").run()
    run = next(iter(memory.runs.values()))
    run.update(status="RUNNING", complete=False)
    memory.claims[run["cell_id"]] = ["other", "working"]

    def hook(name):
        if name == "claimed":
            run.update(status="FINISHED", complete=True)
            memory.claims[run["cell_id"]] = ["other", "done"]

    memory.before_call = hook
    make_driver(memory, tmp_path, "me").run()
    assert run["status"] == "FINISHED"
    assert_whole(memory, tmp_path)


def test_an_orphan_is_ended_and_a_living_drivers_run_is_not(tmp_path, memory):
    for cell_id, owner in ((FIRST, "dead"), (SECOND, "alive")):
        run = {"cell_id": cell_id, "status": "RUNNING", "complete": False, "outcome": "", "reason": ""}
        memory.runs[f"of the {owner}"] = {**run, "result": None}
        memory.claims[cell_id] = [owner, "working"]
    memory.alive.add("alive")
    make_driver(memory, tmp_path)._end_orphans()
    assert [run["status"] for run in memory.runs.values()] == ["KILLED", "RUNNING"]


def test_divergence_is_final_until_it_is_retried(tmp_path, memory):
    for number, (retry, times) in enumerate([(False, 1), (False, 1), (True, 2), (True, 3), (False, 3)]):
        outcome = make_driver(memory, tmp_path, f"driver {number}", DIVERGING, retry=retry).run()
        assert "epoch 1, step 2" in outcome.failed[SECOND][1]
        assert memory.trained[SECOND] == times
        assert len(memory.complete()) == len(CELLS) - 1
        assert memory.claims[SECOND][1] == "done", "else a driver that runs already trains it too"
        memory.alive.clear()
    assert make_driver(memory, tmp_path, "mended", RESULTS, retry=True).run().complete
    assert_whole(memory, tmp_path)


def test_an_unlogged_divergence_is_no_result(tmp_path, memory):
    UnloggedResults(tmp_path).put(CELLS[1], DIVERGING[SECOND])
    outcome = make_driver(memory, tmp_path, results=DIVERGING).run()
    assert set(outcome.failed) == {SECOND}
    assert (outcome.trained, outcome.reused) == (len(CELLS) - 1, 0)
    # A driver that is killed after it logged the divergence leaves this file.
    UnloggedResults(tmp_path).put(CELLS[1], DIVERGING[SECOND])
    assert make_driver(memory, tmp_path, "second", RESULTS, retry=True).run().complete
    assert_whole(memory, tmp_path)


@pytest.mark.parametrize("changed", [False, True])
def test_an_unlogged_result_of_changed_code_gives_way_only_if_asked(tmp_path, memory, changed):
    old = dataclasses.replace(RESULTS[SECOND], environment={"method_code": "of another formula"})
    UnloggedResults(tmp_path).put(CELLS[1], old)
    driver = make_driver(memory, tmp_path)
    driver.retry_changed = changed
    outcome = driver.run()
    assert (outcome.trained, outcome.reused) == (len(CELLS) - (not changed), not changed)
    if changed:
        assert_whole(memory, tmp_path)


@pytest.mark.parametrize("retry", [False, True])
def test_a_second_driver_does_not_train_what_diverges_in_the_first(tmp_path, memory, retry):
    if retry:
        make_driver(memory, tmp_path, "long ago", DIVERGING).run()
    before = memory.trained[SECOND]
    first = make_driver(memory, tmp_path, "first", DIVERGING)
    memory.claims.update({c.cell_id: ["first", "working"] for c in CELLS if c not in memory.complete()})
    ran, waiting = [], []

    def hook(name):
        if name == "claimed" and waiting and not ran:
            ran.append(True)
            memory.claims.clear()
            first.retry_diverged = retry
            first.run()

    second = make_driver(memory, tmp_path, "second", DIVERGING, retry=retry)
    second.display.waiting = waiting.append
    memory.before_call = hook
    outcome = second.run()
    assert ran
    assert set(outcome.failed) == {SECOND}
    assert memory.trained[SECOND] == before + 1


def test_a_failed_cell_is_given_back_with_its_reason(tmp_path, memory):
    reason = "worker died (signal 9: killed; often out of memory)"
    driver = make_driver(memory, tmp_path, results={**RESULTS, FIRST: reason})
    outcome = driver.run()
    assert list(outcome.failed) == [FIRST]
    assert driver.display.notes[FIRST] == reason
    assert [r["reason"] for r in memory.runs.values() if r["outcome"] == "failed"] == [reason]
    assert make_driver(memory, tmp_path, "next").run().complete
    assert_whole(memory, tmp_path)


# Interrupts


@pytest.mark.parametrize("strikes", [1, 4, 6, 9, 15, 18])
def test_an_interrupt_while_results_are_put_on_disk_loses_none(tmp_path, monkeypatch, memory, strikes):
    """Results that the launcher handed out exist nowhere else."""
    driver, sync, synced = make_driver(memory, tmp_path), os.fsync, itertools.count(1)

    def strike(file):
        sync(file)
        if next(synced) == strikes:
            signal.raise_signal(signal.SIGINT)

    driver.launcher.slots = len(CELLS)
    monkeypatch.setattr(os, "fsync", strike)
    with pytest.raises(KeyboardInterrupt):
        driver.run()
    memory.alive.clear()
    assert make_driver(memory, tmp_path, "next").run().complete
    assert set(memory.trained.values()) == {1}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_held_until_the_block_is_left(number):
    signal.signal(number, signal.default_int_handler)
    reached = []

    def held(signals, error=None):
        with interrupts_held():
            for count in range(signals):
                signal.raise_signal(number)
                reached.append(count)
            if error is not None:
                raise error

    for arguments in ((1,), (2,), (1, StoreError("away"))):
        with pytest.raises(KeyboardInterrupt):
            held(*arguments)
    assert signal.getsignal(number) is signal.default_int_handler
    assert reached == [0, 0, 0], "the second one is not held"


def test_an_ignored_interrupt_stays_ignored_and_threads_may_use_it_too():
    def use():
        with interrupts_held():
            return "done"

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupts_held():
        signal.raise_signal(signal.SIGINT)
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(use).result() == "done"

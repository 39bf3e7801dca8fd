"""Spool, writer and driver against stores in memory that fail, or lose their driver, at any call."""

import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError

from harness.errors import StoreError
from harness.interrupts import interrupts_held
from harness.launchers.base import Job
from harness.study.driver import Driver, Matrix
from harness.study.unlogged import Entry, Spool
from harness.study.writer import LONGEST_WAIT_S, Writer
from harness.tracking.tracker import Run
from harness.train.result import Predictions, Result
from tests.support.fakes import FakeLauncher, FakeLedger, FakeTracker, Killed, Memory, Silent, fake_clock

CELLS = tuple(SimpleNamespace(cell_id=f"cell{i}", run_name=f"run {i}") for i in range(3))


def result_of(number, status="complete"):
    values = {0.0: np.array([number, 0.1], np.float32)}
    predictions = Predictions(np.array(["a", "b"]), np.array([1.0, 2.0], np.float32), values)
    reason = "" if status == "complete" else "a loss is not finite at epoch 1, step 2"
    return Result(status, {"test": {"mae": float(number)}}, predictions=predictions, reason=reason)


RESULTS = {cell.cell_id: result_of(i) for i, cell in enumerate(CELLS)}


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    return fake_clock(monkeypatch)


def make_driver(memory, spool, owner="me", results=RESULTS, patience_s=60.0, retry=False, trouble=None):
    told = trouble if trouble is not None else []
    writer = Writer(
        FakeTracker(memory), FakeLedger(memory, owner), spool, {}, patience_s, lambda *t: told.append(t)
    )
    launcher = FakeLauncher(memory, results)
    return Driver(Matrix(CELLS), writer, launcher, Silent(), lambda cell: Job(cell, "", "cpu"), retry)


def fails(times, error, name="create_run"):
    """A hook that makes the first calls of one kind fail."""
    left = itertools.count()

    def hook(called):
        if called == name and next(left) < times:
            raise error

    return hook


def assert_whole(memory, spool):
    assert sorted(r["cell_id"] for r in memory.complete()) == sorted(c.cell_id for c in CELLS)
    for run in memory.complete():
        assert run["result"].to_json() == RESULTS[run["cell_id"]].to_json()
    assert not [r for r in memory.runs.values() if r["status"] == "RUNNING"]
    assert not list(spool.folder.glob("*"))


# Spool


@settings(deadline=None, max_examples=40)
@given(
    scores=st.dictionaries(st.text(max_size=5), st.floats(), max_size=3),
    values=st.lists(st.floats(width=32, allow_nan=False), max_size=5),
    started=st.floats(0, 1e12),
)
def test_an_entry_comes_back_bit_for_bit(scores, values, started):
    array = np.array(values, np.float32)
    ids = np.array([f"é{i}" for i in range(len(values))], dtype=str)
    entry = Entry(
        Result("complete", {"test": scores}, predictions=Predictions(ids, array, {0.3: array})),
        {"k": "v"},
        started,
    )
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder, "spool"))
        spool.put("a", entry)
        back = spool.get("a")
    assert back.result.to_json() == entry.result.to_json()
    assert (back.tags, back.started) == (entry.tags, entry.started)
    for name in ("ids", "labels"):
        mine, theirs = getattr(back.result.predictions, name), getattr(entry.result.predictions, name)
        assert mine.tolist() == theirs.tolist() if name == "ids" else mine.tobytes() == theirs.tobytes()
    assert back.result.predictions.values[0.3].tobytes() == array.tobytes()


@settings(deadline=None, max_examples=60)
@given(data=st.data(), cut=st.booleans())
def test_a_damaged_entry_is_no_entry(data, cut):
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder))
        spool.put("a", Entry(result_of(1), {}, 0.0))
        whole = (spool.folder / "a.json").read_bytes()
        place = data.draw(st.integers(0, len(whole) - 1))
        other = whole[place] ^ data.draw(st.integers(1, 255))
        damaged = whole[:place] if cut else whole[:place] + bytes([other]) + whole[place + 1 :]
        (spool.folder / "a.json").write_bytes(damaged)
        assert spool.get("a") is None


@pytest.mark.parametrize("payload", ["", "{}", "[]", "null", '{"result": 1, "tags": {}, "started": 0}'])
def test_an_entry_of_another_form_is_no_entry(tmp_path, payload):
    import hashlib

    digest = hashlib.sha256(payload.encode()).hexdigest()
    (tmp_path / "a.json").write_text(f"{digest}\n{payload}")
    assert Spool(tmp_path).get("a") is None


def test_a_full_disk_leaves_the_old_entry(tmp_path, monkeypatch):
    spool = Spool(tmp_path)
    spool.put("a", Entry(result_of(1), {}, 1.0))

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        spool.put("a", Entry(result_of(2), {}, 2.0))
    assert spool.get("a").started == 1.0
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "spool").write_text("")
    spool = Spool(tmp_path / "spool")
    with pytest.raises(OSError, match="exists"):
        spool.put("a", Entry(result_of(1), {}, 0.0))
    spool.tidy({"a"})
    spool.drop("a")
    assert spool.get("a") is None


def test_tidy_removes_what_is_done_and_nothing_else(tmp_path):
    spool = Spool(tmp_path)
    for name in ("a", "b"):
        spool.put(name, Entry(result_of(1), {}, 0.0))
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.77.tmp").write_text("cut")
    spool.tidy({"a", "c"})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.77.tmp", "b.json"]


# Writer


def test_waits_grow_and_are_told_and_end_with_an_answer(tmp_path, clock):
    memory, told = Memory(), []
    memory.before_call = fails(8, StoreError("the store sleeps"), "claim")
    driver = make_driver(memory, Spool(tmp_path), patience_s=1000.0, trouble=told)
    assert driver.run().complete
    waits = [seconds for _, seconds in told]
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30] == clock.slept[:8]
    assert max(waits) == LONGEST_WAIT_S
    assert {reason for reason, _ in told} == {"the store sleeps; what was trained is kept"}
    assert_whole(memory, driver.writer.spool)


@pytest.mark.parametrize("patience_s", [0.0, 5.0, 100.0])
def test_patience_ends(tmp_path, clock, patience_s):
    writer = make_driver(Memory(), Spool(tmp_path), patience_s=patience_s).writer

    def action():
        raise OperationalError("", None, Exception("could not connect to host\nat all"))

    with pytest.raises(StoreError) as caught:
        writer.patiently(action)
    assert str(caught.value) == (
        "the ledger memory failed: could not connect to host; what was trained is kept"
    )
    assert sum(clock.slept) <= patience_s


@pytest.mark.parametrize("reason", ["database disk image is malformed", "file is not a database"])
def test_a_damaged_file_is_not_waited_for(tmp_path, clock, reason):
    writer = make_driver(Memory(), Spool(tmp_path)).writer

    def action():
        raise StoreError(reason)

    with pytest.raises(StoreError, match="put a copy in its place, or move it away"):
        writer.patiently(action)
    assert not clock.slept


def test_a_result_that_cannot_be_kept_is_said_so(tmp_path):
    (tmp_path / "spool").write_text("")
    memory, told = Memory(), []
    memory.before_call = fails(3, StoreError("full"))
    driver = make_driver(memory, Spool(tmp_path / "spool"), trouble=told)
    assert driver.run().complete
    assert "2 trained cells are in memory only, because" in told[0][0]
    memory = Memory()
    memory.before_call = fails(3, StoreError("full"))
    # The second wait finds that there is room again.
    driver = make_driver(memory, Spool(tmp_path / "spool"), trouble=told)
    told.clear()

    def make_room(*trouble):
        told.append(trouble)
        if (tmp_path / "spool").is_file():
            (tmp_path / "spool").unlink()

    driver.writer.trouble = make_room
    assert driver.run().complete
    assert told[-1][0] == "full; what was trained is kept"
    assert_whole(memory, driver.writer.spool)


def test_artifacts_that_cannot_be_read_are_trained_anew(tmp_path):
    memory = Memory()
    driver = make_driver(memory, Spool(tmp_path))
    tracker = driver.tracker
    elsewhere = {CELLS[0].cell_id: Run("old", "1", {"cell_id": CELLS[0].cell_id}, {})}
    plain = tracker.complete
    tracker.complete = lambda everywhere=False: elsewhere if everywhere else plain()

    def load(run):
        raise StoreError("no such artifact")

    tracker.load = load
    assert driver.run().trained == len(CELLS)
    assert_whole(memory, driver.writer.spool)


# Driver


def test_an_undisturbed_study(tmp_path):
    memory, spool = Memory(), Spool(tmp_path)
    summary = make_driver(memory, spool).run()
    assert (summary.trained, summary.complete) == (len(CELLS), True)
    assert_whole(memory, spool)
    assert make_driver(memory, spool, "next").run().done_before == len(CELLS)
    assert set(memory.trained.values()) == {1}


@pytest.mark.parametrize("when", ["before_call", "after_call"])
def test_killed_at_every_store_call(tmp_path, when):
    """Every cell ends up exactly once, and no result that a launcher handed out is trained again."""
    for place in itertools.count(1):
        memory, spool = Memory(), Spool(tmp_path / f"{when}{place}")
        calls = itertools.count(1)

        def strike(name, place=place, calls=calls):
            if next(calls) == place:
                raise Killed

        setattr(memory, when, strike)
        struck = True
        try:
            make_driver(memory, spool, "first").run()
            struck = False
        except Killed:
            memory.alive.clear()
        setattr(memory, when, lambda name: None)
        assert make_driver(memory, spool, "second").run().complete
        assert_whole(memory, spool)
        assert set(memory.handed_out.values()) == {1}
        if not struck:
            break
    assert place > 20


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32), chance=st.floats(0.01, 0.3))
def test_killed_over_and_over(seed, chance):
    generator = np.random.default_rng(seed)

    def strike(name):
        if generator.random() < chance:
            raise Killed

    with tempfile.TemporaryDirectory() as folder:
        memory, spool = Memory(), Spool(Path(folder))
        for number in range(40):
            memory.before_call = memory.after_call = strike if number < 39 else (lambda name: None)
            try:
                make_driver(memory, spool, f"driver {number}").run()
            except Killed:
                memory.alive.clear()
        make_driver(memory, spool, "last").run()
        assert_whole(memory, spool)


@pytest.mark.parametrize(
    "name", ["create_run", "log_artifacts", "set_tag", "set_terminated", "finish", "holds"]
)
def test_a_store_that_answers_late_costs_nothing(tmp_path, name):
    """The call is made again, whether it was lost on its way there or on its way back."""
    for when in ("before_call", "after_call"):
        memory, spool = Memory(), Spool(tmp_path / when)
        setattr(memory, when, fails(2, StoreError("away"), name))
        assert make_driver(memory, spool).run().trained == len(CELLS)
        assert_whole(memory, spool)


def test_a_store_that_stays_away_costs_no_result(tmp_path):
    memory, spool = Memory(), Spool(tmp_path)
    memory.before_call = fails(10**6, StoreError("away"))
    with pytest.raises(StoreError, match="away; what was trained is kept"):
        make_driver(memory, spool, "first", patience_s=10).run()
    memory.alive.clear()
    memory.before_call = lambda name: None
    kept = set(memory.trained)
    assert kept == {c.cell_id for c in CELLS if spool.get(c.cell_id)}
    assert len(kept) == FakeLauncher.slots + 1, "those that came in together, and the one begun meanwhile"
    summary = make_driver(memory, spool, "second").run()
    assert (summary.reused, summary.trained) == (len(kept), len(CELLS) - len(kept))
    assert set(memory.trained.values()) == {1}
    assert_whole(memory, spool)


@pytest.mark.parametrize("error", [StoreError("away"), KeyboardInterrupt()])
def test_what_workers_end_meanwhile_is_kept(tmp_path, error):
    """The driver stops while it claims the second cell; the first one has been trained by then."""
    memory, spool = Memory(), Spool(tmp_path)
    calls = itertools.count(1)

    def hook(name):
        if name == "claim" and next(calls) >= 2:
            raise error

    memory.before_call = hook
    with pytest.raises(type(error)):
        make_driver(memory, spool, patience_s=0.0).run()
    assert spool.get(CELLS[0].cell_id) is not None


def test_a_lost_claim_is_waited_for_and_its_result_kept(tmp_path):
    """Another driver takes a cell over while this one stands still, and dies: the kept result is logged."""
    memory, spool = Memory(), Spool(tmp_path)
    taken = []

    def hook(name):
        if name == "log_artifacts" and not taken:
            taken.append(CELLS[0].cell_id)
            memory.alive.add("other")
            memory.claims[CELLS[0].cell_id] = ["other", "working"]
        elif name == "claimed" and taken:
            memory.alive.discard("other")

    memory.before_call = hook
    summary = make_driver(memory, spool).run()
    assert summary.complete
    assert summary.trained + summary.reused == len(CELLS)
    assert not [run for run in memory.runs.values() if run["status"] == "KILLED" and run["complete"]]
    assert set(memory.trained.values()) == {1}
    assert_whole(memory, spool)


def test_a_run_that_ends_between_two_looks_is_no_orphan(tmp_path):
    """Another driver completes its run after it was seen running and before its claim is looked at."""
    memory, spool = Memory(), Spool(tmp_path)
    make_driver(memory, spool, "other").run()
    run = next(iter(memory.runs.values()))
    run.update(status="RUNNING", complete=False)
    memory.claims[run["cell_id"]] = ["other", "working"]

    def hook(name):
        if name == "claimed":
            run.update(status="FINISHED", complete=True)
            memory.claims[run["cell_id"]] = ["other", "done"]

    memory.before_call = hook
    make_driver(memory, spool, "me").run()
    assert run["status"] == "FINISHED"
    assert_whole(memory, spool)


def test_an_orphan_is_ended_and_a_living_drivers_run_is_not(tmp_path):
    memory = Memory()
    for number, owner in enumerate(("dead", "alive")):
        memory.runs[f"of the {owner}"] = {
            **{"cell_id": CELLS[number].cell_id, "status": "RUNNING", "complete": False},
            **{"outcome": "", "reason": "", "result": None},
        }
        memory.claims[CELLS[number].cell_id] = [owner, "working"]
    memory.alive.add("alive")
    make_driver(memory, Spool(tmp_path))._end_orphans()
    assert [run["status"] for run in memory.runs.values()] == ["KILLED", "RUNNING"]


DIVERGING = {**RESULTS, CELLS[1].cell_id: result_of(1, "diverged")}


def test_divergence_is_final_until_it_is_retried(tmp_path):
    memory, spool = Memory(), Spool(tmp_path)
    for number, (retry, times) in enumerate([(False, 1), (False, 1), (True, 2), (True, 3), (False, 3)]):
        driver = make_driver(memory, spool, f"driver {number}", DIVERGING, retry=retry)
        summary = driver.run()
        assert "epoch 1, step 2" in summary.failed[CELLS[1].cell_id][1]
        assert memory.trained[CELLS[1].cell_id] == times
        assert len(memory.complete()) == len(CELLS) - 1
        assert memory.claims[CELLS[1].cell_id][1] == "done", "else a driver that runs already trains it too"
        memory.alive.clear()
    assert make_driver(memory, spool, "mended", RESULTS, retry=True).run().complete
    assert_whole(memory, spool)


def test_a_retry_takes_no_logged_divergence_from_the_spool(tmp_path):
    """Left there by a driver that was killed after it had logged the divergence."""
    memory, spool = Memory(), Spool(tmp_path)
    make_driver(memory, spool, "first", DIVERGING).run()
    spool.put(CELLS[1].cell_id, Entry(DIVERGING[CELLS[1].cell_id], {}, 0.0))
    assert make_driver(memory, spool, "second", RESULTS, retry=True).run().complete
    assert_whole(memory, spool)


def test_divergence_from_the_spool_is_no_result(tmp_path):
    memory, spool = Memory(), Spool(tmp_path)
    spool.put(CELLS[1].cell_id, Entry(DIVERGING[CELLS[1].cell_id], {}, 0.0))
    summary = make_driver(memory, spool, results=DIVERGING).run()
    assert set(summary.failed) == {CELLS[1].cell_id}
    assert (summary.trained, summary.reused) == (len(CELLS) - 1, 0)


@pytest.mark.parametrize("retry", [False, True])
def test_a_second_driver_does_not_train_what_diverges_in_the_first(tmp_path, retry):
    memory, spool = Memory(), Spool(tmp_path)
    if retry:
        make_driver(memory, spool, "long ago", DIVERGING).run()
    before = memory.trained[CELLS[1].cell_id]
    first = make_driver(memory, spool, "first", DIVERGING)
    memory.claims.update({c.cell_id: ["first", "working"] for c in CELLS if c not in memory.complete()})
    ran = []

    def hook(name):
        if name == "claimed" and waiting and not ran:
            ran.append(True)
            memory.claims.clear()
            first.retry_diverged = retry
            first.run()

    second = make_driver(memory, spool, "second", DIVERGING, retry=retry)
    waiting = []
    second.display.waiting = waiting.append
    memory.before_call = hook
    summary = second.run()
    assert ran
    assert set(summary.failed) == {CELLS[1].cell_id}
    assert memory.trained[CELLS[1].cell_id] == before + 1


def test_a_failed_cell_is_given_back_with_its_reason(tmp_path):
    memory, spool = Memory(), Spool(tmp_path)
    failing = {**RESULTS, CELLS[0].cell_id: "worker died (signal 9: killed; often out of memory)"}
    driver = make_driver(memory, spool, results=failing)
    summary = driver.run()
    assert list(summary.failed) == [CELLS[0].cell_id]
    assert driver.display.notes[CELLS[0].cell_id] == failing[CELLS[0].cell_id]
    assert [r["reason"] for r in memory.runs.values() if r["outcome"] == "failed"] == [
        failing[CELLS[0].cell_id]
    ]
    assert make_driver(memory, spool, "next").run().complete
    assert_whole(memory, spool)


# Interrupts


@pytest.mark.parametrize("strikes", range(1, len(CELLS) + 1))
def test_an_interrupt_while_results_are_spooled_loses_none(tmp_path, monkeypatch, strikes):
    """Of those that the launcher has handed out nobody else knows."""
    memory, spool, synced = Memory(), Spool(tmp_path / "spool"), itertools.count(1)
    driver, sync = make_driver(memory, spool), os.fsync

    def strike(file):
        sync(file)
        if next(synced) == strikes:
            signal.raise_signal(signal.SIGINT)

    driver.launcher.slots = len(CELLS)
    monkeypatch.setattr(os, "fsync", strike)
    with pytest.raises(KeyboardInterrupt):
        driver.run()
    memory.alive.clear()
    assert make_driver(memory, spool, "next").run().complete
    assert set(memory.trained.values()) == {1}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_held_until_the_block_is_left(number):
    before = signal.signal(number, signal.default_int_handler)
    reached = []

    def held(signals, error=None):
        with interrupts_held():
            for count in range(signals):
                signal.raise_signal(number)
                reached.append(count)
            if error is not None:
                raise error

    try:
        for given in ((1,), (2,), (1, StoreError("away"))):
            with pytest.raises(KeyboardInterrupt):
                held(*given)
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
    assert reached == [0, 0, 0], "the second one is not held"


def test_an_ignored_interrupt_stays_ignored_and_threads_may_use_it_too():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    done = []

    def use():
        with interrupts_held():
            done.append("thread")

    try:
        with interrupts_held():
            signal.raise_signal(signal.SIGINT)
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert done == ["thread"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("place", ["destructor", "weak reference", "hook", "unheard"])
def test_no_interrupt_is_lost_where_python_drops_exceptions(number, place):
    """A process of its own, for what it does to signals and hooks."""
    script = f"""
import os, signal, time, weakref
from harness.command import leave, run_command

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it

def strike(*_):
    os.kill(os.getpid(), {int(number)})
    time.sleep(0.2)

def slow(again):
    def hook(*given):
        again(*given)
        time.sleep(0.3)  # the next one strikes in here
    return hook

if {place == "hook"}:
    from harness import interrupts
    interrupts._interrupt_again = slow(interrupts._interrupt_again)

def to_nobody(*given, kill=signal.pthread_kill):
    signal.pthread_kill = kill

if {place == "unheard"}:
    signal.pthread_kill = to_nobody

class Thing:
    if {place != "weak reference"}:
        __del__ = strike

def action(arguments):
    thing = Thing()
    watched = weakref.ref(thing, strike if {place == "weak reference"} else None)
    del thing
    print("dropped", flush=True)
    time.sleep(60)
    return 0

leave(run_command(action, [], ""))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert done.stdout == "dropped\n", "else it was not dropped"
    assert done.stderr == "Stopped; the same command resumes where it was.\n"
    assert done.returncode == 130


def test_the_spools_files_are_plain_json(tmp_path):
    Spool(tmp_path).put("a", Entry(result_of(1), {"k": "v"}, 3.0))
    digest, _, text = (tmp_path / "a.json").read_text().partition("\n")
    assert len(digest) == 64
    assert json.loads(text)["started"] == 3.0

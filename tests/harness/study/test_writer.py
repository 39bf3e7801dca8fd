"""Unlogged results, retries, writer and driver against stores in memory that fail, or lose their driver."""

import base64
import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import signal
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import StoreError
from harness.interrupts import interrupts_held
from harness.launchers.base import Job
from harness.retry import LONGEST_WAIT_S, Retry
from harness.study.driver import Driver
from harness.study.queue import Matrix
from harness.study.unlogged import UnloggedResults, write_sums
from harness.tracking.tracker import Run
from harness.train.result import Predictions, Result
from tests.harness.test_matrix import CELL
from tests.support.drivers.fakes import FakeLauncher, Killed, Memory, Silent, fake_clock, make_writer

CELLS = tuple(dataclasses.replace(CELL, seed=seed) for seed in range(3))
FIRST, SECOND, _ = (cell.cell_id for cell in CELLS)


def result_of(number, status="complete"):
    values = {0.0: np.array([number, 0.1], np.float32)}
    predictions = Predictions(np.array(["a", "b"]), np.array([1.0, 2.0], np.float32), values)
    reason = "" if status == "complete" else "a loss is not finite at epoch 1, step 2"
    return Result(status, {"test": {"mae": float(number)}}, predictions=predictions, reason=reason)


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


# Unlogged results


def make_predictions(numbers):
    values = np.array(numbers, np.float32)
    ids = np.array([f"clip_{k}é" for k in range(len(values))])
    return Predictions(ids, values[::-1].copy(), {0.0: values, 0.3: -values})


SAMPLES = {"u": np.arange(6, dtype=np.float16).reshape(2, 3), "indices": np.array([[1, 2]])}
words = st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2)
tables = st.dictionaries(st.text(max_size=5), st.floats(), max_size=3)  # NaN and infinities included
results = st.builds(
    Result,
    status=st.sampled_from(["complete", "diverged"]),
    scores=st.dictionaries(st.sampled_from(["valid", "test", "test_r0.30"]), tables),
    undefined=words,
    cell=tables,
    curves=st.dictionaries(st.text(max_size=5), st.lists(st.floats(), max_size=3), max_size=2),
    environment=words,
    reason=st.text(max_size=5),
    predictions=st.none() | st.lists(st.floats(width=32), min_size=1, max_size=5).map(make_predictions),
    samples=st.just(SAMPLES),
    tags=st.just({"k": "v"}),
    started=st.floats(0, 1e12),
)


@settings(deadline=None, max_examples=40)
@given(result=results)
def test_a_result_comes_back_bit_for_bit(result):
    """NaN equals NaN, arrays are equal bit for bit but for the sign of NaN."""
    with tempfile.TemporaryDirectory() as folder:
        unlogged = UnloggedResults(Path(folder, "new"))
        assert unlogged.put(CELL, result) is None
        back = unlogged.get(CELL.cell_id)
    for field in dataclasses.fields(Result):
        if field.name != "predictions":
            np.testing.assert_equal(getattr(back, field.name), getattr(result, field.name))
    assert back.to_json() == result.to_json()
    assert [array.dtype for array in back.samples.values()] == [np.float16, np.int64]
    a, b = back.predictions, result.predictions
    assert (a is None) == (b is None)
    if a is not None:
        assert list(a.values) == list(b.values)
        for x, y in [(a.ids, b.ids), (a.labels, b.labels), *((a.values[r], b.values[r]) for r in a.values)]:
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)
            assert x.dtype.kind == "U" or (np.signbit(x) == np.signbit(y))[~np.isnan(x)].all()


@settings(deadline=None, max_examples=30)
@given(data=st.data(), cut=st.booleans())
def test_a_damaged_result_is_none(data, cut):
    with tempfile.TemporaryDirectory() as folder:
        unlogged = UnloggedResults(Path(folder))
        unlogged.put(CELL, dataclasses.replace(result_of(1), samples={"a": np.ones(2)}, tags={"k": "v"}))
        path = data.draw(st.sampled_from(sorted(Path(folder, CELL.cell_id).iterdir())))
        whole = path.read_bytes()
        place = data.draw(st.integers(0, len(whole) - 1))
        other = whole[place] ^ data.draw(st.integers(1, 255))
        path.write_bytes(whole[:place] if cut else whole[:place] + bytes([other]) + whole[place + 1 :])
        assert unlogged.get(CELL.cell_id) is None
        path.unlink()
        assert unlogged.get(CELL.cell_id) is None
        unlogged.put(CELL, result_of(2))
        assert unlogged.get(CELL.cell_id).scores["test"]["mae"] == 2


@pytest.mark.parametrize("name", ["waiting.json", "result.json", "predictions.parquet"])
@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"tags": [], "started": 0}', '{"a": 1}'])
def test_a_file_of_another_form_is_no_result(tmp_path, name, content):
    unlogged = UnloggedResults(tmp_path)
    unlogged.put(CELL, result_of(1))
    (tmp_path / CELL.cell_id / name).write_text(content)
    write_sums(tmp_path / CELL.cell_id)
    assert unlogged.get(CELL.cell_id) is None


def write_earlier(path, **changes):
    """A result that waits as earlier versions wrote it."""
    fields = {
        **{"status": "complete", "scores": {"test": {"mae": 0.5}}, "undefined": {}, "cell": {}, "curves": {}},
        **{"environment": {"device": "cpu"}, "reason": ""},
        "predictions": {"ids": ["a", "é"], "labels": [1.0, 2.0], "values": [[0.3, [0.1, -2.0]]]},
        "samples": {"u": {"dtype": "<f2", "shape": [1, 2], "data": base64.b64encode(b"\0<\0@").decode()}},
    }
    text = json.dumps({"result": fields, "tags": {"k": "v"}, "started": 3.0} | changes)
    path.write_text(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}", "utf-8")


def test_a_result_of_an_earlier_version_is_read(tmp_path):
    path = tmp_path / f"{CELL.cell_id}.json"
    write_earlier(path)
    unlogged = UnloggedResults(tmp_path)
    found = unlogged.get(CELL.cell_id)
    assert (found.scores, found.tags, found.started) == ({"test": {"mae": 0.5}}, {"k": "v"}, 3.0)
    assert found.predictions.ids.tolist() == ["a", "é"]
    assert found.predictions.values[0.3].tolist() == np.float32([0.1, -2]).tolist()
    assert found.samples["u"].tolist() == [[1.0, 2.0]]
    unlogged.put(CELL, result_of(1))
    assert [p.name for p in tmp_path.iterdir()] == [path.name], "it is as good as any other"
    for damage in ({"result": 1}, {"tags": {"k": 1}}, {"started": "x"}):
        write_earlier(path, **damage)
        assert unlogged.get(CELL.cell_id) is None
    path.write_text("0" * 64 + "\n{}")
    assert unlogged.get(CELL.cell_id) is None
    unlogged.drop(CELL.cell_id)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    unlogged = UnloggedResults(tmp_path)

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert unlogged.put(CELL, result_of(1)).strerror == "No space left on device"
        assert not list(tmp_path.iterdir())
        said = f"1 result is only in memory: cannot write to {tmp_path} (No space left on device)"
        assert unlogged.state() == said
    assert unlogged.get(CELL.cell_id) is not None, "from memory"
    assert unlogged.state() == "all trained results are saved"
    assert UnloggedResults(tmp_path).get(CELL.cell_id).to_json() == result_of(1).to_json()


def test_tidy_removes_what_is_done_and_nothing_else(tmp_path):
    unlogged = UnloggedResults(tmp_path)
    for cell in CELLS[:2]:
        unlogged.put(cell, result_of(1))
    for cell in CELLS:
        (tmp_path / f"{cell.cell_id}.77.tmp").mkdir()
        (tmp_path / f"{cell.cell_id}.77.tmp" / "result.json").write_text("cut")
    unlogged.tidy({FIRST, CELLS[2].cell_id})
    assert sorted(p.name for p in tmp_path.iterdir()) == [SECOND, f"{SECOND}.77.tmp"]


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
    """The second wait finds that there is room again."""
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
            break  # the first one was not struck
    assert place > 20


@settings(deadline=None, max_examples=30)
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
    """The call is made again, whether it was lost on its way there or on its way back."""
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
    """One was killed before; another one lost its claims, and is killed while it writes, at the very end."""
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
    # As a driver leaves it that is killed after it has logged the divergence.
    UnloggedResults(tmp_path).put(CELLS[1], DIVERGING[SECOND])
    assert make_driver(memory, tmp_path, "second", RESULTS, retry=True).run().complete
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
    """Of those that the launcher has handed out nobody else knows."""
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

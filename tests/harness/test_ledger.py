"""Claims have one owner, and expire when it is dead or silent; databases are complete or absent."""

import contextlib
import itertools
import os
import signal
import sqlite3
import subprocess
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from harness.claims import table
from harness.claims.ledger import Ledger
from harness.claims.process import Process, is_gone, process_of, this_process
from harness.databases import create_sqlite, redact, sqlite_path, sqlite_uri
from harness.errors import StoreError, UserError
from tests.support.drivers.jobs import eventually

CELLS = ("a", "b", "c")
ELSEWHERE = Process("another host", 1, 1)


class Clock:
    """A clock that advances only on command."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def file_uri(tmp_path):
    return sqlite_uri(tmp_path / "ledger.db")


@pytest.fixture(params=["file_uri", "postgres"], ids=["sqlite", "postgresql"])
def uri(request):
    """An empty ledger of each kind."""
    address = request.getfixturevalue(request.param)
    return address if isinstance(address, str) else address()


@pytest.fixture
def ended():
    """The identity of a process that has ended."""
    child = subprocess.Popen(["sleep", "60"])
    process = process_of(child.pid)
    child.kill()
    child.wait()
    return process


class ThreeDrivers(RuleBasedStateMachine):
    """Any sequence of calls by living drivers, against a dictionary {cell: (owner, state)}."""

    def __init__(self, uri, study):
        super().__init__()
        self.drivers = [Ledger(uri, study) for _ in range(3)]
        self.other_study = Ledger(uri, f"other than {study}")
        self.model = {}

    @rule(who=st.integers(0, 2), cell=st.sampled_from(CELLS))
    def claim(self, who, cell):
        expected = self.model.setdefault(cell, (who, "working")) == (who, "working")
        assert self.drivers[who].claim(cell) is expected

    @rule(who=st.integers(0, 2), cell=st.sampled_from(CELLS))
    def finish(self, who, cell):
        owned = self.model.get(cell) in [(who, "working"), (who, "done")]
        assert self.drivers[who].finish(cell) is owned, "it may be repeated"
        if owned:
            self.model[cell] = (who, "done")

    @rule(who=st.integers(0, 2), cell=st.sampled_from(CELLS))
    def release(self, who, cell):
        self.drivers[who].release(cell)
        if self.model.get(cell) == (who, "working"):
            del self.model[cell]

    @rule(who=st.integers(0, 2))
    def release_all(self, who):
        self.drivers[who].release_all()
        self.model = {cell: claim for cell, claim in self.model.items() if claim != (who, "working")}

    @rule(who=st.integers(0, 2), cells=st.sets(st.sampled_from(CELLS)))
    def forget(self, who, cells):
        self.drivers[who].forget(cells)
        for cell in cells:
            if self.model.get(cell, (0, ""))[1] == "done":
                del self.model[cell]

    @rule(who=st.integers(0, 2))
    def look(self, who):
        driver = self.drivers[who]
        assert driver.done() == {cell for cell, (_, state) in self.model.items() if state == "done"}
        others = {cell for cell, (owner, state) in self.model.items() if state == "working" and owner != who}
        assert driver.claimed_by_others(CELLS) == others
        mine = {cell for cell in CELLS if driver.holds(cell)}
        assert mine == {cell for cell, claim in self.model.items() if claim == (who, "working")}
        assert self.other_study.done() | self.other_study.claimed_by_others(CELLS) == set()

    def teardown(self):
        for driver in [*self.drivers, self.other_study]:
            driver.close()


def test_three_drivers(uri):
    studies = map(str, itertools.count())
    examples = 15 if sqlite_path(uri) else 6
    # Databases answer too slowly for Hypothesis's default deadline.
    short = settings(
        deadline=None, max_examples=examples, stateful_step_count=15, suppress_health_check=HealthCheck
    )
    run_state_machine_as_test(lambda: ThreeDrivers(uri, next(studies)), settings=short)


def test_claims_of_an_ended_process_fall_at_once(uri, ended):
    dead, living = Ledger(uri, "study", process=ended), Ledger(uri, "study")
    assert all(dead.claim(cell) for cell in CELLS)
    assert dead.finish("c")
    assert living.claimed_by_others(CELLS) == set()
    assert living.claim("a")
    assert living.holds("a")
    assert not dead.holds("a")
    assert not dead.finish("a")
    assert not living.claim("c"), "what a dead driver finished stays done"
    dead.release_all()
    assert living.holds("a"), "who lost a claim cannot release it"


def test_who_counts_as_gone(ended, tmp_path):
    me = this_process()
    assert me.started is not None
    assert process_of(os.getpid()) == me
    assert not is_gone(me)
    assert is_gone(ended)
    assert is_gone(replace(me, started=me.started - 1)), "the id belongs to a later process"
    assert not is_gone(replace(ended, started=None)), "unknown: only the beat decides"
    assert not is_gone(process_of(os.getppid()))
    odd = tmp_path / "a) R (b"
    odd.symlink_to("/bin/sleep")
    zombie, plain = subprocess.Popen([odd, "60"]), subprocess.Popen(["sleep", "60"])
    seen = process_of(zombie.pid)
    assert 0 <= process_of(plain.pid).started - seen.started < 10**4, "whatever is in its name"
    assert not is_gone(seen)
    plain.kill()
    plain.wait()
    zombie.kill()
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    assert is_gone(seen)
    zombie.wait()


@pytest.mark.parametrize("change", [{"host": "another host"}, {"started": None}])
def test_other_hosts_process_ids_mean_nothing_here(uri, ended, change):
    far, near = Ledger(uri, "study", process=replace(ended, **change)), Ledger(uri, "study")
    assert far.claim("a")
    assert not near.claim("a")
    assert near.claimed_by_others(CELLS) == {"a"}


@pytest.mark.parametrize("ask", [Ledger.claim, lambda ledger, cell: not ledger.claimed_by_others([cell])])
def test_a_claim_falls_when_its_beat_stands_still(uri, ask):
    clock = Clock()
    far = Ledger(uri, "study", process=ELSEWHERE)
    near = Ledger(uri, "study", stale_s=60, clock=clock)
    assert far.claim("a")
    assert not ask(near, "a"), "never seen before: no time has passed"
    clock.now = 59.9
    assert not ask(near, "a")
    far.beat()
    clock.now = 119.0
    assert not ask(near, "a"), "the beat moved: the time starts anew"
    clock.now = 178.9
    assert not ask(near, "a")
    clock.now = 179.0
    assert ask(near, "a")
    assert near.claim("a")
    assert not far.holds("a")
    far.beat()
    assert near.holds("a"), "the late beat of a former owner changes nothing"
    assert far.claim("b")
    assert not near.claim("b")
    far.release("b")
    clock.now = 1000.0
    assert far.claim("b")
    assert not near.claim("b"), "released and claimed again it looks alive"


def test_questions_in_bulk(uri):
    far, near = Ledger(uri, "study", process=ELSEWHERE), Ledger(uri, "study")
    ids = [f"cell{i}" for i in range(1203)]
    with far._engine.begin() as connection:
        rows = [{"study": "study", "cell_id": cell, **far._stamp()} for cell in ids[::2]]
        connection.execute(table.CLAIMS.insert(), rows)
    assert near.claimed_by_others(ids) == set(ids[::2])
    assert near.claimed_by_others(ids[:7]) == set(ids[:7:2])
    assert near.claimed_by_others([]) == set()
    assert all(far.finish(cell) for cell in ids[:20:2])
    near.forget(ids[2:])
    assert near.done() == {ids[0]}


def claim_all(uri, go, out):
    """Claim each cell as soon as all processes are ready, and write the claimed ones."""
    ledger = Ledger(uri, "study")
    os.write(out, b"ready\n")
    os.read(go, 1)
    os.write(out, " ".join(cell for cell in map(str, range(50)) if ledger.claim(cell)).encode() + b"\n")
    signal.pause()  # claims of an ended process expire


def test_racing_processes_claim_each_cell_once(uri, ended):
    """A dead driver holds claims on every second cell."""
    dead = Ledger(uri, "study", process=ended)
    assert all(dead.claim(str(i)) for i in range(0, 50, 2))
    dead._idle.close()  # an open SQLite file must not be inherited
    dead._engine.dispose()
    go, start = os.pipe()
    children, outputs = [], []
    for _ in range(3):
        reading, writing = os.pipe()
        children.append(os.fork())
        if children[-1] == 0:
            with contextlib.suppress(BaseException):
                claim_all(uri, go, writing)
            os._exit(1)
        os.close(writing)
        outputs.append(os.fdopen(reading))
    assert [output.readline() for output in outputs] == ["ready\n"] * 3
    os.write(start, b"...")
    claimed = [output.readline().split() for output in outputs]
    for child, output in zip(children, outputs, strict=True):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        output.close()
    os.close(go)
    os.close(start)
    assert Counter(itertools.chain(*claimed)) == Counter(map(str, range(50)))


def beats(driver):
    return {row.cell_id: row.beat for row in driver._rows()}


def test_the_heart_beats_through_a_locked_database(file_uri, monkeypatch):
    monkeypatch.setattr(table, "BUSY_TIMEOUT_S", 0.05)
    with Ledger(file_uri, "study", beat_s=0.02) as driver:
        assert driver.claim("a")
        assert driver.claim("b")
        before = beats(driver)
        eventually(lambda: all(beats(driver)[cell] > before[cell] + 2 for cell in "ab"))
        failures, plain = [], driver.beat

        def beat():
            try:
                plain()
            except StoreError as error:
                failures.append(error)
                raise

        driver.beat = beat
        with contextlib.closing(sqlite3.connect(sqlite_path(file_uri), isolation_level=None)) as blocker:
            blocker.execute("BEGIN IMMEDIATE")
            eventually(lambda: failures)
            with pytest.raises(StoreError):
                driver.claim("c")
        before = beats(driver)
        eventually(lambda: beats(driver)["a"] > before["a"])
        assert driver.finish("b")
    assert "ledger-heartbeat" not in {thread.name for thread in threading.enumerate()}
    second = Ledger(file_uri, "study")
    assert second.claim("a"), "closing gives back what is not done"
    assert not second.claim("b")


def test_a_ledger_cannot_be_in_memory():
    with pytest.raises(UserError, match="cannot be in memory"):
        Ledger("sqlite:///:memory:", "study")


@pytest.mark.parametrize(("beat_s", "stale_s"), [(5, 9.9), (0, 60), (-1, 60), (5, 0), (float("nan"), 60)])
def test_claims_must_outlive_a_late_beat(file_uri, beat_s, stale_s):
    with pytest.raises(UserError, match="at least twice as long, got"):
        Ledger(file_uri, "study", beat_s=beat_s, stale_s=stale_s)
    assert Ledger(file_uri, "study", beat_s=5, stale_s=10).claim("a")


@pytest.mark.parametrize("name", ["a b", "d%20e", "100%", "what?x=1", "ü=1,'x'", "[({#~;$", "x:y@z"])
def test_odd_file_names(tmp_path, name):
    uri = sqlite_uri(tmp_path / name / "ledger.db")
    assert sqlite_path(uri) == tmp_path / name / "ledger.db"
    assert Ledger(uri, "study").claim("a")
    assert (tmp_path / name / "ledger.db").is_file()
    assert not Ledger(uri, "study").claim("a")


# Databases


TABLES = 10


def fill(uri):
    with contextlib.closing(sqlite3.connect(sqlite_path(uri), isolation_level=None)) as connection:
        for i in range(TABLES):
            connection.execute(f"CREATE TABLE t{i} (x)")


def check(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (TABLES,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    # Connections that close at once may leave side files, which the last to close removes.
    assert {entry.name for entry in path.parent.iterdir()} <= {path.name, path.with_suffix(".lock").name}


def test_creations_that_fail_or_are_killed_leave_no_database(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "new.db"

    def fail(uri):
        fill(uri)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        create_sqlite(path, fail)
    assert not path.exists()
    for step in ("sqlite_uri", "_set_wal", "sync", "os.replace"):
        child = os.fork()
        if child == 0:
            monkeypatch.setattr(f"harness.databases.{step}", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            create_sqlite(path, fill)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        assert not path.exists()
    assert any(path.parent.glob(".new.db*"))
    create_sqlite(path, fill)
    check(path)
    with pytest.raises(UserError, match="Cannot create the database"):
        create_sqlite(path / "new.db", lambda uri: None)


def test_of_many_creators_one_creates(tmp_path):
    path, calls = tmp_path / "folder" / "new.db", []

    def create(_):
        create_sqlite(path, lambda uri: (calls.append(uri), fill(uri)))
        with contextlib.closing(sqlite3.connect(path)) as connection:
            return connection.execute("SELECT count(*) FROM sqlite_master").fetchone()

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(create, range(6))) == [(TABLES,)] * 6
    assert len(calls) == 1
    check(path)


@pytest.mark.parametrize(
    ("uri", "shown", "path"),
    [
        ("postgresql://user:p%40ss@host/x.db", "postgresql://host/x.db", None),
        ("postgresql+psycopg://user@h:5432/db?ssl=on", "postgresql+psycopg://h:5432/db?ssl=on", None),
        ("postgresql://h/db?user=u&password=p@s&a=b", "postgresql://h/db?user=***&password=***&a=b", None),
        ("http://u:p/q@r@h:5000/path", "http://h:5000/path", None),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000", None),
        ("sqlite:////tmp/a:b@c/x.db", "sqlite:////tmp/a:b@c/x.db", Path("/tmp/a:b@c/x.db")),
        ("sqlite:///var/x.db", "sqlite:///var/x.db", Path("var/x.db")),
        ("sqlite+pysqlite:////x.db?timeout=3", "sqlite+pysqlite:////x.db?timeout=3", Path("/x.db")),
        ("sqlite://", "sqlite://", None),
        ("sqlite:///:memory:", "sqlite:///:memory:", None),
        ("var/mlruns", "var/mlruns", None),
        ("me@there", "me@there", None),
    ],
)  # fmt: skip
def test_what_an_address_shows_and_names(uri, shown, path):
    assert redact(uri) == shown
    assert sqlite_path(uri) == path


def test_an_open_file_is_brought_to_disk_at_the_end_and_not_after_every_statement(tmp_path):
    path = tmp_path / "ledger.db"
    one, other = (Ledger(sqlite_uri(path), "s") for _ in range(2))
    assert one.claim("a")
    log = path.with_name("ledger.db-wal")
    assert log.stat().st_size > 0
    with contextlib.closing(sqlite3.connect(path)) as connection:
        busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert busy == 0, "nobody keeps reading"
    one.close()
    assert other.claim("a")
    other.close()
    assert not log.exists()

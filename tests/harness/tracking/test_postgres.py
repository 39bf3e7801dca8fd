"""One study on a real PostgreSQL: claims, local and remote drivers, a server that restarts."""

import itertools
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.claims.ledger import Ledger
from harness.databases import is_database, redact, server_uri, tables_lock
from harness.errors import StoreError, UserError
from harness.study.unlogged import UnloggedResults
from harness.study.writer import Writer
from harness.tracking.store import create_tables
from harness.tracking.tracker import Tracker
from harness.train.result import Result
from reports import build
from tests.harness.test_ledger import ELSEWHERE as OTHER_HOST
from tests.harness.test_ledger import Clock
from tests.support.cells import make_cell
from tests.support.drivers.driving import (
    CELLS,
    assert_each_cell_once,
    finish,
    start,
    wait_for,
    wait_for_cells,
    workers_of,
)
from tests.support.drivers.jobs import eventually
from tests.support.drivers.postgres import USER, free_port
from tests.support.paths import ROOT

# A driver that appears to run on another machine.
ELSEWHERE = """
import sys
import harness.claims.ledger
from harness.benchmark import main
from harness.claims.process import Process
harness.claims.ledger.this_process = lambda: Process("another host", 1, 1)
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""

# Addresses


@given(password=st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1))
@settings(deadline=None)
def test_a_server_address_keeps_what_it_says_and_gets_bounded_waits(password):
    given_url = sa.URL.create("postgresql", "me", password, "host", 5433, "db", {"connect_timeout": "3"})
    uri = server_uri(given_url.render_as_string(hide_password=False))
    url = sa.make_url(uri)
    assert url.drivername == "postgresql+psycopg"
    assert (url.username, url.password, url.host, url.port) == ("me", password, "host", 5433)
    assert url.query["connect_timeout"] == "3", "what is given stays"
    assert int(url.query["keepalives_idle"]) <= 60
    assert server_uri(uri) == uri
    assert redact(uri) == f"postgresql+psycopg://host:5433/db?{uri.rpartition('?')[2]}"


def test_what_is_a_database_and_other_addresses_stay_as_they_are():
    others = ["sqlite:////x.db", "mysql://u:p@h/db", "http://u:p@h:5000", "file:///var/x", "var/x"]
    assert [is_database(uri) for uri in (*others, "databricks", "postgresql")] == [True] * 2 + [False] * 5
    assert all(map(is_database, ("postgresql://h/d", "postgres://h/d", "postgresql+psycopg://h/d")))
    for uri in others:
        assert server_uri(uri) == uri
        with tables_lock(uri):
            pass


def test_unusable_addresses_get_one_sentence_without_the_password(postgres_server, tmp_path):
    server, local = postgres_server, f"127.0.0.1:{postgres_server.port}/postgres"
    unusable = {
        server.uri("postgres").replace(str(server.port), str(free_port())): "refused",
        server.uri("postgres", "s3cret but wrong"): "authentication",
        server.uri("nosuch"): "does not exist",
        f"postgresql://{USER}:s3cret@rest@{local}": "with @ in a password as %40",
        f"postgresql://{USER}:s3cret@127.0.0.1:port/postgres": "address",
        f"postgresql+nosuch://{USER}:s3cret@{local}": "nosuch",
    }
    openings = (lambda uri: Ledger(uri, "s"), lambda uri: Tracker(uri, tmp_path, "s"))
    for (uri, reason), open_it in itertools.product(unusable.items(), openings):
        with pytest.raises(UserError, match=reason) as caught:
            open_it(uri)
        sentence = str(caught.value)
        assert "s3cret" not in sentence
        assert "rest@" not in sentence
        assert "\n" not in sentence
        assert sentence.endswith(".")
        assert not sentence.endswith("..")


# Claims


def test_a_connection_that_was_ended_is_replaced(postgres, postgres_server):
    uri = postgres()
    ledger = Ledger(uri, "study")
    assert ledger.claim("a")
    mine = f"datname = '{uri.rpartition('/')[2]}' AND pid <> pg_backend_pid()"
    ended = postgres_server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {mine}")
    assert ended == [(True,)]
    assert ledger.holds("a")
    assert ledger.finish("a")


def test_while_the_server_is_away_no_claim_falls(postgres, postgres_server):
    """Without the server, the owner cannot send heartbeats, so the claim must not expire."""
    uri, clock = postgres(), Clock()
    far = Ledger(uri, "study", process=OTHER_HOST)
    near = Ledger(uri, "study", stale_s=60, clock=clock)
    assert far.claim("a")
    assert not near.claim("a")
    clock.now = 59.0
    assert not near.claim("a")
    postgres_server.stop()
    try:
        for call in (lambda: near.claim("a"), near.beat, far.beat, near.done):
            with pytest.raises(StoreError):
                call()
    finally:
        postgres_server.start()
    clock.now = 1000.0
    assert not near.claim("a"), "nobody could beat"
    clock.now = 1059.0
    assert near.claimed_by_others(["a"]) == {"a"}
    far.beat()
    clock.now = 1118.0
    assert not near.claim("a")
    clock.now = 1200.0
    assert near.claim("a")
    assert not far.holds("a")
    assert not far.finish("a")


# Whole studies


@pytest.fixture(scope="module")
def mlflow_template(postgres):
    """A database with MLflow's tables: creating them takes seconds, copying does not."""
    uri = postgres()
    create_tables(server_uri(uri))
    return uri


@pytest.fixture
def uri(postgres, mlflow_template):
    return postgres(mlflow_template)


@pytest.fixture
def drive(tmp_path):
    """Yield a function that starts drivers with one worker each; end all drivers after the test."""
    started = []

    def start_one(uri, *more, var=tmp_path / "var", stale_s=600, **options):
        given = [f"tracking.uri={uri}", f"ledger.uri={uri}", "ledger.beat_s=0.5", f"ledger.stale_s={stale_s}"]
        started.append(start(var, str(tmp_path), *given, *more, jobs=1, **options))
        return started[-1]

    yield start_one
    for driver in started:
        driver.kill()
        driver.communicate()


def cells(uri, state):
    """The cells that the ledger calls "working" or "done"."""
    with psycopg.connect(uri) as connection:
        return connection.execute("SELECT cell_id FROM claims WHERE state = %s", [state]).fetchall()


def stop_at_work(driver, uri):
    """Stop the only driver (SIGSTOP) while it holds claims; returns how many."""

    def stopped_with_claims():
        driver.send_signal(signal.SIGSTOP)
        held = len(cells(uri, "working"))
        if not held:
            driver.send_signal(signal.SIGCONT)
        return held

    return eventually(stopped_with_claims)


def assert_done(var, uri, finished_study):
    assert_each_cell_once(var, finished_study, more=[f"tracking.uri={uri}"])
    assert len(cells(uri, "done")) == CELLS
    assert not cells(uri, "working")


def assert_password_nowhere(server, uri, var, *texts):
    tables = server.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", uri)
    assert ("claims",) in tables
    rows = [text for (name,) in tables for (text,) in server.execute(f'SELECT t::text FROM "{name}" t', uri)]
    files = [path.read_bytes().decode(errors="replace") for path in var.rglob("*") if path.is_file()]
    assert len(rows) > CELLS
    assert len(files) > CELLS
    for text in (*rows, *files, *texts):
        assert "s3cret" not in text


@pytest.mark.slow
def test_two_drivers_from_an_empty_database(
    drive, postgres, postgres_server, tmp_path, finished_study, capfd, monkeypatch
):
    """Both drivers create tables at once; no password is shown."""
    uri, var = postgres(), tmp_path / "var"
    drivers = [drive(uri), drive(uri)]
    texts = [driver.communicate(timeout=300)[0] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], texts
    assert_done(var, uri, finished_study)
    assert not list(var.glob("*.db")), "nothing may lie in SQLite"
    tracker = Tracker(uri, var, "s", create=False)
    assert tracker.client.get_experiment(tracker.experiment_id).artifact_location.startswith(var.as_uri())
    monkeypatch.setattr("reports.page.report.FIGURES", ())
    assert build.main([f"var_dir={var}", "study=s", f"tracking.uri={uri}"]) == 0
    assert "are done" in finish(drive(uri), str(tmp_path))
    assert_password_nowhere(postgres_server, uri, var, *texts, *capfd.readouterr())


@pytest.mark.slow
def test_a_driver_elsewhere_that_stood_still_logs_nothing_twice(drive, uri, tmp_path, finished_study):
    script = tmp_path / "elsewhere.py"
    script.write_text(ELSEWHERE)
    far = drive(uri, var=tmp_path / "far", stale_s=4, program=[script])
    wait_for_cells(far, 2)
    held = stop_at_work(far, uri)
    near = drive(uri, stale_s=4)
    text = near.communicate(timeout=300)[0]
    assert near.returncode == 0, text
    assert len(cells(uri, "done")) == CELLS
    far.send_signal(signal.SIGCONT)
    finish(far, str(tmp_path))
    assert_done(tmp_path / "var", uri, finished_study)
    lost = list(Tracker(uri, tmp_path, "s", create=False).runs("attributes.status = 'KILLED'"))
    assert len(lost) <= held


@pytest.mark.slow
def test_the_server_restarts_in_mid_matrix(drive, uri, postgres_server, tmp_path, finished_study):
    driver, said = drive(uri), ""
    for count, how in ((2, signal.SIGINT), (9, signal.SIGQUIT)):
        said += wait_for_cells(driver, count)
        [worker] = workers_of(driver.pid)
        # Any local user can read arguments, and child processes inherit the environment.
        for name in ("cmdline", "environ"):
            assert b"s3cret" not in Path("/proc", str(worker), name).read_bytes()
        postgres_server.stop(how)
        try:
            said += wait_for(driver, lambda line: line.startswith("Retrying "))
        finally:
            postgres_server.start()
    said += finish(driver, str(tmp_path))
    finish(drive(uri), str(tmp_path))
    assert_done(tmp_path / "var", uri, finished_study)
    assert_password_nowhere(postgres_server, uri, tmp_path / "var", said)


OPEN = """
import sys, pathlib
from harness.tracking.tracker import Tracker
print("ready", flush=True)
Tracker(sys.argv[1], pathlib.Path(sys.argv[2]), "s")
"""


@pytest.mark.slow
def test_kills_while_the_tables_are_created(postgres, tmp_path):
    uri, draw = postgres(), random.Random(1)
    for _ in range(4):
        command = [sys.executable, "-c", OPEN, uri, tmp_path]
        child = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE)
        assert child.stdout.readline() == "ready\n"
        time.sleep(draw.uniform(0.0, 1.5))
        child.kill()
        child.communicate()
    assert Tracker(uri, tmp_path, "s").complete() == {}


REASONS = ("a\0b", "half of a pair: \ud800", "x" * 10**5, "ü\n\t\x1b[")


def test_any_reason_can_be_logged(uri, tmp_path):
    tracker, cell = Tracker(uri, tmp_path, "s"), make_cell()
    for reason in REASONS:
        tracker.log_failure(cell, reason, {}, 0.0)
        tracker.finish(tracker.log(cell, Result("diverged", reason=reason), {}), Result("diverged"))
        failed, diverged = (run.tags["reason"] for run in list(tracker.runs("tags.kind = 'cell'"))[-2:])
        assert failed == diverged
        assert failed[:1] == reason[:1]


def test_a_claim_lost_between_the_last_look_and_the_end(uri, tmp_path, monkeypatch):
    """The old run does not stay complete, because the new owner completes its own."""
    clock, cell = Clock(), make_cell()
    far = Ledger(uri, "s", process=OTHER_HOST)
    near = Ledger(uri, "s", clock=clock)
    unlogged = UnloggedResults(tmp_path / "spool")
    late, early = (Writer(Tracker(uri, tmp_path, "s"), ledger, unlogged, {}) for ledger in (far, near))
    result = Result("complete", {"test": {"mae": 1.0}})
    assert far.claim(cell.cell_id)
    assert not near.claim(cell.cell_id)
    complete = late.tracker.finish

    def finish_late(*arguments):
        complete(*arguments)
        clock.now = 60.0
        assert near.claim(cell.cell_id)

    monkeypatch.setattr(late.tracker, "finish", finish_late)
    assert not late.write(cell, result)
    assert early.tracker.complete() == {}
    assert early.write(cell, result)
    assert len(list(early.tracker.runs())) == 1

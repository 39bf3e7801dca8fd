"""The sweep storage: a journal that outlives kills and full disks, and PostgreSQL beside its neighbours."""

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import warnings
from urllib.parse import quote, quote_plus

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.trial import TrialState
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from harness.errors import StoreError, UserError
from harness.ledger import Ledger
from harness.tracking.tracker import Tracker
from sweeps.storage import LOCK_ENDING, Lock, answers, open_storage
from tests.support.paths import ROOT
from tests.support.postgres import PASSWORD, USER, free_port

X = {"x": FloatDistribution(0, 1)}
# Both get through their imports, then go at the same time.
BOTH = """
import pathlib, sys, time
import optuna
from sweeps.storage import open_storage
uri, path, go, count = sys.argv[1] or None, pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]), sys.argv[4]
print("ready", flush=True)
while not go.exists():
    time.sleep(0.001)
storage = open_storage(uri, path)
if int(count):
    study = optuna.load_study(study_name="s", storage=storage)
    for i in range(int(count)):
        study.tell(study.ask({"x": optuna.distributions.FloatDistribution(0, 1)}), i)
print("done", flush=True)
"""
HOLD = """
import pathlib, sys
from sweeps.storage import open_storage
storage = open_storage(None, pathlib.Path(sys.argv[1]))
storage._backend._lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def python(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, **pipes)


def at_once(uri, path, folder, count, processes):
    """Processes that open the same storage at the same time, and tell so many trials each."""
    started = [python(BOTH, uri, path, folder / "go", count) for _ in range(processes)]
    assert [process.stdout.readline() for process in started] == ["ready\n"] * processes
    (folder / "go").touch()
    assert [process.communicate(timeout=60)[0] for process in started] == ["done\n"] * processes
    assert [process.returncode for process in started] == [0] * processes


@pytest.fixture
def journal(tmp_path):
    return tmp_path / "folder" / "more" / "sweep.journal"


@pytest.fixture
def server_storage(postgres, tmp_path):
    """Opens the storage in a database of PostgreSQL, one of its own, and makes no file."""

    def opened(uri):
        storage = open_storage(uri, tmp_path / "unused")
        assert not (tmp_path / "unused").exists()
        return storage

    return postgres(), opened


def new_study(storage):
    return optuna.create_study(storage=storage, study_name="s")


def study_in(storage):
    return optuna.load_study(study_name="s", storage=storage)


def tell(study, value):
    study.tell(study.ask(X), value)


def values(study):
    return [trial.value for trial in study.get_trials(states=(TrialState.COMPLETE,))]


def test_a_journal_cut_at_any_byte_of_its_last_record_goes_on(journal):
    study = new_study(open_storage(None, journal))
    tell(study, 1)
    before = journal.stat().st_size
    study.set_user_attr("last", "ü" * 3)
    data = journal.read_bytes()
    assert before < len(data)
    for end in range(before, len(data) + 1):
        journal.write_bytes(data[:end])
        study = study_in(open_storage(None, journal))
        assert values(study) == [1]
        assert ("last" in study.user_attrs) == (end == len(data))
        tell(study, 2)
        assert values(study_in(open_storage(None, journal))) == [1, 2], end


@pytest.mark.parametrize("left", [b"", b'{"op_code":9', b"\0" * 10_000, b"x" * 4096, b"x" * 4095])
def test_what_another_driver_left_unfinished_is_cut_before_the_next_record(journal, left):
    journal.parent.mkdir(parents=True)
    journal.write_bytes(left)
    near = new_study(open_storage(None, journal))
    far = study_in(open_storage(None, journal))
    tell(near, 1)
    with journal.open("ab") as file:
        file.write(left)
    assert values(far) == [1]
    tell(far, 2)
    tell(near, 3)
    assert values(near) == values(far) == values(study_in(open_storage(None, journal))) == [1, 2, 3]


def test_a_disk_that_was_full_for_a_while_costs_the_record_alone(journal):
    storage = open_storage(None, journal)
    study = new_study(storage)
    tell(study, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (journal.stat().st_size + 20, hard))
    try:
        with pytest.raises(StoreError, match=r"sweep\.journal failed: File too large"), answers(journal):
            tell(study, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not journal.read_bytes().endswith(b"\n"), "a part was written"
    tell(study, 3)
    assert values(study) == values(study_in(open_storage(None, journal))) == [1, 3]


def test_a_lock_falls_with_its_process(journal):
    holder = python(HOLD, journal)
    assert holder.stdout.readline() == "held\n"
    lock = journal.with_name(journal.name + LOCK_ENDING)
    with lock.open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    opened = threading.Event()
    opener = threading.Thread(target=lambda: (open_storage(None, journal), opened.set()), daemon=True)
    opener.start()
    assert not opened.wait(0.1), "nobody comes in while it is held"
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert opened.wait(20)
    assert lock.exists()
    tell(new_study(open_storage(None, journal)), 1)


def test_a_lock_that_was_not_got_holds_nothing(tmp_path):
    lock = Lock(tmp_path / "journal")
    with pytest.raises(FileNotFoundError):
        lock.acquire()
    (tmp_path / "journal").touch()
    for _ in range(2):
        assert lock.acquire()
        lock.release()


def test_two_processes_append_at_the_same_time_and_nothing_is_lost(journal, tmp_path):
    new_study(open_storage(None, journal))
    at_once("", journal, tmp_path, 60, processes=2)
    found = study_in(open_storage(None, journal)).trials
    assert [trial.number for trial in found] == list(range(120))
    assert sorted(trial.value for trial in found) == sorted(2 * list(range(60)))


NO_RECORDS = (b"\xff\xfe", b"no json", b"", b"[" * 10**5)
FOREIGN = (b"1", b"{}", b'{"op_code": 99}')


@pytest.mark.parametrize("line", [*NO_RECORDS, *FOREIGN])
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_damaged_line_is_named_with_what_to_do(journal, line, place):
    tell(new_study(open_storage(None, journal)), 1)
    lines = journal.read_bytes().splitlines(keepends=True)
    number = {"first": 1, "middle": 3, "last": len(lines) + 1}[place]
    lines.insert(number - 1, line + b"\n")
    journal.write_bytes(b"".join(lines))
    with pytest.raises(UserError) as caught:
        open_storage(None, journal)
    what = ", or of another version of Optuna (" if line in FOREIGN else f" (line {number} is no record)"
    sentence = str(caught.value)
    assert sentence.startswith(f"The sweep storage {journal} is damaged{what}")
    assert sentence.endswith("); move it away and the sweep is begun anew, with the trained cells kept.")
    assert journal.read_bytes() == b"".join(lines), "it is left as it was"


def test_damage_in_mid_use_is_a_failure_of_the_store_and_a_journal_moved_away_does_not_come_back(journal):
    study = new_study(open_storage(None, journal))
    with journal.open("ab") as file:
        file.write(b"no json\n" * 2)
    with pytest.raises(StoreError, match="is damaged"), answers(journal):
        tell(study, 1)
    journal.rename(journal.with_name("away"))
    with pytest.raises(StoreError, match="No such file"), answers(journal):
        tell(study, 1)
    assert not journal.exists()


def test_a_journal_that_cannot_be_there_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "file" / "journal", "File exists")):
        with pytest.raises(UserError) as caught:
            open_storage(None, path)
        assert str(caught.value) == (
            f"Cannot use the sweep storage {path}: {reason}; make it a file that can be written."
        )


def test_opening_silences_optuna(journal):
    before = optuna.logging.get_verbosity()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optuna.logging.set_verbosity(optuna.logging.INFO)
        try:
            open_storage(None, journal)
            assert optuna.logging.get_verbosity() == optuna.logging.WARNING
        finally:
            optuna.logging.set_verbosity(before)
        warnings.warn("experimental", ExperimentalWarning, stacklevel=1)
        warnings.warn("another", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["another"]


# Records as Optuna 3 wrote them, with a key that no version knows, and one of a program that writes its own.
X_IN_3 = '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.0, "log": false}}'
OTHER_RECORDS = [
    {"op_code": 0, "study_name": "s", "directions": [1]},
    {"op_code": 4, "study_id": 0, "datetime_start": "2023-02-01T10:00:00.000000", "new": 1},
    {"op_code": 5, "trial_id": 0, "param_name": "x", "param_value_internal": 0.5, "distribution": X_IN_3},
    {"op_code": 6, "trial_id": 0, "state": 1, "values": [3.0], "datetime_complete": "2023-02-01T10:00:01"},
    {"op_code": 10},
]


def test_a_journal_of_another_version_goes_on(journal):
    journal.parent.mkdir(parents=True)
    lines = [json.dumps({"worker_id": "a-1", **record}) for record in OTHER_RECORDS]
    journal.write_text("\n".join(lines) + "\n")
    study = study_in(open_storage(None, journal))
    assert [trial.params for trial in study.trials] == [{"x": 0.5}]
    tell(study, 2)
    assert values(study_in(open_storage(None, journal))) == [3, 2]


@pytest.mark.parametrize(
    ("error", "cause", "reason"),
    [
        (StorageInternalError("x\ny"), None, "x"),
        (SQLAlchemyError("x\ny"), None, "x"),
        (OSError(5, "x"), None, "x"),
        (StorageInternalError("wrapped"), SQLAlchemyError('no "me" with p@ss me.'), "no *** with *** me"),
    ],
)
def test_what_a_storage_raises_becomes_one_line_without_secrets(error, cause, reason):
    with pytest.raises(StoreError) as caught, answers("postgresql://me:p%40ss@host/db"):
        raise error from cause
    assert str(caught.value) == f"the sweep storage postgresql://host/db failed: {reason}"
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [StoreError("s"), ValueError("v")])
def test_other_errors_pass(error, tmp_path):
    with pytest.raises(type(error)) as caught, answers(tmp_path):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("mysql://me:s3cret@host/db", "'mysql://...'"),
        ("", "''"),
        ("me:s3cret@host/db", "'host/db'"),
        ("postgrsql://me:s3cret@host/db", "'postgrsql://...'. Did you mean 'postgresql'?"),
    ],
)
def test_other_kinds_are_refused(uri, shown, tmp_path):
    with pytest.raises(UserError) as caught:
        open_storage(uri, tmp_path / "journal")
    sentence = str(caught.value)
    assert shown in sentence
    assert "postgresql://USER:PASSWORD@HOST/DATABASE" in sentence
    assert "s3cret" not in sentence
    assert list(tmp_path.iterdir()) == []


def test_unusable_addresses_get_one_sentence_without_user_and_password(postgres_server, tmp_path):
    good, port = postgres_server.uri("postgres"), str(postgres_server.port)
    unusable = {
        good.replace(port, str(free_port())): "refused",
        postgres_server.uri("postgres", PASSWORD + " but wrong"): "authentication",
        postgres_server.uri("nosuch"): "does not exist",
        f"postgresql://{USER}:{PASSWORD}@rest@127.0.0.1:{port}/postgres": "cannot be read",
        f"postgresql://{USER}:s3cret@127.0.0.1:port/postgres": "cannot be read",
        f"postgresql+nosuch://{USER}:s3cret@127.0.0.1/postgres": "nosuch",
        f"postgresql+json://{USER}:s3cret@127.0.0.1/postgres": "psycopg",
        good + "?nosuch=1": "nosuch",
    }
    for uri, reason in unusable.items():
        with pytest.raises(UserError, match=rf"{reason}.*(?<!\.)\.$") as caught:
            open_storage(uri, tmp_path / "journal")
        assert_no_secret(str(caught.value))


def assert_no_secret(sentence):
    for secret in (PASSWORD, quote(PASSWORD, safe=""), quote_plus(PASSWORD), "s3cret", USER, "rest@"):
        assert secret not in sentence
    assert "\n" not in sentence


def tables(server, uri):
    rows = server.execute(
        "SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('public', 'optuna')", uri
    )
    return {schema: {name for where, name in rows if where == schema} for schema in ("public", "optuna")}


def test_optuna_mlflow_and_the_ledger_share_a_database(server_storage, postgres_server, tmp_path):
    uri, opened = server_storage
    study = new_study(opened(uri))
    tell(study, 1)
    tracker, ledger = Tracker(uri, tmp_path, "study"), Ledger(uri, "study")
    assert ledger.claim("a")
    assert list(tracker.runs()) == []
    tell(study, 2)
    found = tables(postgres_server, uri)
    assert found["public"] & found["optuna"] == {"alembic_version"}
    assert {"experiments", "claims", "runs"} <= found["public"]
    assert {"studies", "trials"} <= found["optuna"]
    assert values(study_in(opened(uri))) == [1, 2]
    # The other order: the neighbours are there first.
    postgres_server.execute("DROP SCHEMA optuna CASCADE", uri)
    tell(new_study(opened(uri)), 3)
    assert tables(postgres_server, uri) == found
    assert list(Tracker(uri, tmp_path, "study", create=False).runs()) == []
    assert Ledger(uri, "study").claim("b")


def test_processes_that_open_an_empty_database_at_the_same_time(postgres, postgres_server, tmp_path):
    uri = postgres()
    at_once(uri, tmp_path / "unused", tmp_path, 0, processes=3)
    assert len(postgres_server.execute("SELECT * FROM optuna.alembic_version", uri)) == 1


def test_a_server_that_goes_and_comes(server_storage, postgres_server):
    uri, opened = server_storage
    study = new_study(opened(uri))
    tell(study, 1)
    postgres_server.stop()
    try:
        for call in (lambda: tell(study, 2), lambda: study_in(study._storage), lambda: study.trials):
            with pytest.raises(StoreError, match=r"failed: .*refused") as caught, answers(uri):
                call()
            assert_no_secret(str(caught.value))
    finally:
        postgres_server.start()
    with answers(uri):
        tell(study, 3)
        assert values(study) == [1, 3]


def test_an_opening_that_was_killed_half_way_is_finished_by_the_next(server_storage, postgres_server):
    uri, opened = server_storage
    opened(uri)
    for statement in (
        "DELETE FROM optuna.alembic_version",
        "DELETE FROM optuna.version_info",
        "DROP TABLE optuna.alembic_version",
        "DROP TABLE optuna.trial_values",
    ):
        postgres_server.execute(statement, uri)
        study = new_study(opened(uri))
        tell(study, 1)
        assert values(study) == [1]
        optuna.delete_study(study_name="s", storage=study._storage)


@pytest.mark.parametrize("version", ["v2.6.0.a", "of the future"])
def test_tables_of_another_version_are_refused_with_what_to_do(server_storage, postgres_server, version):
    uri, opened = server_storage
    tell(new_study(opened(uri)), 1)
    before = tables(postgres_server, uri)
    postgres_server.execute(f"UPDATE optuna.alembic_version SET version_num = '{version}'", uri)
    with pytest.raises(UserError, match=r"\); rename its schema 'optuna' and the sweep is begun anew\.$"):
        opened(uri)
    assert tables(postgres_server, uri) == before
    assert postgres_server.execute("SELECT value FROM optuna.trial_values", uri) == [(1.0,)]
    postgres_server.execute("ALTER SCHEMA optuna RENAME TO away", uri)
    tell(new_study(opened(uri)), 1)


def test_a_user_without_the_right_to_create_schemas(server_storage, postgres_server):
    uri, opened = server_storage
    limited = uri.replace(f"{USER}:", "limited:")
    postgres_server.execute(f"CREATE ROLE limited LOGIN PASSWORD '{PASSWORD}'")
    with pytest.raises(UserError, match="permission denied for database"):
        opened(limited)
    opened(uri)
    for kind in ("TABLES", "SEQUENCES"):
        postgres_server.execute(f"GRANT ALL ON ALL {kind} IN SCHEMA optuna TO limited", uri)
    postgres_server.execute("GRANT USAGE ON SCHEMA optuna TO limited", uri)
    tell(new_study(opened(limited)), 1)


def test_options_of_the_address_are_kept(server_storage):
    uri, opened = server_storage
    given = quote("-cstatement_timeout=7s -csearch_path=public")
    storage = opened(f"{uri}?options={given}")
    with storage.engine.connect() as connection:
        assert connection.scalar(text("SHOW statement_timeout")) == "7s"
        assert connection.scalar(text("SHOW search_path")) == "optuna"
        assert connection.connection.driver_connection.info.get_parameters()["connect_timeout"] == "10"

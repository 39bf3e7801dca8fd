"""The sweep storage: a journal that outlives kills and full disks, and PostgreSQL beside its neighbours."""

import fcntl
import json
import multiprocessing
import resource
import time
import warnings
from pathlib import Path
from urllib.parse import quote, quote_plus

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.trial import TrialState
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from harness.claims.ledger import Ledger
from harness.errors import StoreError, UserError
from harness.tracking.tracker import Tracker
from sweeps.storage import LOCK_ENDING, Lock, answers, open_storage
from tests.support.drivers.postgres import PASSWORD, USER, free_port

X = {"x": FloatDistribution(0, 1)}
FORK = multiprocessing.get_context("fork")
NO_FILE = Path("/proc/journal")  # a path at which no file can be created


def hold(path, held):
    """A process that dies with the lock."""
    lock = Lock(path)
    lock.acquire()
    held.set()
    time.sleep(600)


def open_and_tell(barrier, uri, path, count):
    barrier.wait(120)
    storage = open_storage(uri, path)
    for value in range(count):
        tell(study_in(storage), value)


def at_once(uri, path, count, processes):
    """Processes that open the same storage at the same time, and tell so many trials each."""
    arguments = FORK.Barrier(processes), uri, path, count
    started = [FORK.Process(target=open_and_tell, args=arguments, daemon=True) for _ in range(processes)]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
    assert [process.exitcode for process in started] == [0] * processes


@pytest.fixture
def journal(tmp_path):
    return tmp_path / "folder" / "more" / "sweep.journal"


@pytest.fixture
def database(postgres):
    return postgres()


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
    new_study(open_storage(None, journal))
    held = FORK.Event()
    holder = FORK.Process(target=hold, args=(journal, held), daemon=True)
    holder.start()
    assert held.wait(120)
    with journal.with_name(journal.name + LOCK_ENDING).open() as lock:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        holder.kill()
        holder.join()
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    tell(study_in(open_storage(None, journal)), 1)


def test_two_processes_append_at_the_same_time_and_nothing_is_lost(journal):
    new_study(open_storage(None, journal))
    at_once(None, journal, 60, processes=2)
    trials = study_in(open_storage(None, journal)).trials
    assert [trial.number for trial in trials] == list(range(120))
    assert sorted(trial.value for trial in trials) == sorted(2 * list(range(60)))


def test_processes_that_open_an_empty_database_at_the_same_time(database, postgres_server):
    at_once(database, NO_FILE, 0, processes=3)
    assert len(postgres_server.execute("SELECT * FROM optuna.alembic_version", database)) == 1


NO_RECORDS = (b"no json", b"\xff\xfe", b"", b"[" * 10**5)
FOREIGN = (b"1", b"{}", b'{"op_code": 99}')
DAMAGED = [("middle", line) for line in (*NO_RECORDS, *FOREIGN)]
DAMAGED += [(place, line) for place in ("first", "last") for line in (NO_RECORDS[0], FOREIGN[0])]


@pytest.mark.parametrize(("place", "line"), DAMAGED)
def test_a_damaged_line_is_named_with_what_to_do(journal, line, place):
    tell(new_study(open_storage(None, journal)), 1)
    lines = journal.read_bytes().splitlines(keepends=True)
    number = {"first": 1, "middle": 3, "last": len(lines) + 1}[place]
    lines.insert(number - 1, line + b"\n")
    journal.write_bytes(b"".join(lines))
    with pytest.raises(UserError) as caught:
        open_storage(None, journal)
    what = " or was written by another version" if line in FOREIGN else f" (line {number} is not a record)"
    sentence = str(caught.value)
    assert sentence.startswith(f"The sweep storage {journal} is damaged{what}")
    assert sentence.endswith("); move it away to begin the sweep anew; trained cells are kept.")
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
    with journal.with_name(journal.name + LOCK_ENDING).open() as lock:  # a failed call frees the lock
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    # An impossible path gives one sentence.
    lock, folder = journal.with_name(journal.name + LOCK_ENDING), journal.parent
    for path, reason in ((folder, "Is a directory"), (lock / "journal", "File exists")):
        with pytest.raises(UserError) as caught:
            open_storage(None, path)
        assert str(caught.value) == (
            f"Cannot use the sweep storage {path}: {reason}; it must be a writable file."
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


# Records of Optuna 3, with an unknown key, and a record of an unknown type.
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
def test_what_a_storage_raises_becomes_one_line_without_secrets_and_other_errors_pass(error, cause, reason):
    with pytest.raises(StoreError) as caught, answers("postgresql://me:p%40ss@host/db"):
        raise error from cause
    assert str(caught.value) == f"the sweep storage postgresql://host/db failed: {reason}"
    assert caught.value.__cause__ is error
    for other in (StoreError("s"), ValueError("v")):
        with pytest.raises(type(other)) as caught, answers("postgresql://host/db"):
            raise other
        assert caught.value is other


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
        f"postgresql://{USER}:{PASSWORD}@rest@127.0.0.1:{port}/postgres": "is malformed",
        f"postgresql://{USER}:s3cret@127.0.0.1:port/postgres": "is malformed",
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


def test_optuna_mlflow_and_the_ledger_share_a_database(database, postgres_server, tmp_path):
    study = new_study(open_storage(database, NO_FILE))
    tell(study, 1)
    tracker, ledger = Tracker(database, tmp_path, "study"), Ledger(database, "study")
    assert ledger.claim("a")
    assert list(tracker.runs()) == []
    tell(study, 2)
    found = tables(postgres_server, database)
    assert found["public"] & found["optuna"] == {"alembic_version"}
    assert {"experiments", "claims", "runs"} <= found["public"]
    assert {"studies", "trials"} <= found["optuna"]
    assert values(study_in(open_storage(database, NO_FILE))) == [1, 2]
    # The other order: the neighbours are there first.
    postgres_server.execute("DROP SCHEMA optuna CASCADE", database)
    tell(new_study(open_storage(database, NO_FILE)), 3)
    assert tables(postgres_server, database) == found
    assert list(Tracker(database, tmp_path, "study", create=False).runs()) == []
    assert Ledger(database, "study").claim("b")


def test_a_server_that_goes_and_comes(database, postgres_server):
    study = new_study(open_storage(database, NO_FILE))
    tell(study, 1)
    postgres_server.stop()
    try:
        for call in (lambda: tell(study, 2), lambda: study_in(study._storage), lambda: study.trials):
            with pytest.raises(StoreError, match=r"failed: .*refused") as caught, answers(database):
                call()
            assert_no_secret(str(caught.value))
    finally:
        postgres_server.start()
    with answers(database):
        tell(study, 3)
        assert values(study) == [1, 3]


def test_an_opening_that_was_killed_half_way_is_finished_by_the_next(database, postgres_server):
    open_storage(database, NO_FILE)
    for statement in (
        "DELETE FROM optuna.alembic_version",
        "DELETE FROM optuna.version_info",
        "DROP TABLE optuna.alembic_version",
        "DROP TABLE optuna.trial_values",
    ):
        postgres_server.execute(statement, database)
        study = new_study(open_storage(database, NO_FILE))
        tell(study, 1)
        assert values(study) == [1]
        optuna.delete_study(study_name="s", storage=study._storage)


@pytest.mark.parametrize("version", ["v2.6.0.a", "of the future"])
def test_tables_of_another_version_are_refused_with_what_to_do(database, postgres_server, version):
    tell(new_study(open_storage(database, NO_FILE)), 1)
    before = tables(postgres_server, database)
    postgres_server.execute(f"UPDATE optuna.alembic_version SET version_num = '{version}'", database)
    with pytest.raises(UserError, match=r"\); rename its schema 'optuna' to begin the sweep anew\.$"):
        open_storage(database, NO_FILE)
    assert tables(postgres_server, database) == before
    assert postgres_server.execute("SELECT value FROM optuna.trial_values", database) == [(1.0,)]
    postgres_server.execute("ALTER SCHEMA optuna RENAME TO away", database)
    tell(new_study(open_storage(database, NO_FILE)), 1)


def test_a_user_without_the_right_to_create_schemas_and_options_of_the_address(database, postgres_server):
    limited = database.replace(f"{USER}:", "limited:")
    postgres_server.execute(f"CREATE ROLE limited LOGIN PASSWORD '{PASSWORD}'")
    with pytest.raises(UserError, match="permission denied for database"):
        open_storage(limited, NO_FILE)
    open_storage(database, NO_FILE)
    for kind in ("TABLES", "SEQUENCES"):
        postgres_server.execute(f"GRANT ALL ON ALL {kind} IN SCHEMA optuna TO limited", database)
    postgres_server.execute("GRANT USAGE ON SCHEMA optuna TO limited", database)
    tell(new_study(open_storage(limited, NO_FILE)), 1)
    # Options of the address are kept.
    given = quote("-cstatement_timeout=7s -csearch_path=public")
    storage = open_storage(f"{database}?options={given}", NO_FILE)
    with storage.engine.connect() as connection:
        assert connection.scalar(text("SHOW statement_timeout")) == "7s"
        assert connection.scalar(text("SHOW search_path")) == "optuna"
        assert connection.connection.driver_connection.info.get_parameters()["connect_timeout"] == "10"

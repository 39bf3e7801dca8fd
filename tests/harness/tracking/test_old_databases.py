"""Databases of another version are opened, or rejected unchanged with advice."""

import contextlib
import shlex
import sqlite3
import subprocess
import sys

import pytest
import sqlalchemy as sa
from alembic import command
from mlflow.store.db.utils import _get_alembic_config
from sqlalchemy.schema import CreateColumn

from harness.claims.ledger import Ledger
from harness.claims.table import CLAIMS
from harness.databases import server_uri, sqlite_uri
from harness.errors import UserError
from harness.tracking.tracker import Tracker
from reports import build, export
from tests.support.drivers.driving import copy_study, run
from tests.support.drivers.postgres import PASSWORD

FEW = ("methods=[none]", "backbones=[lmf]", "train.max_epochs=1")
CELLS = 2


@pytest.fixture(scope="module")
def finished(train_study):
    """A finished study; do not write into it."""
    return train_study(*FEW)


@pytest.fixture
def var(finished, tmp_path):
    return copy_study(finished, tmp_path / "var")


# MLflow's database


def one_step_back(path):
    """Let MLflow's own migrations undo the last one."""
    settings = _get_alembic_config(sqlite_uri(path))
    engine = sa.create_engine(sqlite_uri(path), poolclass=sa.pool.NullPool)
    with engine.begin() as connection:
        settings.attributes["connection"] = connection
        command.downgrade(settings, "-1")


def of_a_future_with_other_tables(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "UPDATE alembic_version SET version_num = 'fffffffffff1';"
            "DROP TABLE job_locks; CREATE TABLE more (id INTEGER)"
        )


def dump(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


@pytest.mark.parametrize(
    ("change", "age", "advice"),
    [
        (one_step_back, "an older", "python -m mlflow db upgrade"),
        (of_a_future_with_other_tables, "a newer", "install that version"),
    ],
)
def test_a_store_of_another_schema_is_refused_and_left_as_it_is(var, capsys, change, age, advice):
    change(var / "mlflow.db")
    before = dump(var / "mlflow.db")
    capsys.readouterr()
    given = [f"var_dir={var}", "study=s", f"out={var / 'x.csv'}"]
    for refused in (lambda: run(var, *FEW), lambda: build.main(given), lambda: export.main(given)):
        assert refused() == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith(f"Error: The tracking store '{sqlite_uri(var / 'mlflow.db')}' ")
        assert f"was written by {age} version than MLflow" in line
        assert advice in line
    assert dump(var / "mlflow.db") == before


@pytest.mark.slow
def test_an_older_store_holds_its_results_once_it_is_migrated_as_told(var, capsys, monkeypatch):
    one_step_back(var / "mlflow.db")
    capsys.readouterr()
    assert run(var, *FEW) == 2
    told = shlex.split(capsys.readouterr().err.partition("migrate it with: ")[2])
    assert told[0] == "python"
    subprocess.run([sys.executable, *told[1:]], check=True, capture_output=True)
    monkeypatch.setattr("harness.train.loop.train", None)
    assert run(var, *FEW) == 0
    assert f"All {CELLS} cells of study 's' are done." in capsys.readouterr().out


def test_a_server_of_another_schema_is_refused_without_the_password(postgres, postgres_server, tmp_path):
    uri = postgres()
    postgres_server.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))", uri)
    for revision, told in (
        ("75868b020152", "python -m mlflow db upgrade"),
        ("of Airflow", "another program"),
    ):
        change = f"DELETE FROM alembic_version; INSERT INTO alembic_version VALUES ('{revision}')"
        postgres_server.execute(change, uri)
        with pytest.raises(UserError, match=told) as caught:
            Tracker(uri, tmp_path, "s")
        assert PASSWORD not in str(caught.value)
    tables = postgres_server.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", uri)
    assert tables == [("alembic_version",)]


# The ledger


def make_ledger(uri, without="", more=(), key=("study", "cell_id")):
    """An empty ledger without a column, with more of them (as SQL), or with another key."""
    engine = sa.create_engine(server_uri(uri), poolclass=sa.pool.NullPool)
    parts = [str(CreateColumn(column).compile(engine)) for column in CLAIMS.columns if column.name != without]
    parts += [*more, *([f"UNIQUE ({', '.join(key)})"] if key else [])]
    with engine.begin() as connection:
        connection.execute(sa.text(f"CREATE TABLE claims ({', '.join(parts)})"))


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("no column 'started'", {"without": "started"}),
        ("no unique key", {"key": ()}),
        ("an unknown required column 'room'", {"more": ["room VARCHAR NOT NULL"]}),
    ],
)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_ledger_of_another_version_is_refused_with_what_to_do(tmp_path, request, kind, what, changes):
    uri = sqlite_uri(tmp_path / "x.db") if kind == "sqlite" else request.getfixturevalue("postgres")()
    make_ledger(uri, **changes)
    before = dump(tmp_path / "x.db") if kind == "sqlite" else None
    with pytest.raises(UserError) as caught:
        Ledger(uri, "s")
    assert before is None or dump(tmp_path / "x.db") == before
    sentence = str(caught.value)
    assert f"was written by another version: its table 'claims' has {what}; stop its drivers, " in sentence
    assert ("rename that table" in sentence) == (kind == "postgresql")
    assert PASSWORD not in sentence
    assert "\n" not in sentence


def test_a_ledger_of_a_later_version_whose_columns_may_be_empty_is_used(tmp_path):
    uri = sqlite_uri(tmp_path / "ledger.db")
    make_ledger(uri, more=["room VARCHAR", "kind VARCHAR NOT NULL DEFAULT 'x'"])
    with Ledger(uri, "s") as ledger:
        assert ledger.claim("a")
        assert ledger.finish("a")
        assert ledger.done() == {"a"}

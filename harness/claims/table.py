"""The ledger's database: its one table, and how it is opened and checked."""

from __future__ import annotations

import contextlib
import sqlite3

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from harness.databases import (
    create_sqlite,
    redact,
    server_uri,
    sqlite_path,
    tables_lock,
    without_secrets,
)
from harness.errors import UserError, one_line

BUSY_TIMEOUT_S = 30
WORKING, DONE = "working", "done"

METADATA = sa.MetaData()
CLAIMS = sa.Table(
    "claims",
    METADATA,
    sa.Column("study", sa.String, nullable=False),
    sa.Column("cell_id", sa.String, nullable=False),
    sa.Column("owner", sa.String, nullable=False),
    sa.Column("host", sa.String, nullable=False),
    sa.Column("pid", sa.BigInteger, nullable=False),
    sa.Column("started", sa.BigInteger),
    sa.Column("beat", sa.BigInteger, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.UniqueConstraint("study", "cell_id"),
)


def open_engine(uri: str) -> sa.Engine:
    """Connect to the ledger's database and see to it that the table exists.

    Raises:
        UserError: the address is malformed or in memory, its driver is missing, it cannot be opened, or its
            table is of another version.
    """
    try:
        url = sa.make_url(uri)
    except (SQLAlchemyError, ValueError) as error:
        # Its message may quote the address, with the password.
        raise UserError(f"The ledger's address {redact(uri)!r} is not one of a database.") from error
    try:
        engine = _sqlite_engine(url, uri) if url.get_backend_name() == "sqlite" else _server_engine(uri)
        with tables_lock(uri):
            _create_tables(engine)
        _check_table(engine, uri)
    except (SQLAlchemyError, ImportError) as error:
        reason = without_secrets(one_line(error), uri)
        raise UserError(f"Cannot open the ledger {redact(uri)!r}: {reason}.") from error
    return engine


def _sqlite_engine(url: sa.URL, uri: str) -> sa.Engine:
    path = sqlite_path(uri)
    if path is None:
        raise UserError("The ledger cannot be in memory, where no other driver sees it; name a file.")
    create_sqlite(path, _create_tables_at)
    return sa.create_engine(url, poolclass=NullPool, connect_args={"timeout": BUSY_TIMEOUT_S})


def idle_connection(engine: sa.Engine) -> contextlib.ExitStack:
    """Keep an SQLite file open until the stack is closed; no effect on servers.

    Whoever closes such a file as the only one brings all of it to disk: 20 ms after every statement.
    """
    stack = contextlib.ExitStack()
    with contextlib.suppress(SQLAlchemyError, sqlite3.Error):  # It only saves time.
        if engine.dialect.name == "sqlite":
            connection = stack.enter_context(contextlib.closing(engine.raw_connection()))
            # SQLite holds the file open only after the first read.
            connection.cursor().execute("SELECT count(*) FROM claims").fetchall()
    return stack


def _server_engine(uri: str) -> sa.Engine:
    # Every call is one statement: a driver that stands still holds no lock that others wait for.
    return sa.create_engine(server_uri(uri), pool_pre_ping=True, isolation_level="AUTOCOMMIT")


def _create_tables_at(uri: str) -> None:
    engine = sa.create_engine(uri, poolclass=NullPool)
    METADATA.create_all(engine)
    engine.dispose()


def _create_tables(engine: sa.Engine) -> None:
    try:
        METADATA.create_all(engine)
    except DBAPIError:
        # Another driver created the table between the look and the statement, or it fails again.
        METADATA.create_all(engine)


def _check_table(engine: sa.Engine, uri: str) -> None:
    """Raise UserError for a table in which claims of this version cannot be kept; says what to do.

    Columns of a later version that may be empty do no harm.
    """
    schema = sa.inspect(engine)
    columns = {column["name"]: column for column in schema.get_columns(CLAIMS.name)}
    lacks = [f"no column {column.name!r}" for column in CLAIMS.columns if column.name not in columns]
    unique = [set(key["column_names"]) for key in schema.get_unique_constraints(CLAIMS.name)]
    # Without it two drivers would both get a cell.
    lacks += ["no unique key"] * ({"study", "cell_id"} not in unique)
    others = [name for name in columns if name not in CLAIMS.columns]
    demands = [n for n in others if not columns[n]["nullable"] and columns[n].get("default") is None]
    what = ", ".join([*lacks, *(f"a column {name!r} that wants a value" for name in demands)])
    if what:
        file = sqlite_path(uri) is not None
        move = "move the file away with its -wal and -shm" if file else "rename that table"
        raise UserError(
            f"The ledger {redact(uri)!r} is of another version: its table {CLAIMS.name!r} has {what}; when "
            f"no driver uses it, {move} to begin a new one, by which nothing is lost."
        )

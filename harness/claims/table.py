"""The database of the ledger: its table, the connection, and the check of the schema."""

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
    """Connect to the ledger's database, and create its table if it is missing.

    Raises:
        UserError: the address is malformed or in memory, its driver is missing, the database cannot be
            opened, or its table has the schema of another version.
    """
    try:
        url = sa.make_url(uri)
    except (SQLAlchemyError, ValueError) as error:
        # The message of the original error may quote the address, with its password.
        raise UserError(f"ledger.uri={redact(uri)!r} is not the address of a database.") from error
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
    """Keep an SQLite file open until the stack is closed; no effect on servers."""
    # Closing the last connection checkpoints the WAL, which would take 20 ms after every statement.
    stack = contextlib.ExitStack()
    with contextlib.suppress(SQLAlchemyError, sqlite3.Error):  # it only saves time
        if engine.dialect.name == "sqlite":
            connection = stack.enter_context(contextlib.closing(engine.raw_connection()))
            # SQLite holds the file open only after the first read.
            connection.cursor().execute("SELECT count(*) FROM claims").fetchall()
    return stack


def _server_engine(uri: str) -> sa.Engine:
    # Every call is one autocommitted statement, so that a suspended driver holds no lock.
    return sa.create_engine(server_uri(uri), pool_pre_ping=True, isolation_level="AUTOCOMMIT")


def _create_tables_at(uri: str) -> None:
    engine = sa.create_engine(uri, poolclass=NullPool)
    METADATA.create_all(engine)
    engine.dispose()


def _create_tables(engine: sa.Engine) -> None:
    try:
        METADATA.create_all(engine)
    except DBAPIError:
        # Another driver may have created the table at the same time; any other error is raised again.
        METADATA.create_all(engine)


def _check_table(engine: sa.Engine, uri: str) -> None:
    """Raise UserError if the table's schema does not fit this version; the message says what to do.

    Columns that a later version added are accepted if they are nullable or have a default.
    """
    schema = sa.inspect(engine)
    columns = {column["name"]: column for column in schema.get_columns(CLAIMS.name)}
    lacks = [f"no column {column.name!r}" for column in CLAIMS.columns if column.name not in columns]
    unique = [set(key["column_names"]) for key in schema.get_unique_constraints(CLAIMS.name)]
    # Without the unique key two drivers could both claim a cell.
    lacks += ["no unique key"] * ({"study", "cell_id"} not in unique)
    others = [name for name in columns if name not in CLAIMS.columns]
    required = [n for n in others if not columns[n]["nullable"] and columns[n].get("default") is None]
    faults = ", ".join([*lacks, *(f"an unknown required column {name!r}" for name in required)])
    if faults:
        file = sqlite_path(uri) is not None
        move = "move the file away with its -wal and -shm files" if file else "rename that table"
        raise UserError(
            f"The ledger {redact(uri)!r} was written by another version: its table {CLAIMS.name!r} has "
            f"{faults}; stop its drivers, then {move}: a new one is created, and no result is lost."
        )

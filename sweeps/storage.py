"""Optuna's storage: a journal file for one machine, or PostgreSQL for several.

A write may have succeeded although the storage returned an error, so callers retry only idempotent calls.
`answers` turns errors of the storage into `StoreError`, which tells callers when to retry.
"""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from harness.databases import POSTGRES, redact, server_uri, tables_lock, without_secrets
from harness.errors import StoreError, UserError, nearest, one_line
from harness.files import locked

SCHEMA = "optuna"
# Only libpq's drivers can set the schema for a whole connection, so that no query runs outside it.
DRIVERS = ("psycopg", "psycopg2")
LOCK_ENDING = ".flock"
BLOCK_BYTES = 4096
REMEDY = "move it away to begin the sweep anew; trained cells are kept"


def open_storage(uri: str | None, path: Path) -> BaseStorage:
    """Open the sweep storage, and create it if it does not exist.

    Args:
        uri: a PostgreSQL address; the tables are in its schema "optuna". None for a journal file.
        path: the journal file; created with its folders if ``uri`` is None.

    Raises:
        UserError: the address is not PostgreSQL's or cannot be opened, or the file cannot be used or is
            damaged. The message contains neither user nor password.
    """
    quiet()
    return _open_journal(path) if uri is None else _open_server(uri)


def quiet() -> None:
    """Silence Optuna's log messages about studies and trials, and its warnings of experimental functions."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=ExperimentalWarning)


@contextlib.contextmanager
def answers(address: str | Path) -> Iterator[None]:
    """Turn errors of a storage in use into `StoreError`. address: the storage's address or file."""
    try:
        yield
    except (StorageInternalError, SQLAlchemyError, OSError) as error:
        reason = _reason(error, str(address))
        raise StoreError(f"the sweep storage {redact(str(address))} failed: {reason}") from error


class Lock:
    """Lock for appending to a journal file; the operating system releases it when the process ends.

    Optuna's own locks are files or links: if a killed process leaves one, others block for 30 seconds.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._held = path, contextlib.ExitStack()

    def acquire(self) -> bool:
        """Wait for the lock, and truncate a line that another process left unfinished; return True."""
        with contextlib.ExitStack() as stack:
            # Not ".lock", the name of Optuna's own lock: other users of the journal would remove the file.
            stack.enter_context(locked(self._path.with_name(self._path.name + LOCK_ENDING)))
            _cut_unfinished_line(self._path)
            self._held = stack.pop_all()
        return True

    def release(self) -> None:
        """Release the lock."""
        self._held.close()

    close = release


class Journal(JournalFileBackend):
    """Optuna's journal file with `Lock`, and with `StoreError` for damaged records."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), lock_obj=Lock(path))
        self._path = path

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield the records from this number on; raises `StoreError` at a damaged one."""
        try:
            yield from super().read_logs(log_number_from)
        except ValueError as error:
            raise StoreError(f"the sweep storage {self._path} is damaged ({error}); {REMEDY}") from error


def _cut_unfinished_line(path: Path) -> None:
    """Truncate a file after its last newline, which removes a record that a kill or a full disk cut short."""
    # Otherwise the next record would continue that line, and neither could be read. The file is not created
    # here: if it was moved away while in use, a partial journal must not take its place.
    with path.open("r+b") as file:
        end = size = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - BLOCK_BYTES)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            file.truncate(end)


def _open_journal(path: Path) -> BaseStorage:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        journal = Journal(path)
        with contextlib.closing(Lock(path)) as lock:
            lock.acquire()
            _check_lines(path)
        return JournalStorage(journal)
    except UserError:
        raise
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"Cannot use the sweep storage {path}: {reason}; it must be a writable file."
        ) from error
    except Exception as error:  # Optuna raises errors of any type for records that are not its own.
        what = f"{type(error).__name__} {error}".strip()
        which = "is damaged or was written by another version of Optuna"
        raise UserError(f"The sweep storage {path} {which} ({what}); {REMEDY}.") from error


def _check_lines(path: Path) -> None:
    """Raise UserError at the first line that is not JSON."""
    # Optuna notices a damaged last line only when another record follows it.
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                json.loads(line)
            except (ValueError, RecursionError) as error:
                what = f"line {number} is not a record"
                raise UserError(f"The sweep storage {path} is damaged ({what}); {REMEDY}.") from error


def _open_server(uri: str) -> BaseStorage:
    scheme, separator, _ = uri.partition("://")
    if not separator or scheme.partition("+")[0] not in POSTGRES:
        address = f"{scheme}://..." if separator else uri.rpartition("@")[2]
        raise UserError(
            f"sweep.storage must be a PostgreSQL address (postgresql://USER:PASSWORD@HOST/DATABASE) or null "
            f"(a journal file), got {address!r}.{nearest(scheme, POSTGRES)}"
        )
    try:
        schema_uri = _with_schema(server_uri(uri))
        # Optuna creates its tables without a lock, so two processes could race.
        with tables_lock(uri):
            _create_schema(schema_uri)
            # pool_pre_ping replaces a connection that a restart of the server has closed.
            return RDBStorage(schema_uri, engine_kwargs={"pool_pre_ping": True})
    except RuntimeError as error:
        what = str(error).partition(". ")[0]
        raise UserError(
            f"Cannot open the sweep storage {redact(uri)!r}: {what}; "
            f"rename its schema {SCHEMA!r} to begin the sweep anew."
        ) from error
    except (SQLAlchemyError, StorageInternalError, ImportError) as error:
        raise UserError(f"Cannot open the sweep storage {redact(uri)!r}: {_reason(error, uri)}.") from error


def _with_schema(uri: str) -> str:
    """Return the address with Optuna's own schema as search path."""
    # MLflow and Optuna both have a table called alembic_version.
    url = make_url(uri)
    driver = url.drivername.partition("+")[2]
    if driver not in DRIVERS:
        raise UserError(f"The driver of sweep.storage must be {' or '.join(DRIVERS)}, got {driver!r}.")
    options = url.query.get("options", ())
    options = " ".join([*([options] if isinstance(options, str) else options), f"-csearch_path={SCHEMA}"])
    return url.update_query_dict({"options": options}).render_as_string(hide_password=False)


def _create_schema(uri: str) -> None:
    engine: Engine = create_engine(uri, poolclass=NullPool)
    with engine.begin() as connection:
        # CREATE SCHEMA IF NOT EXISTS needs a privilege even if the schema exists.
        if connection.scalar(text(f"SELECT to_regnamespace('{SCHEMA}')")) is None:
            connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))


def _reason(error: BaseException, address: str) -> str:
    """Return the reason that the server or operating system gives, as one line without secrets."""
    cause = error
    while cause.__cause__ is not None and getattr(cause, "orig", None) is None:
        cause = cause.__cause__
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return without_secrets(one_line(cause), address)

"""Atomic creation and integrity checks of SQLite files, and database addresses without secrets."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, unquote_plus

from harness.errors import UserError
from harness.files import locked, sync

if TYPE_CHECKING:
    from sqlalchemy import URL

POSTGRES = ("postgres", "postgresql")
DATABASES = ("sqlite", "mysql", "mssql", *POSTGRES)
SIDE_FILES = ("", "-wal", "-shm", "-journal")
SMALLEST_BYTES, CHECKED_BYTES, CHECK_TIMEOUT_S = 512, 256 * 2**20, 30
REMEDY = (
    "restore it from a backup, or move it away with its -wal and -shm files to start a new one "
    "(without the runs, if it is a tracking store; a ledger loses nothing)"
)
# Without these settings, connecting to a dead host blocks for hours.
CONNECTION = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
TABLES_LOCK = 5_137_402_266
SECRET_KEYS = re.compile(
    r"([?&](?:user|username|[^=&]*(?:passw|pwd|passfile|secret|token|apikey|api_key)[^=&]*)=)([^&]*)",
    re.IGNORECASE,
)
SHORTEST_SECRET = 3  # hiding a shorter one would also hide ordinary letters of a message


def create_sqlite(path: Path, initialise: Callable[[str], None]) -> None:
    """Create the SQLite file ``path`` atomically, with tables and in WAL mode, unless it exists.

    ``initialise(uri)`` creates the tables in a temporary file in the same folder and closes its connections;
    that file is then synced and renamed. A lock lets one process at a time create the file.

    Raises:
        UserError: the folder or the file cannot be written, or the existing file is damaged.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        # An existing file is complete, so the lock, which requires write permission, is not needed.
        if path.exists():
            check_sqlite(path)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_suffix(".lock")):
            if path.exists():
                return
            _remove(temporary, SIDE_FILES)
            initialise(sqlite_uri(temporary))
            _set_wal(temporary)
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"Cannot create the database {path}: {reason}.") from error


def check_sqlite(path: Path) -> None:
    """Check the integrity of an SQLite file; above 256 MiB, of its header and schema only.

    Raises:
        UserError: the file is empty, truncated, overwritten or not SQLite; the message says what to do.
    """
    try:
        size = path.stat().st_size
        if size < SMALLEST_BYTES:
            # SQLite would accept an empty file as a new database.
            raise sqlite3.DatabaseError(f"{size} bytes are not a database")
        with contextlib.closing(sqlite3.connect(path, timeout=CHECK_TIMEOUT_S)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master")
            if size <= CHECKED_BYTES:
                verdict = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
                if verdict != "ok":
                    raise sqlite3.DatabaseError(f"malformed: {verdict.splitlines()[-1]}")
    except sqlite3.OperationalError:
        # Locked, unreadable or in a read-only folder: the caller's own access reports it.
        return
    except sqlite3.DatabaseError as error:
        raise UserError(f"The database {path} is damaged ({error}){remedy(str(error))}.") from error


def is_damage(reason: str) -> bool:
    """Return whether an error message of SQLite reports a damaged file, which no retry repairs."""
    return "malformed" in reason or "not a database" in reason


def remedy(reason: str) -> str:
    """Return advice to append to an error message; empty where a retry may help."""
    return f"; {REMEDY}" if is_damage(reason) else ""


def sqlite_uri(path: Path) -> str:
    """Return the SQLAlchemy address of an SQLite file."""
    from sqlalchemy import URL

    plain = f"sqlite:///{path.absolute()}"
    if sqlite_path(plain) == path.absolute():
        return plain
    # SQLAlchemy quotes paths with % or ? itself, since its rules differ between versions.
    return URL.create("sqlite", database=str(path.absolute())).render_as_string()


def sqlite_path(uri: str) -> Path | None:
    """Return the file of an SQLite address; None for an in-memory database or another kind of database.

    Raises:
        UserError: the address is malformed, or names a host.
    """
    if _kind(uri) != "sqlite":
        return None
    url = _parse(uri)
    if url is None or url.host:
        raise UserError(f"The address {redact(uri)!r} is malformed; write it as sqlite:////FOLDER/FILE.")
    return Path(url.database) if url.database and url.database != ":memory:" else None


def is_database(uri: str) -> bool:
    """Return whether the address names a database of any kind, not an HTTP server or a folder."""
    return "://" in uri and _kind(uri) in DATABASES


def server_uri(uri: str) -> str:
    """Add a driver (psycopg, unless one is named) and timeouts to a PostgreSQL address; others are unchanged.

    Raises:
        UserError: the address is malformed, or the driver is not installed.
    """
    if _kind(uri) not in POSTGRES:
        return uri
    url = _parse(uri)
    # An @ in the host belongs to a password that was not percent-encoded.
    if url is None or "@" in (url.host or ""):
        raise UserError(
            f"The address {redact(uri)!r} is malformed; "
            "write it as postgresql://USER:PASSWORD@HOST/DATABASE, with @ in a password as %40."
        )
    if url.drivername in POSTGRES:
        url = url.set(drivername="postgresql+psycopg")
    driver = url.drivername.partition("+")[2]
    if importlib.util.find_spec(driver) is None:
        raise UserError(
            f"PostgreSQL needs the package {driver!r}, which is not installed; write the address as "
            "postgresql://... for psycopg, which pip install 'msa-mixup-bench[postgres]' installs."
        )
    if driver in ("psycopg", "psycopg2"):
        url = url.update_query_dict({k: v for k, v in CONNECTION.items() if k not in url.query})
    return url.render_as_string(hide_password=False)


@contextlib.contextmanager
def tables_lock(uri: str) -> Iterator[None]:
    """Hold a PostgreSQL database's lock for creating tables, across machines; no effect on other databases.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: the server cannot be reached. UserError: see `server_uri`.
    """
    if _kind(uri) not in POSTGRES:
        yield
        return
    from sqlalchemy import bindparam, create_engine, func, select
    from sqlalchemy.pool import NullPool

    # The lock ends with the connection, even if this process is killed.
    engine = create_engine(server_uri(uri), poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(select(func.pg_advisory_lock(bindparam("key", TABLES_LOCK))))
        yield


def redact(uri: str) -> str:
    """Remove user and password from an address; SQLite addresses and plain paths are unchanged.

    A text without ``://`` loses everything up to the last @ if there is a colon before it.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        before, _, after = uri.rpartition("@")
        return after if ":" in before else uri
    if _kind(uri) in ("sqlite", "file") and rest.startswith("/"):
        return uri
    # An unquoted password may contain any character, so everything up to the last @ is removed.
    hidden = SECRET_KEYS.sub(r"\1***", rest)
    return f"{scheme}://{hidden.rpartition('@')[2]}"


def without_secrets(reason: str, uri: str) -> str:
    """Remove the user and password of an address from a library's message.

    uri: the address with its secrets.
    """
    if redact(uri) == uri:
        return reason
    before = uri.partition("://")[2].rpartition("@")[0] or uri.rpartition("@")[0]
    user, _, password = before.partition(":")
    # A library that misparses the address may quote parts of the password as the host.
    values = [before, password, *re.split("[:@/]", password or before)]
    values += [value for _, value in SECRET_KEYS.findall(uri)]
    hidden = reason.replace(uri, redact(uri))
    for secret in sorted({*values, *map(unquote, values), *map(unquote_plus, values)}, key=len, reverse=True):
        if len(secret) >= SHORTEST_SECRET:
            hidden = hidden.replace(secret, "***")
    # Servers put the user name in double quotes.
    return hidden.replace(f'"{unquote(user)}"', "***") if user else hidden


def _kind(uri: str) -> str:
    """Return the scheme of an address, without the driver."""
    return uri.partition("://")[0].partition("+")[0]


def _parse(uri: str) -> URL | None:
    # Imported late: commands that only print an address do not need SQLAlchemy.
    from sqlalchemy import make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return make_url(uri)
    except (SQLAlchemyError, ValueError):
        return None


def _set_wal(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    _remove(path, SIDE_FILES[1:])


def _remove(path: Path, endings: tuple[str, ...]) -> None:
    for ending in endings:
        path.with_name(path.name + ending).unlink(missing_ok=True)

"""SQLite files that are either whole or absent, and database addresses that are safe to show."""

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
    "put a copy in its place, or move it away with its -wal and -shm files to begin a new one "
    "(a ledger loses nothing by that, a tracking store its runs)"
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
SHORTEST_SECRET = 3  # a shorter one cannot be told from the letters of a sentence


def create_sqlite(path: Path, initialise: Callable[[str], None]) -> None:
    """Create the SQLite file ``path`` (tables, then WAL mode) unless it exists; safe against any kill.

    ``initialise(uri)`` fills a temporary file in the same folder and closes its connections; the file is
    renamed into place when it is whole and on disk. Processes that come at once wait for the first one.

    Raises:
        UserError: the folder or the file cannot be written, or the file is there and damaged.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        # Needs no lock, and so no right to write: the file appears whole.
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
    """See to it that an SQLite file is whole; one of more than 256 MiB is checked at its head alone.

    Raises:
        UserError: it is empty, cut short, overwritten or no SQLite file; says what to do.
    """
    try:
        size = path.stat().st_size
        if size < SMALLEST_BYTES:
            # SQLite would take it for a new database.
            raise sqlite3.DatabaseError(f"{size} bytes are not a database")
        with contextlib.closing(sqlite3.connect(path, timeout=CHECK_TIMEOUT_S)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master")
            if size <= CHECKED_BYTES:
                verdict = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
                if verdict != "ok":
                    raise sqlite3.DatabaseError(f"malformed: {verdict.splitlines()[-1]}")
    except sqlite3.OperationalError:
        # Locked, unreadable or in a read-only folder: whoever uses it will say so.
        return
    except sqlite3.DatabaseError as error:
        raise UserError(f"The database {path} is damaged ({error}){remedy(str(error))}.") from error


def is_damage(reason: str) -> bool:
    """Whether a failure, in SQLite's words, is one of the file itself, which no waiting mends."""
    return "malformed" in reason or "not a database" in reason


def remedy(reason: str) -> str:
    """What to do about a failure, to follow its reason; empty where waiting may help."""
    return f"; {REMEDY}" if is_damage(reason) else ""


def sqlite_uri(path: Path) -> str:
    """Address of an SQLite file, for SQLAlchemy and for what is built on it."""
    from sqlalchemy import URL

    plain = f"sqlite:///{path.absolute()}"
    if sqlite_path(plain) == path.absolute():
        return plain
    # Names with % or ?, quoted as the installed version of SQLAlchemy reads them.
    return URL.create("sqlite", database=str(path.absolute())).render_as_string()


def sqlite_path(uri: str) -> Path | None:
    """The file that an SQLite address names; None for one in memory and for any other database.

    Raises:
        UserError: it cannot be read, or names a host.
    """
    if _kind(uri) != "sqlite":
        return None
    url = _parse(uri)
    if url is None or url.host:
        raise UserError(f"The address {redact(uri)!r} cannot be read; write it as sqlite:////FOLDER/FILE.")
    return Path(url.database) if url.database and url.database != ":memory:" else None


def is_database(uri: str) -> bool:
    """Whether the address names a database, of any kind, rather than an HTTP server or a folder."""
    return "://" in uri and _kind(uri) in DATABASES


def server_uri(uri: str) -> str:
    """A PostgreSQL address with the driver psycopg, unless it names one, and bounded waits; others as given.

    Raises:
        UserError: it cannot be read, or the driver is not installed.
    """
    if _kind(uri) not in POSTGRES:
        return uri
    url = _parse(uri)
    # An @ in the host is the rest of a password that nobody quoted.
    if url is None or "@" in (url.host or ""):
        raise UserError(
            f"The address {redact(uri)!r} cannot be read; "
            "write it as postgresql://USER:PASSWORD@HOST/DATABASE, with @ in a password as %40."
        )
    if url.drivername in POSTGRES:
        url = url.set(drivername="postgresql+psycopg")
    driver = url.drivername.partition("+")[2]
    if importlib.util.find_spec(driver) is None:
        raise UserError(
            f"PostgreSQL needs the package {driver!r}, which is not installed; "
            "psycopg comes with the extra 'postgres'."
        )
    if driver in ("psycopg", "psycopg2"):
        url = url.update_query_dict({k: v for k, v in CONNECTION.items() if k not in url.query})
    return url.render_as_string(hide_password=False)


@contextlib.contextmanager
def tables_lock(uri: str) -> Iterator[None]:
    """Let one process at a time, on any machine, create tables in a PostgreSQL database; else no effect.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: the server cannot be reached. UserError: as `server_uri`.
    """
    if _kind(uri) not in POSTGRES:
        yield
        return
    from sqlalchemy import bindparam, create_engine, func, select
    from sqlalchemy.pool import NullPool

    # The lock ends with the connection, so also when this process is killed.
    engine = create_engine(server_uri(uri), poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(select(func.pg_advisory_lock(bindparam("key", TABLES_LOCK))))
        yield


def redact(uri: str) -> str:
    """The address without user and password; SQLite addresses and plain paths stay as they are.

    Of what is no address, but has the colon and the @ of one, only the rest is shown.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        before, _, after = uri.rpartition("@")
        return after if ":" in before else uri
    if _kind(uri) in ("sqlite", "file") and rest.startswith("/"):
        return uri
    # A password may hold any character when nobody quoted it, so everything up to the last @ goes.
    hidden = SECRET_KEYS.sub(r"\1***", rest)
    return f"{scheme}://{hidden.rpartition('@')[2]}"


def without_secrets(reason: str, uri: str) -> str:
    """What a library says of an address, without the user and the password that it quotes.

    uri: the address as it was given.
    """
    if redact(uri) == uri:
        return reason
    before = uri.partition("://")[2].rpartition("@")[0] or uri.rpartition("@")[0]
    user, _, password = before.partition(":")
    # Whoever cannot read the address quotes what it took for the password, or for the host.
    values = [before, password, *re.split("[:@/]", password or before)]
    values += [value for _, value in SECRET_KEYS.findall(uri)]
    hidden = reason.replace(uri, redact(uri))
    for secret in sorted({*values, *map(unquote, values), *map(unquote_plus, values)}, key=len, reverse=True):
        if len(secret) >= SHORTEST_SECRET:
            hidden = hidden.replace(secret, "***")
    # Servers name the user between quotes.
    return hidden.replace(f'"{unquote(user)}"', "***") if user else hidden


def _kind(uri: str) -> str:
    """The scheme of an address, without the driver."""
    return uri.partition("://")[0].partition("+")[0]


def _parse(uri: str) -> URL | None:
    # Imported late: a command that only shows an address answers without it.
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

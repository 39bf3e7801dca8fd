"""Check of the schema of MLflow's database before MLflow opens it.

MLflow's own check comes too late: it migrates some older databases on opening, without a backup, and may
create tables in a newer database before it rejects that database.
"""

from __future__ import annotations

import contextlib
import functools
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from harness.databases import is_database, redact, server_uri
from harness.errors import UserError

TABLE = "alembic_version"


def check_schema(uri: str) -> None:
    """Check that MLflow can open a database without changing its tables; servers and new databases pass.

    Raises:
        UserError: the database was written by an older or newer version; the message says what to do.
        sqlalchemy.exc.SQLAlchemyError: the database does not answer.
    """
    stored = _revisions_in(uri) if is_database(uri) else set()
    if not stored:
        return
    known, newest = _revisions_known()
    if stored <= newest:
        return
    here = f"MLflow {metadata.version('mlflow')}, which is installed here"
    schema, address = ", ".join(sorted(stored)), redact(uri)
    if stored <= known:
        # Without an explicit driver, MLflow would look for psycopg2.
        command = f"python -m mlflow db upgrade '{redact(server_uri(uri).partition('?')[0])}'"
        raise UserError(
            f"The tracking store {address!r} was written by an older version than {here} (its schema is "
            f"{schema}); stop all programs that use it, back it up, then migrate it with: {command}"
        )
    raise UserError(
        f"The tracking store {address!r} was written by a newer version than {here}, or by another program "
        f"(its schema is {schema}); install that version, or give another tracking.uri or var_dir."
    )


def _revisions_in(uri: str) -> set[str]:
    """Return the schema revisions stored in a database; empty if MLflow's tables do not exist yet."""
    from sqlalchemy import column, create_engine, inspect, select, table
    from sqlalchemy.pool import NullPool

    engine = create_engine(server_uri(uri), poolclass=NullPool)
    with contextlib.closing(engine.connect()) as connection:
        if not inspect(connection).has_table(TABLE):
            return set()
        return set(connection.scalars(select(column("version_num")).select_from(table(TABLE))))


@functools.cache
def _revisions_known() -> tuple[set[str], set[str]]:
    """Return all revisions that the installed MLflow knows, and the newest ones."""
    from alembic.script import ScriptDirectory

    spec = find_spec("mlflow")
    assert spec is not None
    assert spec.origin is not None
    scripts = ScriptDirectory(str(Path(spec.origin).parent / "store" / "db_migrations"))
    return {script.revision for script in scripts.walk_revisions()}, set(scripts.get_heads())

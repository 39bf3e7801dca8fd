"""The schema of MLflow's database, checked before MLflow opens it.

MLflow's own check comes too late: it migrates some older databases as it opens them, without a copy, and may
create tables in one of a newer version before it refuses it.
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
    """See to it that MLflow can open a database without changing its tables; servers and new ones pass.

    Raises:
        UserError: it was written by an older or newer version; says what to do.
        sqlalchemy.exc.SQLAlchemyError: it does not answer.
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
        # MLflow itself would look for the driver psycopg2.
        command = f"python -m mlflow db upgrade '{redact(server_uri(uri).partition('?')[0])}'"
        raise UserError(
            f"The tracking store {address!r} was written by an older version than {here} (its schema is "
            f"{schema}); stop whatever uses it, make a copy of it, then migrate it with: {command}"
        )
    raise UserError(
        f"The tracking store {address!r} was written by a newer version than {here}, or by another program "
        f"(its schema is {schema}); install that version, or give another tracking.uri or var_dir."
    )


def _revisions_in(uri: str) -> set[str]:
    """The revisions that a database says it has; none where MLflow's tables are still to be made."""
    from sqlalchemy import column, create_engine, inspect, select, table
    from sqlalchemy.pool import NullPool

    engine = create_engine(server_uri(uri), poolclass=NullPool)
    with contextlib.closing(engine.connect()) as connection:
        if not inspect(connection).has_table(TABLE):
            return set()
        return set(connection.scalars(select(column("version_num")).select_from(table(TABLE))))


@functools.cache
def _revisions_known() -> tuple[set[str], set[str]]:
    """All revisions that the installed MLflow knows, and the newest."""
    from alembic.script import ScriptDirectory

    spec = find_spec("mlflow")
    assert spec is not None
    assert spec.origin is not None
    scripts = ScriptDirectory(str(Path(spec.origin).parent / "store" / "db_migrations"))
    return {script.revision for script in scripts.walk_revisions()}, set(scripts.get_heads())

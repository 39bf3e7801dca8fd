"""Repair of MLflow's absolute artifact addresses after a var_dir was moved or copied."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlparse

import sqlalchemy as sa

EXPERIMENTS = sa.table("experiments", sa.column("experiment_id"), sa.column("artifact_location"))
RUNS = sa.table("runs", sa.column("experiment_id"), sa.column("artifact_uri"))


def adopt_artifacts(engine: sa.Engine, artifacts: Path) -> None:
    """Rewrite the artifact addresses of a store's experiments and runs to its present folder.

    artifacts: the folder ``artifacts`` of the store's var_dir, which need not exist. Addresses that do not
    lie in a folder of this name stay as they are.
    """
    here = artifacts.absolute().as_uri()
    with engine.connect() as connection:
        rows = connection.execute(sa.select(EXPERIMENTS)).all()
    moved = [(number, uri) for number, uri in rows if _is_elsewhere(uri or "", artifacts)]
    if not moved:
        return
    with engine.begin() as connection:
        for number, uri in moved:
            new = f"{here}/{uri.rpartition('/')[2]}"
            ours = EXPERIMENTS.c.experiment_id == number
            connection.execute(sa.update(EXPERIMENTS).where(ours).values(artifact_location=new))
            tail = sa.func.substr(RUNS.c.artifact_uri, len(uri) + 1)
            runs = sa.and_(
                RUNS.c.experiment_id == number, RUNS.c.artifact_uri.startswith(f"{uri}/", autoescape=True)
            )
            connection.execute(sa.update(RUNS).where(runs).values(artifact_uri=sa.literal(new) + tail))


def _is_elsewhere(uri: str, artifacts: Path) -> bool:
    """Return whether an experiment's address lies in a different folder named ``artifacts``."""
    folder = Path(unquote(urlparse(uri).path)).parent
    if not uri.startswith("file:") or folder.name != artifacts.name:
        return False
    try:
        return not folder.samefile(artifacts)
    except OSError:
        return folder != artifacts.absolute()

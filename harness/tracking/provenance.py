"""Provenance of a result: the commit of the code and the versions of packages."""

from __future__ import annotations

import json
import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "numpy", "mlflow", "hydra-core", "pandas", "sqlalchemy")


def provenance() -> dict[str, str]:
    """Return the tags git_commit and git_dirty (empty outside a checkout), and versions as JSON."""
    versions = {name: metadata.version(name) for name in PACKAGES} | {"python": platform.python_version()}
    commit = _git("rev-parse", "HEAD")
    dirty = str(bool(_git("status", "--porcelain", "--untracked-files=no"))).lower() if commit else ""
    return {"git_commit": commit, "git_dirty": dirty, "versions": json.dumps(versions, sort_keys=True)}


def _git(*arguments: str) -> str:
    here = Path(__file__).resolve().parent.parent
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""

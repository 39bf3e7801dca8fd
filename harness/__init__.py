"""The protocol of the benchmark, which is the same for all methods and backbones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["run"]


def run(*files: str | Path, **settings: Any) -> pd.DataFrame:
    """Run or resume a study and return its numbers as a frame, see `harness.benchmark.run`."""
    # Imported here, so that importing a module of this package loads nothing else.
    from harness.benchmark import run as run_study

    return run_study(*files, **settings)

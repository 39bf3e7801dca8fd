"""Which part of a study a shard is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from harness.errors import UserError
from harness.files import safe_name

T = TypeVar("T")
SLURM = "slurm"
_ARRAY = "SLURM_ARRAY_TASK_"


@dataclass(frozen=True)
class Shard:
    """Part ``number`` of ``count`` equal parts, from 1."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def of(self, cells: Sequence[T]) -> Sequence[T]:
        """Return every ``count``-th cell, so that all shards get cells of all backbones."""
        return cells[self.number - 1 :: self.count]


def parse_shard(text: str, environment: Mapping[str, str]) -> Shard:
    """Parse ``2/8``, or ``slurm`` for the task of a SLURM job array; raises UserError."""
    if text == SLURM:
        return _of_array(environment)
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(
            f"shard={text!r} is not allowed; give part and number of parts, as in shard=1/4, or shard=slurm."
        )
    return Shard(int(found[1]), int(found[2]))


def _of_array(environment: Mapping[str, str]) -> Shard:
    names = ("ID", "MIN", "MAX", "COUNT", "STEP")
    try:
        task, first, last, count, step = (int(environment[_ARRAY + name]) for name in names)
    except (KeyError, ValueError):
        raise UserError(
            "shard=slurm needs the variables of a SLURM job array (SLURM_ARRAY_TASK_ID and others); submit "
            "with sbatch --array=1-N, or give shard=1/4."
        ) from None
    # An array such as 1,3,7 has gaps that these variables do not tell.
    if step < 1 or (last - first) // step + 1 != count or (task - first) % step:
        raise UserError(
            f"shard=slurm needs an array of equal steps, got {count} tasks from {first} to {last}; submit "
            "with sbatch --array=1-N, or give shard=1/4."
        )
    return Shard((task - first) // step + 1, count)


def shard_folder(var_dir: Path, study: str) -> Path:
    """Return the folder of a study's results of shards."""
    return var_dir / "shards" / safe_name(study)

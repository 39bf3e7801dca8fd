"""The job of each cell of a plan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.data.pretrained import text_states
from harness.launchers.base import Job
from harness.matrix import Cell, first_seeds
from harness.plan import Plan


def jobs_of(
    config: Any, plan: Plan, device: str, var_dir: Path, checkpoints: Path, say: Callable[[str], None]
) -> Callable[[Cell], Job]:
    """Return the function that builds a cell's job; the states of a frozen text encoder are computed first.

    config: the plan was made from it. device: "cpu" or "cuda". checkpoints: an absolute folder.
    """
    folders = {name: str(data.folder.absolute()) for name, data in plan.datasets.items()}
    sampled, states, model = first_seeds(plan.cells), {}, plan.text_model
    if model is not None and not plan.cells[0].text.finetune:
        cache = var_dir / "cache"
        states = text_states(model, plan.datasets, plan.cells, device, config.cell.threads, cache, say)

    def job_of(cell: Cell) -> Job:
        return Job(
            cell,
            data=folders[cell.dataset],
            device=device,
            resident=config.data.resident,
            checkpoint=str(checkpoints / f"{cell.cell_id}.npz"),
            checkpoint_s=config.cell.checkpoint_s,
            text_model=None if model is None else str(model.folder.absolute()),
            text_states=states.get((cell.dataset, cell.backbone)),
            sample=cell.cell_id in sampled,
            # The truth is in a separate file, because a training must not read it.
            truth=f"{folders[cell.dataset]}.truth.npz",
            keep_weights=config.keep is not None,
        )

    return job_of

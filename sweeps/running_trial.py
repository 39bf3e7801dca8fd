"""State of a running trial: its cells, their metrics and failures, and the record logged to MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from harness.matrix import Cell
from harness.tracking.tags import Trial
from sweeps.search import Search


@dataclass
class RunningTrial:
    """One trial of a search.

    Args:
        cells: seed -> cell. metrics: seed -> metrics of a complete cell. curves: seed -> validation loss per
            epoch of a paused cell. attempts: seed -> number of failures. failure: the kind of failure, one of
            the constants in `sweeps.search`, and its description. rung: number of pruning decisions passed.
    """

    search: Search
    trial: optuna.Trial | FrozenTrial
    cells: dict[int, Cell]
    started: float
    metrics: dict[int, Mapping[str, float]] = field(default_factory=dict)
    curves: dict[int, Sequence[float]] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)
    failure: tuple[str, str] = ("", "")
    rung: int = 0

    @property
    def default(self) -> bool:
        """Whether the trial has the default settings, which cells have without a sweep."""
        return list(self.cells.values()) == list(self.search.bases)

    @property
    def rungs(self) -> list[int]:
        """The epochs after which the trial may be pruned, ascending."""
        epochs = self.search.bases[0].backbone_settings.max_epochs
        shares = self.search.budget.prune_at if self.search.space.sampler != "grid" else ()
        return [e for e in sorted({max(1, round(share * epochs)) for share in shares}) if e < epochs]

    @property
    def pause_after(self) -> int | None:
        """The epoch after which the trial's cells pause next, or None."""
        return self.rungs[self.rung] if self.rung < len(self.rungs) else None

    def best_loss(self, epoch: int) -> float:
        """Return the best validation loss up to an epoch, averaged over the seeds."""
        return float(np.mean([min(curve[:epoch]) for curve in self.curves.values()]))

    def record(self, sweep: str, state: str, owner: str, synthetic: bool) -> Trial:
        """Return the record that is logged to MLflow. state: see `harness.tracking.tags.Trial`."""
        return Trial(
            sweep=sweep,
            search=self.search.name,
            number=self.trial.number,
            base=self.search.bases[0],
            values=self.search.space.exact(self.trial.params),
            default=self.default,
            state=state,
            cells={seed: cell.cell_id for seed, cell in self.cells.items()},
            started=self.started,
            synthetic=synthetic,
            reason=self.failure[1],
            owner=owner,
            **self._means(state),
        )

    def _means(self, state: str) -> dict[str, Any]:
        """Return the objective and, once all seeds are complete, the means of it and of all metrics."""
        objective, value, means = f"valid/{self.search.budget.objective}", None, {}
        if self.metrics and len(self.metrics) == len(self.cells) and state != "failed":
            first = next(iter(self.metrics.values()))
            names = [name for name in first if name.startswith(("valid/", "test"))]
            means = {n: float(np.mean([metrics[n] for metrics in self.metrics.values()])) for n in names}
            value = means[objective] if np.isfinite(means[objective]) else None
        return {"objective": objective, "value": value, "metrics": means}

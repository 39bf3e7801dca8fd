"""A trial under way: its cells by seed, what is known of them, and the record that MLflow gets of it."""

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
        cells: by seed. metrics: of the cells that are complete, by seed. curves: the validation losses of
            those that pause. attempts: how often each has failed. failure: why the trial failed, one of the
            reasons of `sweeps.search`, and what happened. rung: how many decisions to go on it has passed.
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
        """Whether its settings are those without the sweep."""
        return list(self.cells.values()) == list(self.search.bases)

    @property
    def rungs(self) -> list[int]:
        """The epochs after which it may be pruned."""
        epochs = self.search.bases[0].backbone_settings.max_epochs
        shares = self.search.budget.prune_at if self.search.space.sampler != "grid" else ()
        return [e for e in sorted({max(1, round(share * epochs)) for share in shares}) if e < epochs]

    @property
    def pause_after(self) -> int | None:
        """The epoch after which its cells pause next."""
        return self.rungs[self.rung] if self.rung < len(self.rungs) else None

    def best_loss(self, epoch: int) -> float:
        """The best validation loss up to an epoch, as the mean over the seeds."""
        return float(np.mean([min(curve[:epoch]) for curve in self.curves.values()]))

    def record(self, sweep: str, state: str, owner: str, synthetic: bool) -> Trial:
        """What MLflow is told of it; ``state``: as in `harness.tracking.tags.Trial`."""
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
        """The objective, its mean over the seeds, and the means of all metrics; none before all are known."""
        objective, value, means = f"valid/{self.search.budget.objective}", None, {}
        if self.metrics and len(self.metrics) == len(self.cells) and state != "failed":
            first = next(iter(self.metrics.values()))
            names = [name for name in first if name.startswith(("valid/", "test"))]
            means = {n: float(np.mean([metrics[n] for metrics in self.metrics.values()])) for n in names}
            value = means[objective] if np.isfinite(means[objective]) else None
        return {"objective": objective, "value": value, "metrics": means}

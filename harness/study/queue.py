"""Where the cells of a study come from: the queue that a driver works off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from harness.matrix import Cell


class CellQueue(Protocol):
    """A source of cells, which is notified how they end. No cell is in flight twice at the same time."""

    open: bool  # whether `more` may return cells later, even if it returns none now

    def more(self) -> Sequence[Cell]:
        """Return further cells, or none for now; called at the start and when a slot is free."""

    def pause_after(self, cell: Cell) -> int | None:
        """Return the epoch after which a cell that starts now pauses; None: it trains to its end."""

    def done(self, cell: Cell, numbers: Mapping[str, float]) -> None:
        """Receive the metrics of a cell that has a result: ``valid/loss``, ``test/mae`` and so on."""

    def failed(self, cell: Cell, reason: str, final: bool) -> None:
        """Receive the reason why a cell has no result; final: it would fail again (it diverged)."""

    def paused(self, cell: Cell, curves: Mapping[str, Sequence[float]]) -> None:
        """Receive the curves of a cell that paused after `pause_after`; queued again, it resumes."""


class Matrix:
    """The queue of a benchmark: all cells at once."""

    open = False

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._cells = cells

    def more(self) -> Sequence[Cell]:
        """Return all cells at the first call, then none."""
        cells, self._cells = self._cells, ()
        return cells

    def pause_after(self, cell: Cell) -> int | None:
        """Return None: every cell is trained to its end."""
        return None

    def done(self, cell: Cell, numbers: Mapping[str, float]) -> None:
        """Do nothing."""

    def failed(self, cell: Cell, reason: str, final: bool) -> None:
        """Do nothing: the next run retries cells that did not diverge."""

    def paused(self, cell: Cell, curves: Mapping[str, Sequence[float]]) -> None:
        """Do nothing: no cell of a benchmark pauses."""

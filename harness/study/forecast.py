"""How long the cells that are left take, by those of the same data set and backbone that ended."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from statistics import fmean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Displays import this module before the request is checked, so its import must be fast.
    from harness.matrix import Cell

Pair = tuple[str, str]
"""A data set and a backbone, by which the time of a cell differs most."""


def pair_of(cell: Cell) -> Pair:
    """Return the data set and backbone of a cell."""
    return cell.dataset, cell.backbone_label


class Forecast:
    """Seconds per cell of each pair of data set and backbone."""

    def __init__(self) -> None:
        self._seconds: defaultdict[Pair, list[float]] = defaultdict(list)

    def measured(self, pair: Pair, seconds: float) -> None:
        """Add the time of a cell that ended."""
        self._seconds[pair].append(seconds)

    def seconds(self, pair: Pair) -> float | None:
        """Return the mean time of the pair's cells; None if none ended."""
        return fmean(self._seconds[pair]) if pair in self._seconds else None

    def left(self, pairs: Iterable[Pair]) -> tuple[float, int]:
        """Return the seconds of the cells whose pair was measured, and the number of the other cells."""
        counts = Counter(pairs)
        times = {pair: self.seconds(pair) for pair in counts}
        known = sum(counts[pair] * seconds for pair, seconds in times.items() if seconds is not None)
        return known, sum(counts[pair] for pair, seconds in times.items() if seconds is None)


def duration(seconds: float) -> str:
    """Format a duration for people, e.g. ``45 s``, ``12 min``, ``3.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"

"""Measured numbers with their bounds, as every part of the report hands them over."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One number. bound: the most it may be, or with ``least`` the least; None: it is there to be read.

    name: its keys, from the outside in, with ", " between them. unit: "s", "ms", "MB", "%", "times",
    "cells/min", "hours", or "" for a plain number.
    """

    name: str
    value: float
    unit: str
    bound: float | None = None
    least: bool = False

    @property
    def holds(self) -> bool:
        """Whether the number keeps its bound; what is not a number keeps none."""
        if self.bound is None:
            return True
        return self.value >= self.bound if self.least else self.value <= self.bound

    @property
    def verdict(self) -> str:
        """The bound and whether it holds, for people."""
        if self.bound is None:
            return ""
        return f"{'≥' if self.least else '≤'} {self.bound:g} {'holds' if self.holds else 'BROKEN'}"


@dataclass(frozen=True)
class Part:
    """One part of the report: a title, what was measured and how, and the rows."""

    name: str
    title: str
    how: str
    rows: tuple[Row, ...]

    def stored(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def of(cls, stored: dict[str, Any]) -> Part:
        """The way back; raises TypeError or KeyError where something else was stored."""
        return cls(**{**stored, "rows": tuple(Row(**row) for row in stored["rows"])})


def markdown(parts: Iterable[Part]) -> Iterator[str]:
    """Lines of a Markdown document: a table per part."""
    for part in parts:
        yield f"## {part.title}"
        yield ""
        yield part.how
        yield ""
        yield "| what | value | unit | bound |"
        yield "|---|---:|---|---|"
        for row in part.rows:
            yield f"| {row.name} | {readable(row.value)} | {row.unit} | {row.verdict} |"
        yield ""


def readable(value: float) -> str:
    """Three significant digits, without an exponent."""
    if not math.isfinite(value):
        return "none"
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"

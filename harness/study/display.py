"""What a person sees of a running study: a progress bar on a terminal, a line per cell elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from rich import markup
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from harness.errors import visible

if TYPE_CHECKING:
    # Commands import this module before they know that the request is right.
    from harness.matrix import Cell
    from harness.plan import Plan
    from harness.study.driver import StudyOutcome


class LiveDisplay:
    """Progress with the time left, by the pace of the cells trained so far."""

    def __init__(self, console: Console, unit: str = "cells") -> None:
        self.console = console
        self.total = self.done = self.begun_with = 0
        self.since = time.monotonic()
        self.progress = Progress(
            TextColumn(unit),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[now]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.progress.add_task(unit, total=None, left="", now="")

    def __enter__(self) -> LiveDisplay:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def begin(self, total: int, done: int) -> None:
        """Show where the study stands."""
        self.total, self.done, self.begun_with, self.since = total, done, done, time.monotonic()
        self.progress.update(self.task, total=total, completed=done)

    def started(self, cell: Cell) -> None:
        """Name the cell that started last."""
        self.progress.update(self.task, now=shown(cell.run_name))

    def ended(self, cell: Cell, note: str) -> None:
        """Count a cell, and say what went wrong with it."""
        self.done += 1
        left = f"{self._left_s():.0f} s left" if self.done < self.total else ""
        self.progress.update(self.task, completed=self.done, left=left)
        if note:
            self.console.print(f"[red]failed[/red] {shown(cell.run_name)}: {shown(note)}", soft_wrap=True)
        elif not self.console.is_terminal:
            self.console.print(f"{self.done}/{self.total} {shown(cell.run_name)} {left}", soft_wrap=True)

    def waiting(self, count: int) -> None:
        """Say that other drivers hold what is left."""
        self.progress.update(self.task, now=f"waiting for {count} cells of other drivers")

    def trouble(self, reason: str, wait_s: float) -> None:
        """Say that a store does not answer and will be asked again."""
        self.say(f"Waiting {wait_s:.0f} s, then trying again: {reason}.")

    def say(self, sentence: str) -> None:
        """Print a sentence above the progress."""
        self.console.print(shown(sentence), style="yellow", soft_wrap=True)

    def _left_s(self) -> float:
        pace = (time.monotonic() - self.since) / max(1, self.done - self.begun_with)
        return pace * (self.total - self.done)


def shown(text: str) -> str:
    """A text as rich prints it as it stands, with what one cannot see of it spelt out."""
    return markup.escape(visible(text))


def closing_table(plan: Plan, numbers: Mapping[str, Mapping[str, float]]) -> Table:
    """Test MAE and correlation, mean ± standard deviation over seeds, a row per training condition.

    numbers: of the cells that have a result, by their ids.
    """
    synthetic = " (synthetic stand-in data)" if any(d.synthetic for d in plan.datasets.values()) else ""
    table = Table(title=shown(f"Study {plan.study}: clean test split{synthetic}"), title_justify="left")
    conditions = _by_condition(plan, numbers)
    occluded = any(cell.train_ratio for cell in plan.cells)
    for column in ("dataset", "backbone", "method", *(["trained at ratio"] if occluded else [])):
        table.add_column(column)
    for column in ("seeds", "MAE ↓", "corr ↑"):
        table.add_column(column, justify="right")
    previous: tuple[str, ...] = ()
    for key, cells in conditions.items():
        if previous and key[:2] != previous[:2]:
            table.add_section()
        names = key if occluded else key[:3]
        values = [mean_and_spread([cell.get(f"test/{m}", np.nan) for cell in cells]) for m in ("mae", "corr")]
        table.add_row(*(shown(name) for name in names), str(len(cells)), *values)
        previous = key
    return table


def _by_condition(
    plan: Plan, numbers: Mapping[str, Mapping[str, float]]
) -> dict[tuple[str, ...], list[Mapping[str, float]]]:
    """Numbers of cells that differ in the seed alone, by (dataset, backbone, method, training ratio)."""
    groups: dict[tuple[str, ...], list[Mapping[str, float]]] = {}
    for cell in plan.cells:
        key = (cell.dataset, cell.backbone_label, plan.method_label(cell), f"{cell.train_ratio:g}")
        group = groups.setdefault(key, [])
        if cell.cell_id in numbers:
            group.append(numbers[cell.cell_id])
    return groups


def mean_and_spread(values: Iterable[float]) -> str:
    """Mean ± standard deviation of the defined values; says how many are undefined."""
    array = np.array(list(values), float)
    defined = array[np.isfinite(array)]
    mark = f" ({len(array) - len(defined)} undefined)" if len(defined) < len(array) else ""
    if not len(defined):
        return f"–{mark}"
    spread = f" ± {defined.std(ddof=1):.3f}" if len(defined) > 1 else ""
    return f"{defined.mean():.3f}{spread}{mark}"


def failure_table(outcome: StudyOutcome) -> Table:
    """The cells without a result, each with its reason."""
    table = Table(
        title=f"{len(outcome.failed)} of {outcome.total} cells have no result", title_justify="left"
    )
    table.add_column("cell")
    table.add_column("reason", overflow="fold")
    for cell, reason in outcome.failed.values():
        table.add_row(shown(cell.run_name), shown(reason))
    return table


def show_datasets(console: Console, plan: Plan) -> None:
    """Print where each dataset comes from, what was found in the user's, and the plan's notes."""
    for data in plan.datasets.values():
        source = visible(data.source)
        console.print(f"{data.name}: {source}", markup=False, highlight=False, soft_wrap=True)
        for note in () if data.synthetic else data.notes:
            console.print(f"  {visible(note)}", style="dim", markup=False, highlight=False, soft_wrap=True)
    for note in plan.notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)

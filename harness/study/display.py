"""The progress display of a study: a progress bar on a terminal, otherwise one line per cell."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np
from rich import markup
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from harness.errors import visible
from harness.study.description import twins, twins_sentence
from harness.study.forecast import Forecast, Pair, duration, pair_of

if TYPE_CHECKING:
    # Commands import this module before they check the request, so its import must be fast.
    from harness.matrix import Cell
    from harness.plan import Plan


class LiveDisplay:
    """A progress bar with the remaining time, by the cells of a data set and backbone that ended so far."""

    def __init__(self, console: Console, unit: str = "cells") -> None:
        self.console = console
        self.total = self.done = self.done_before = self.workers = 0
        self.left: dict[str, Pair] = {}
        self.running: dict[str, float] = {}
        self.forecast = Forecast()
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

    def begin(self, total: int, done: int, left: Iterable[Cell] = ()) -> None:
        """Set the number of cells, and how many of them are done already. left: the others, if known."""
        self.left = {cell.cell_id: pair_of(cell) for cell in left}
        self.total, self.done, self.done_before, self.since = total, done, done, time.monotonic()
        self.progress.update(self.task, total=total, completed=done)

    def started(self, cell: Cell) -> None:
        """Show the cell that started last."""
        self.running[cell.cell_id] = time.monotonic()
        self.workers = max(self.workers, len(self.running))
        self.progress.update(self.task, now=escape(cell.run_name))

    def ended(self, cell: Cell, note: str) -> None:
        """Count a cell that ended; note: its error, or empty."""
        self.done += 1
        self.left.pop(cell.cell_id, None)
        since = self.running.pop(cell.cell_id, None)
        if since is not None and not note:
            self.forecast.measured(pair_of(cell), time.monotonic() - since)
        left = self._left() if self.done < self.total else ""
        self.progress.update(self.task, completed=self.done, left=left)
        if note:
            self.console.print(f"[red]failed[/red] {escape(cell.run_name)}: {escape(note)}", soft_wrap=True)
        elif not self.console.is_terminal:
            self.console.print(f"{self.done}/{self.total} {escape(cell.run_name)} {left}", soft_wrap=True)

    def waiting(self, count: int) -> None:
        """Show that the remaining cells are claimed by other drivers."""
        self.progress.update(self.task, now=f"waiting for {count} cells of other drivers")

    def trouble(self, reason: str, wait_s: float) -> None:
        """Report that a call to a store failed and is retried."""
        self.say(f"Retrying in {wait_s:.0f} s: {reason}.")

    def say(self, sentence: str) -> None:
        """Print a message above the progress bar."""
        self.console.print(escape(sentence), style="yellow", soft_wrap=True)

    def _left(self) -> str:
        """Return the time that is left for cells like those that ended, and the number of the others."""
        if not self.left:
            return f"{duration(self._left_s())} left"
        seconds, unknown = self.forecast.left(self.left.values())
        more = f", and {unknown} cells of unknown time" if unknown else ""
        return f"{duration(seconds / max(1, self.workers))} left{more}"

    def _left_s(self) -> float:
        pace = (time.monotonic() - self.since) / max(1, self.done - self.done_before)
        return pace * (self.total - self.done)


def escape(text: str) -> str:
    """Escape rich's markup and invisible characters, so that a text is printed verbatim."""
    return markup.escape(visible(text))


def closing_table(plan: Plan, numbers: Mapping[str, Mapping[str, float]]) -> Table:
    """Return a table of test MAE and correlation: mean ± standard deviation over seeds, a row per condition.

    numbers: cell_id -> metrics of the cells that have a result.
    """
    synthetic = " (synthetic stand-in data)" if any(d.synthetic for d in plan.datasets.values()) else ""
    table = Table(title=escape(f"Study {plan.study}: clean test split{synthetic}"), title_justify="left")
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
        table.add_row(*(escape(name) for name in names), str(len(cells)), *values)
        previous = key
    return table


def _by_condition(
    plan: Plan, numbers: Mapping[str, Mapping[str, float]]
) -> dict[tuple[str, ...], list[Mapping[str, float]]]:
    """Group metrics by (dataset, backbone, method, training ratio), so that a group differs only in seeds."""
    groups: dict[tuple[str, ...], list[Mapping[str, float]]] = {}
    for cell in plan.cells:
        key = (cell.dataset, cell.backbone_label, plan.method_label(cell), f"{cell.train_ratio:g}")
        group = groups.setdefault(key, [])
        if cell.cell_id in numbers:
            group.append(numbers[cell.cell_id])
    return groups


def mean_and_spread(values: Iterable[float]) -> str:
    """Format mean ± standard deviation of the defined values, and the number of undefined ones."""
    array = np.array(list(values), float)
    defined = array[np.isfinite(array)]
    mark = f" ({len(array) - len(defined)} undefined)" if len(defined) < len(array) else ""
    if not len(defined):
        return f"–{mark}"
    spread = f" ± {defined.std(ddof=1):.3f}" if len(defined) > 1 else ""
    return f"{defined.mean():.3f}{spread}{mark}"


class Failures(Protocol):
    """Cells that have no result, of a number of cells."""

    total: int
    failed: dict[str, tuple[Cell, str]]


def failure_table(outcome: Failures) -> Table:
    """Return a table of the cells without a result, with reasons."""
    table = Table(
        title=f"{len(outcome.failed)} of {outcome.total} cells have no result", title_justify="left"
    )
    table.add_column("cell")
    table.add_column("reason", overflow="fold")
    for cell, reason in outcome.failed.values():
        table.add_row(escape(cell.run_name), escape(reason))
    return table


def show_datasets(console: Console, plan: Plan) -> None:
    """Print the source of each dataset, notes on the user's own datasets, and the notes of the plan."""
    for data in plan.datasets.values():
        source = visible(data.source)
        console.print(f"{data.name}: {source}", markup=False, highlight=False, soft_wrap=True)
        for note in () if data.synthetic else data.notes:
            console.print(f"  {visible(note)}", style="dim", markup=False, highlight=False, soft_wrap=True)
    same = twins({data.name: data.fingerprint for data in plan.datasets.values()})
    for note in [*(twins_sentence(*pair) for pair in same.items()), *plan.notes]:
        console.print(note, markup=False, highlight=False, soft_wrap=True)

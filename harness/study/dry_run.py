"""Preview of a command: cells by data set and backbone, how many are done, and the time of the others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from harness.config.compose import var_path
from harness.launchers.processes import usable_cores
from harness.plan import Plan
from harness.study.display import escape
from harness.study.forecast import Forecast, duration, pair_of
from harness.tracking.reader import Run
from harness.tracking.store import UnknownStudy
from harness.tracking.tracker import Tracker


def show_plan(console: Console, plan: Plan, config: Any, stored: bool) -> None:
    """Print the plan. stored: whether there is a store of earlier results."""
    runs = _runs(config, plan.study) if stored else {}
    forecast = Forecast()
    for run in runs.values():
        if "cell/wall_s" in run.metrics:
            forecast.measured((run.tags["dataset"], run.tags["backbone"]), run.metrics["cell/wall_s"])
    console.print(plan_table(plan, runs, forecast))
    for sentence in sentences(plan, runs, forecast, _workers(config)):
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def _workers(config: Any) -> int:
    """Return how many cells this machine trains at once, on CPUs."""
    return 1 if config.launcher.name == "inline" else config.jobs or usable_cores()


def _runs(config: Any, study: str) -> Mapping[str, Run]:
    """Return the complete runs of the study; none if it does not exist yet."""
    try:
        return Tracker(config.tracking.uri, var_path(config), study, create=False).complete()
    except UnknownStudy:
        return {}


def plan_table(plan: Plan, runs: Mapping[str, Run], forecast: Forecast) -> Table:
    """Return a table with a row per data set and backbone: cells, done ones, and seconds per cell."""
    table = Table(title=escape(f"Study {plan.study}: what would be trained"), title_justify="left")
    for column in ("dataset", "backbone", "methods"):
        table.add_column(column, overflow="fold")
    for column in ("seeds", "cells", "done", "left", "time per cell"):
        table.add_column(column, justify="right")
    pairs = dict.fromkeys(map(pair_of, plan.cells))
    for pair in pairs:
        cells = [cell for cell in plan.cells if pair_of(cell) == pair]
        done = sum(cell.cell_id in runs for cell in cells)
        methods = dict.fromkeys(plan.method_label(cell) for cell in cells)
        seconds = forecast.seconds(pair)
        counts = (len({cell.seed for cell in cells}), len(cells), done, len(cells) - done)
        time = "–" if seconds is None else duration(seconds)
        table.add_row(*pair, escape(", ".join(methods)), *map(str, counts), time)
    return table


def sentences(plan: Plan, runs: Mapping[str, Run], forecast: Forecast, workers: int) -> Iterator[str]:
    """Yield how many cells are left, and how long they take with so many workers."""
    left = [pair_of(cell) for cell in plan.cells if cell.cell_id not in runs]
    yield f"{len(left)} of {len(plan.cells)} cells would be trained."
    seconds, unmeasured = forecast.left(left)
    shown = duration(math.ceil(seconds / workers))
    by = "one worker" if workers == 1 else f"{workers} workers"
    if left and seconds:
        least = "more than " if unmeasured else ""
        yield f"They take {least}{shown} with {by}, by the cells measured so far."
    if unmeasured:
        unknown = [pair for pair in dict.fromkeys(left) if forecast.seconds(pair) is None]
        names = ", ".join(f"{backbone} on {dataset}" for dataset, backbone in unknown)
        yield f"Not measured yet: {names}; train one seed to know, as in seeds=[{plan.cells[0].seed}]."

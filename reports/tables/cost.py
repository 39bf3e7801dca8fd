"""Table 5, the cost of each method: parameters, seconds per epoch, memory, overhead over no mixing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from reports import commands
from reports.names import proper_name
from reports.runs.frame import is_ablation, named
from reports.runs.study import Study
from reports.stats.comparison import BASELINE
from reports.stats.intervals import t_interval
from reports.tables.scores import no_cells
from reports.tables.seed_means import place
from reports.tables.table import DASH, Column, Part, Table, Value

NAME, TITLE = "table5_cost", "Table 5: cost of training"
KEYS = ("dataset", "backbone", "method")
COUNTS = {"parameter_count": "backbone_parameters", "method_parameter_count": "method_parameters"}
MEASURED = ("epoch_s", "train_s", "peak_memory_mb")
HEADS = {
    "dataset": "Dataset",
    "backbone": "Backbone",
    "method": "Method",
    "n": "n",
    "backbone_parameters": "Parameters",
    "method_parameters": "Method's own",
    "epoch_s": "s per epoch ↓",
    "overhead": "Time over none ↓",
    "train_s": "s in all ↓",
    "peak_memory_mb": "Peak memory, MB ↓",
}


def cost_table(study: Study, order: Sequence[str] = ()) -> Table:
    """Build Table 5: one row per data set, backbone and method, averaged over the seeds of clean training."""
    numbers = cost_numbers(study.frame, order)
    title = TITLE + study.stand_in(list(dict.fromkeys(numbers["dataset"])))
    if numbers.empty:
        return Table(NAME, title, [], [no_cells(study)], fill=commands.again(study))
    columns = [Column(text, name not in KEYS) for name, text in HEADS.items()]
    parts = [
        Part(columns, [_rows(group, study) for _, group in part.groupby("backbone", sort=False)])
        for _, part in numbers.groupby("dataset", sort=False)
    ]
    notes = [
        "Mean ± standard deviation over n seeds. Time over none: ratio of the seconds per epoch to those of "
        "none with the same seed, [95% t interval over seeds; from three seeds on].",
        "Cells that ran side by side shared the machine, so compare seconds only within a study. Peak "
        "memory on the CPU is that of a worker's process, which keeps the memory of earlier cells; on a GPU "
        "it is that of the cell's tensors.",
        f"Measured on: {'; '.join(sorted(study.frame['environment'].unique()))}.",
    ]
    return Table(NAME, title, parts, notes, numbers.to_csv(index=False, lineterminator="\n"))


def cost_numbers(frame: pd.DataFrame, order: Sequence[str] = ()) -> pd.DataFrame:
    """Compute parameter counts, seconds and MB (mean and ``_std``), and ``overhead`` with its t interval.

    ``overhead`` is ``epoch_s`` divided by that of `none` with the same seed and environment, averaged over
    seeds; NaN without such a partner.
    """
    cells = named(frame[(frame["split"] == "cell") & (frame["occlusion_protocol"] == "test")])
    cells = cells[np.array([not is_ablation(name) for name in cells["method"]], bool)]
    keys = [*KEYS, "environment", "seed"]
    wide = cells.pivot_table(index=keys, columns="metric", values="value", aggfunc="mean").reset_index()
    wide = wide.reindex(columns=[*keys, *COUNTS, *MEASURED])
    none = wide[wide["method"] == BASELINE].drop(columns="method")
    partner = wide.merge(none, how="left", on=[k for k in keys if k != "method"], suffixes=("", "_none"))
    wide = wide.assign(overhead=(partner["epoch_s"] / partner["epoch_s_none"]).to_numpy())
    rows = [_summary(key, part) for key, part in wide.groupby(list(KEYS))]
    rows.sort(key=lambda row: [place(row[name], order) for name in KEYS])
    columns = [*KEYS, "n", *COUNTS.values(), *(f"{m}{end}" for m in MEASURED for end in ("", "_std"))]
    return pd.DataFrame(rows, columns=[*columns, "overhead", "overhead_low", "overhead_high"])


def _summary(key: tuple[Any, ...], part: pd.DataFrame) -> dict[str, Any]:
    row: dict[str, Any] = dict(zip(KEYS, key, strict=True))
    row["n"] = part["seed"].nunique()
    row |= {name: part[metric].iloc[0] for metric, name in COUNTS.items()}
    for metric in MEASURED:
        row[metric], row[f"{metric}_std"] = part[metric].mean(), part[metric].std()
    row["overhead"] = part["overhead"].mean()
    row["overhead_low"], row["overhead_high"] = t_interval(part["overhead"].to_numpy())
    return row


def _rows(group: pd.DataFrame, study: Study) -> list[list[Value]]:
    rows = group.to_dict("records")
    return [[_value(name, row, study.links.behind(row)) for name in HEADS] for row in rows]


def _value(name: str, row: Mapping[Any, Any], link: str) -> Value:
    value = row[name]
    if name in KEYS:
        return Value(proper_name(value), order=proper_name(value))
    if math.isnan(value):
        return Value(DASH)
    return Value(_text(name, row), order=float(value), link=link)


def _text(name: str, row: Mapping[Any, Any]) -> str:
    value = row[name]
    if name == "n" or name in COUNTS.values():
        return f"{value:,.0f}"
    if name == "overhead":
        low, high = row["overhead_low"], row["overhead_high"]
        has_interval = row["n"] >= 3 and not math.isnan(low)
        return f"×{value:.2f}" + f" [{low:.2f}, {high:.2f}]" * has_interval
    spread = row[f"{name}_std"]
    return f"{value:.3g}" + ("" if math.isnan(spread) else f" ± {spread:.2g}")

"""Tables of sweeps: all settings ranked by their objective, with the verdict on the sweep."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from harness.files import safe_name
from reports.names import proper_name
from reports.runs.study import Study
from reports.stats.intervals import FEWEST
from reports.stats.settings import (
    ENDS,
    FIGURES,
    GROUP,
    LEVEL,
    direction,
    ranked,
    settings_table,
    value_text,
    verdict,
)
from reports.tables.table import DASH, Column, Part, Table, Value

NOTES = (
    f"Mean ± standard deviation over seeds [95% t interval, from {FEWEST} seeds on; not meant for comparing"
    " settings]; ↑ higher is better, ↓ lower is better.",
    "Only the validation split chooses settings. The best of many values is partly luck: its score is too"
    " optimistic on the validation split, and slightly on the test split, because the seeds are the same.",
    "p: permutation test of F over settings with seeds as blocks. If no setting has an effect, one sweep in"
    f" {round(1 / LEVEL)} has p of at most {LEVEL}, more if neighbouring settings train nearly alike. A"
    " larger p proves nothing: with two seeds, a single outstanding setting of ten may get p = 0.1.",
)


def sweep_tables(study: Study) -> list[Table]:
    """Build a table per sweep with a part per data set, backbone and method; rows link to their trials."""
    tables = []
    for sweep, trials in study.trials.groupby("sweep"):
        title = f"Study {study.name}: sweep {sweep}"
        parts = [_part(part, title, study) for _, part in trials.groupby(list(GROUP))]
        csv = settings_table(trials).to_csv(index=False, lineterminator="\n")
        tables.append(Table(f"sweep_{file_name(str(sweep))}", _marked(title, trials), parts, NOTES, csv))
    return tables


def page_tables(study: Study) -> list[Table]:
    """Turn each part of `sweep_tables` into a table for the page, with the verdict among its notes."""
    parts = [part for table in sweep_tables(study) for part in table.parts]
    return [
        Table(f"sweep_{number}", part.title, [replace(part, text="")], [part.text, *NOTES])
        for number, part in enumerate(parts, 1)
    ]


def page_files(study: Study, folder: Path) -> dict[str, dict[str, str]]:
    """Return table of `page_tables` -> kind of file -> address in the report's folder, plots included."""
    files = {}
    for number, ((sweep, dataset, backbone, _), _) in enumerate(study.trials.groupby(list(GROUP)), 1):
        table = f"tables/sweep_{quote(file_name(str(sweep)))}"
        files[f"sweep_{number}"] = {ending: f"{table}.{ending}" for ending in ("csv", "md", "tex")}
        plots = Path("sweeps", safe_name(str(sweep)), safe_name(f"{backbone}-{dataset}"), "plots.html")
        if (folder / plots).exists():
            files[f"sweep_{number}"]["plots"] = quote(plots.as_posix())
    return files


def file_name(sweep: str) -> str:
    """Escape a sweep's name for a file name; different names give different results."""
    # Not `safe_name`: it keeps letters of all scripts, and would rename files of existing reports.
    safe = quote(sweep, safe="", errors="surrogatepass")
    return safe if len(safe) <= 150 else f"{safe[:120]}_{hashlib.sha256(safe.encode()).hexdigest()[:16]}"


def _part(trials: pd.DataFrame, title: str, study: Study) -> Part:
    """Build a part from the settings of one group, best first, with the verdict as its text."""
    group = {name: str(trials[name].iloc[0]) for name in GROUP}
    rows, objective = ranked(trials), trials["objective"].iloc[0]
    params = [json.loads(row["params"]) for row in rows]
    names = sorted({name for settings in params for name in settings})
    goal = f"{objective.replace('/', ' ')} {'↑' if direction(objective) > 0 else '↓'}"
    titles = ["Rank", *names, "Seeds", goal, "Test MAE ↓", "Test Corr ↑", "Note"]
    values = []
    for settings, row in zip(params, rows, strict=True):
        link = study.links.runs({"kind": "trial", **group, "trial": str(row["trial"])})
        texts = _texts(row, [value_text(settings[name]) if name in settings else DASH for name in names])
        cells = [Value(text, order=_sorted_by(text), link=link) for text in texts]
        values.append([replace(cells[0], link=""), *cells[1:]])
    method, backbone, dataset = (proper_name(group[name]) for name in ("method", "backbone", "dataset"))
    heading = f"{method} with {backbone} on {dataset}"
    columns = [Column(text, number=text != "Note") for text in titles]
    text = verdict(trials, study.clips, study.margins).sentence
    return Part(columns, [values], _marked(f"{title}, {heading}", trials), heading, text)


def _texts(row: Mapping[Any, Any], settings: list[str]) -> list[str]:
    """Return the entries of a row as plain text."""
    rank = DASH if pd.isna(row["rank"]) else str(row["rank"])
    marks = ["default"] * row["default"] + [row["state"]] * (row["state"] != "complete")
    return [rank, *settings, str(row["seeds"]), *(_figure(row, name) for name in FIGURES), ", ".join(marks)]


def _figure(row: Mapping[Any, Any], name: str) -> str:
    mean, std, low, high = (row[f"{name}{end}"] for end in ENDS)
    spread = "" if math.isnan(std) else f" ± {std:.3f}"
    interval = f" [{low:.3f}, {high:.3f}]" if row[f"{name}_n"] >= FEWEST else ""
    return DASH if math.isnan(mean) else f"{mean:.3f}{spread}{interval}"


def _sorted_by(text: str) -> float | str | None:
    """Return a cell's sort key on the page: its first number, else its text, None for a dash."""
    try:
        return float(text.partition(" ")[0])
    except ValueError:
        return None if text == DASH else text


def _marked(title: str, trials: pd.DataFrame) -> str:
    mark = f"{'' if trials['synthetic'].all() else 'includes '}synthetic stand-in data"
    return f"{title} ({mark})" if trials["synthetic"].any() else title

"""The tables of sweeps: every setting that was tried, ranked, with what the trials say."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from harness.files import safe_name
from reports.mlflow_links import Links
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
from reports.tables.markup import LATEX, MARKDOWN, file_name
from reports.tables.table import Column, Part, Table, Value

NOTES = (
    f"Mean ± standard deviation over seeds [95% t interval; from {FEWEST} seeds on; it compares no settings];"
    " ↑↓ say what is better.",
    "Settings are chosen on the validation split alone. The best value of many is partly luck: on the"
    " validation split it promises too much, and as the seeds are the same, a little on the test split, too.",
    "p: permutation test of F over settings with seeds as blocks. Where nothing matters, one sweep in"
    f" {round(1 / LEVEL)} has p of at most {LEVEL}, more where neighbouring settings train nearly alike."
    " A larger p proves nothing: over two seeds, one of ten settings that stands out alone may get p = 0.1.",
)


def write(frame: pd.DataFrame, study: str, folder: Path) -> list[Path]:
    """Write ``tables/sweep_NAME`` as CSV, Markdown and LaTeX for each sweep; returns the files."""
    tables = folder / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    written = []
    for sweep, part in frame.groupby("sweep"):
        title = f"Study {study}: sweep {sweep}"
        texts = {
            "csv": settings_table(part).to_csv(index=False, lineterminator="\n"),
            "md": to_markdown(part, title),
            "tex": to_latex(part, title),
        }
        for ending, text in texts.items():
            written.append(tables / f"sweep_{file_name(str(sweep))}.{ending}")
            written[-1].write_text(text, encoding="utf-8")
    return written


def to_markdown(frame: pd.DataFrame, title: str) -> str:
    """Write a heading, then for each group its verdict and the table of its settings, then the notes."""
    parts = [f"### {MARKDOWN.text(_title(frame, title))}"]
    for (_, dataset, backbone, method), part in frame.groupby(list(GROUP)):
        parts.append("#### " + MARKDOWN.text(f"{method} with {backbone} on {dataset}"))
        parts.append(MARKDOWN.text(verdict(part).sentence))
        header, *rows = ([MARKDOWN.text(cell) for cell in row] for row in _table(part))
        rule = ["---:"] * (len(header) - 1) + ["---"]
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *rows)))
    parts.append("\n".join(f"- {MARKDOWN.text(note)}" for note in NOTES))
    return "\n\n".join(parts) + "\n"


def to_latex(frame: pd.DataFrame, title: str) -> str:
    """Write one ``table*`` (package booktabs) per group; its caption starts with the verdict."""
    lines = ["% needs \\usepackage{booktabs}"]
    for (_, dataset, backbone, method), part in frame.groupby(list(GROUP)):
        name = f"{_title(part, title)}, {method} with {backbone} on {dataset}."
        texts = (name, verdict(part).sentence, *NOTES)
        caption = "\n".join(LATEX.text(text) for text in texts)
        header, *rows = (" & ".join(LATEX.text(cell) for cell in row) + r" \\" for row in _table(part))
        lines += ["\\begin{table*}", "\\centering", f"\\caption{{{caption}}}", "\\scriptsize"]
        columns = "r" * header.count(" & ") + "l"
        lines += ["\\setlength{\\tabcolsep}{2pt}", f"\\begin{{tabular}}{{{columns}}}", "\\toprule", header]
        lines += ["\\midrule", *rows, "\\bottomrule", "\\end{tabular}", "\\end{table*}"]
    return "\n".join(lines) + "\n"


def page_tables(frame: pd.DataFrame, study: str, links: Links) -> list[Table]:
    """The table of each group as a page shows it, its verdict among the notes; rows link to their trials."""
    found = []
    for number, (key, part) in enumerate(frame.groupby(list(GROUP)), 1):
        sweep, dataset, backbone, method = key
        title = _title(part, f"Study {study}: sweep {sweep}, {method} with {backbone} on {dataset}")
        header, *rows = _table(part)
        columns = [Column(text, text != "Note") for text in header]
        place = {"kind": "trial", **dict(zip(GROUP, map(str, key), strict=True))}
        trials = (links.runs({**place, "trial": str(row["trial"])}) for row in ranked(part))
        values = [
            [Value(cell, order=_sorted_by(cell), link=link if k else "") for k, cell in enumerate(row)]
            for row, link in zip(rows, trials, strict=True)
        ]
        notes = [verdict(part).sentence, *NOTES]
        found.append(Table(f"sweep_{number}", title, [Part(columns, [values])], notes))
    return found


def page_files(frame: pd.DataFrame, folder: Path) -> dict[str, dict[str, str]]:
    """Table of `page_tables` -> kind of file -> address in the report's folder; Optuna's plots among them."""
    found = {}
    for number, ((sweep, dataset, backbone, _), _) in enumerate(frame.groupby(list(GROUP)), 1):
        table = f"tables/sweep_{quote(file_name(str(sweep)))}"
        plots = Path("sweeps", safe_name(str(sweep)), safe_name(f"{backbone}-{dataset}"), "plots.html")
        files = {ending: f"{table}.{ending}" for ending in ("csv", "md", "tex")}
        shown = {"plots": quote(plots.as_posix())} if (folder / plots).exists() else {}
        found[f"sweep_{number}"] = {**files, **shown}
    return found


def _sorted_by(cell: str) -> float | str | None:
    """What a page sorts a cell of `_table` by: its first number, else its text."""
    first = cell.partition(" ")[0]
    try:
        return float(first)
    except ValueError:
        return None if cell == "–" else cell


def _title(frame: pd.DataFrame, title: str) -> str:
    mark = f"{'' if frame['synthetic'].all() else 'includes '}synthetic stand-in data"
    return f"{title} ({mark})" if frame["synthetic"].any() else title


def _table(part: pd.DataFrame) -> list[list[str]]:
    """Header and rows of the table of one group, as plain text."""
    rows, objective = ranked(part), part["objective"].iloc[0]
    shown = f"{objective.replace('/', ' ')} {'↑' if direction(objective) > 0 else '↓'}"
    params = [json.loads(row["params"]) for row in rows]
    names = sorted({name for values in params for name in values})
    lines = [["Rank", *names, "Seeds", shown, "Test MAE ↓", "Test Corr ↑", "Note"]]
    for values, row in zip(params, rows, strict=True):
        rank = "–" if pd.isna(row["rank"]) else str(row["rank"])
        settings = [value_text(values[name]) if name in values else "–" for name in names]
        marks = ["default"] * row["default"] + [row["state"]] * (row["state"] != "complete")
        figures = (_figure(row, name) for name in FIGURES)
        lines.append([rank, *settings, str(row["seeds"]), *figures, ", ".join(marks)])
    return lines


def _figure(row: Mapping[Any, Any], name: str) -> str:
    mean, std, low, high = (row[f"{name}{end}"] for end in ENDS)
    spread = "" if math.isnan(std) else f" ± {std:.3f}"
    interval = f" [{low:.3f}, {high:.3f}]" if row[f"{name}_n"] >= FEWEST else ""
    return "–" if math.isnan(mean) else f"{mean:.3f}{spread}{interval}"

"""LaTeX macros of a report's numbers: one ``\\newcommand`` per number of a table's CSV."""

from __future__ import annotations

import csv
import io
import math
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping

from reports.page.verdicts import p_text
from reports.tables.markup import LATEX
from reports.tables.scores import format_score
from reports.tables.table import DASH, Table

KEYS = (
    *("sweep", "dataset", "split", "backbone", "occlusion_protocol", "occlusion_ratio"),
    *("method", "params", "metric"),
)
"""Columns that name a row, in the order in which they stand in a macro's name."""
WORDS = ("verdict",)
"""Columns of text that get a macro, too."""
NOT_NUMBERS = ("trial",)
P_VALUES = ("p", "p_holm")
PREFIXES = {
    "table1_datasets": "Dataset",
    "table2_mosi_mosei": "Main",
    "table3_sims": "Main",
    "other_scales": "Main",
    "table4_ablation": "Ablation",
    "table5_cost": "Cost",
}
"""Table -> first word of its macros; that of other tables is their name."""
DIGITS = ("Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
HEADER = """\
% One macro per number of the tables. The report writes this file again, so that text which uses the macros
% has the numbers of the latest runs.
% A name has letters only: the table (Main, Ablation, Cost, Comparison, Occlusion, Sweep, Dataset), the names
% of the row (dataset, backbone, method, metric; occlusion and settings where the table has them), and the
% column (Mean, Std, N, Verdict, Gain, Low, High, ...). These are the names of the CSV file. Each word has a
% capital, without underscores and brackets; digits are spelled out: acc2_has0 becomes AccTwoHasZero, 0.5
% becomes ZeroPointFive. The second macro of a name ends with Two.
% Numbers are as in the tables: accuracies and F1 in percent, others in the units of the CSV file.
% An undefined number has no macro.
"""
Row = Mapping[str, str]


def letters(text: str) -> str:
    """Spell a text with ASCII letters only, each word with a capital: ``MsMixDeltaZeroPointFour``."""
    text = re.sub(r"(?<=\d)\.(?=\d)", " Point ", text)
    text = re.sub(r"(?<![\w])-(?=\d)", " Minus ", text).replace("+", " Plus ")
    spelled = "".join(map(_spelled, unicodedata.normalize("NFKD", text)))
    words = re.findall(r"[A-Za-z]+", spelled)
    return "".join(word[:1].upper() + word[1:] for word in words)


def _spelled(sign: str) -> str:
    if sign.isascii():
        return f" {DIGITS[int(sign)]} " if sign.isdigit() else sign
    if unicodedata.combining(sign):
        return ""
    # Letters of other alphabets have names with digits at most.
    name = unicodedata.name(sign, f"U {ord(sign):X}").lower()
    return f" {''.join(map(_spelled, name))} "


def macros(tables: Iterable[Table]) -> str:
    """Return the text of ``results.tex``; the names depend on the tables' rows and their order only."""
    lines, taken = [HEADER], set[str]()
    for table in tables:
        lines.append(f"% tables/{table.name}.csv\n")
        for name, value in _numbers(table):
            unique = _unique(name, taken)
            taken.add(unique)
            lines.append(f"\\newcommand{{\\{unique}}}{{{value}}}\n")
    return "".join(lines)


def _unique(name: str, taken: Collection[str]) -> str:
    """Return the name, or the first of ``nameTwo``, ``nameThree``, ... that is free."""
    unique, number = name, 1
    while unique in taken:
        number += 1
        unique = name + letters(str(number))
    return unique


def _numbers(table: Table) -> Iterator[tuple[str, str]]:
    """Yield a name and a LaTeX text for every number of a table's CSV, and for verdicts."""
    rows = list(csv.DictReader(io.StringIO(table.csv)))
    columns = [name for name in (rows[0] if rows else ()) if name not in (*KEYS, *NOT_NUMBERS)]
    whole = {name for name in columns if _all_whole(row[name] for row in rows)}
    # Rows of sweeps name their sweep.
    prefix = "Sweep" if "sweep" in (rows[0] if rows else ()) else PREFIXES.get(table.name, table.name)
    keys = [key for key in KEYS if rows and key in rows[0]]
    for row in rows:
        start = letters(prefix) + "".join(letters(row[key]) for key in keys)
        for column in columns:
            value = LATEX.text(row[column]) if column in WORDS else _number(row, column, column in whole)
            if value:
                yield start + letters(column), value


def _all_whole(texts: Iterable[str]) -> bool:
    return all(re.fullmatch(r"(-?\d+(\.0)?)?", text) for text in texts)


def _number(row: Row, column: str, whole: bool) -> str:
    """Format a number as the tables do; empty where there is none."""
    try:
        value = float(row[column])
    except ValueError:
        return ""
    if not math.isfinite(value):
        return ""
    if column in P_VALUES:
        text = p_text(value)
    elif column in ("mean", "std") and "kind" in row:
        text = format_score(value, row["metric"])
    else:
        text = f"{value:.0f}" if whole else f"{value:.3f}"
    text = text.replace(" ", "").replace(DASH, "--")
    return f"\\ensuremath{{{text}}}" if text.startswith(("-", "<")) else text

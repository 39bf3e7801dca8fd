"""A table as plain values, and how it is written as Markdown, LaTeX and (in `reports.page.html`) HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from reports.tables.markup import LATEX, MARKDOWN, Dialect

BEST, SECOND, OTHER = 0, 1, 2
NUMBERED = re.compile(r"^Table \d+: ")


@dataclass(frozen=True)
class Value:
    """One cell of a table.

    text: as people read it, unescaped, with our signs (±, ↑, –). rank: BEST, SECOND or OTHER. order: what a
    page sorts by, a number or a text; None sorts last. link: an address behind the text, or empty.
    """

    text: str
    rank: int = OTHER
    order: float | str | None = None
    link: str = ""


@dataclass(frozen=True)
class Column:
    """A column's heading, and whether it holds numbers, which stand at its right side."""

    title: str
    number: bool = False


@dataclass(frozen=True)
class Part:
    """Rows with the same columns; groups: rows that are compared with each other stand together.

    title: where it stands alone, as in LaTeX; empty for that of the table.
    """

    columns: Sequence[Column]
    groups: Sequence[Sequence[Sequence[Value]]]
    title: str = ""


@dataclass(frozen=True)
class Table:
    """A titled table of one or more parts with its notes, all unescaped text.

    name: of its files. csv: the raw numbers as text. fill: the command that makes rows where there are none.
    """

    name: str
    title: str
    parts: Sequence[Part]
    notes: Sequence[str] = ()
    csv: str = ""
    fill: str = field(default="")

    def __len__(self) -> int:
        return sum(len(group) for part in self.parts for group in part.groups)


def to_markdown(table: Table) -> str:
    """A heading, a table per part, and the notes."""
    texts = [f"### {MARKDOWN.text(table.title)}"]
    for part in table.parts:
        rule = ["---:" if column.number else "---" for column in part.columns]
        header = [MARKDOWN.text(column.title) for column in part.columns]
        rows = [[_written(value, MARKDOWN) for value in row] for group in part.groups for row in group]
        texts.append("\n".join(f"| {' | '.join(row)} |" for row in [header, rule, *rows]))
    texts.append("\n".join(f"- {MARKDOWN.text(note)}" for note in _notes(table)))
    return "\n\n".join(filter(None, texts)) + "\n"


def _notes(table: Table) -> list[str]:
    """The notes, and where there is no row what would make some."""
    return [*table.notes, *([f"To fill it: {table.fill}"] if table.fill and not len(table) else [])]


def to_latex(table: Table) -> str:
    """One ``table*`` (package booktabs) per part; its caption is the title and the notes."""
    parts = [_latex(table, part) for part in table.parts] or [_latex(table, None)]
    return "% needs \\usepackage{booktabs}\n" + "\n".join(parts)


def _latex(table: Table, part: Part | None) -> str:
    title = part.title if part is not None and part.title else table.title
    # LaTeX numbers tables itself.
    caption = [f"{LATEX.text(NUMBERED.sub('', title))}.", *map(LATEX.text, _notes(table))]
    lines = ["\\begin{table*}", "\\centering", "\\caption{" + "\n".join(caption) + "}"]
    if part is not None:
        header = _latex_row([LATEX.text(column.title) for column in part.columns])
        groups = [[[_written(value, LATEX) for value in row] for row in group] for group in part.groups]
        bodies = ["\n".join(map(_latex_row, group)) for group in groups]
        columns = "".join("r" if column.number else "l" for column in part.columns)
        lines += ["\\scriptsize", "\\setlength{\\tabcolsep}{2pt}", f"\\begin{{tabular}}{{{columns}}}"]
        lines += ["\\toprule", header, "\\midrule", "\n\\addlinespace\n".join(bodies)]
        lines += ["\\bottomrule", "\\end{tabular}"]
    return "\n".join([*lines, "\\end{table*}"]) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _written(value: Value, dialect: Dialect) -> str:
    return dialect.emphasis[value.rank].format(dialect.text(value.text))

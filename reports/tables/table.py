"""Tables of plain values, and their files: CSV, Markdown and LaTeX. `reports.page.html` writes HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reports.tables.markup import LATEX, MARKDOWN, Dialect

BEST, SECOND, OTHER = 0, 1, 2
DASH = "\u2013"
NUMBERED = re.compile(r"^Table \d+: ")


@dataclass(frozen=True)
class Value:
    """One cell of a table.

    text: displayed text, unescaped, with typographic signs (±, ↑, –). rank: BEST, SECOND or OTHER. order: the
    page's sort key, a number or a text; None sorts last. link: address that the text links to, or empty.
    """

    text: str
    rank: int = OTHER
    order: float | str | None = None
    link: str = ""


@dataclass(frozen=True)
class Column:
    """A column's heading, and whether it holds numbers, which are right-aligned."""

    title: str
    number: bool = False


@dataclass(frozen=True)
class Part:
    """Rows with the same columns. groups: groups of rows that are compared with each other.

    title: the part's own title in LaTeX; empty for the table's title. heading, text: shown above the part in
    Markdown; ``text`` is also in LaTeX's caption.
    """

    columns: Sequence[Column]
    groups: Sequence[Sequence[Sequence[Value]]]
    title: str = ""
    heading: str = ""
    text: str = ""


@dataclass(frozen=True)
class Table:
    """A titled table of one or more parts with notes; all texts are unescaped.

    name: name of its files. csv: raw numbers as text. fill: command that produces rows if there are none.
    """

    name: str
    title: str
    parts: Sequence[Part]
    notes: Sequence[str] = ()
    csv: str = ""
    fill: str = ""

    def __len__(self) -> int:
        return sum(len(group) for part in self.parts for group in part.groups)


def write_table(table: Table, folder: Path) -> list[Path]:
    """Write a table as CSV, Markdown and LaTeX, and return the files."""
    texts = {"csv": table.csv, "md": to_markdown(table), "tex": to_latex(table)}
    for ending, text in texts.items():
        (folder / f"{table.name}.{ending}").write_text(text, encoding="utf-8")
    return [folder / f"{table.name}.{ending}" for ending in texts]


def to_markdown(table: Table) -> str:
    """Format a table as Markdown: a heading, a table per part, and the notes."""
    texts = [f"### {MARKDOWN.text(table.title)}"]
    for part in table.parts:
        texts.append(f"#### {MARKDOWN.text(part.heading)}" if part.heading else "")
        texts.append(MARKDOWN.text(part.text))
        rule = ["---:" if column.number else "---" for column in part.columns]
        header = [MARKDOWN.text(column.title) for column in part.columns]
        rows = [[_written(value, MARKDOWN) for value in row] for group in part.groups for row in group]
        texts.append("\n".join(f"| {' | '.join(row)} |" for row in [header, rule, *rows]))
    texts.append("\n".join(f"- {MARKDOWN.text(note)}" for note in _notes(table)))
    return "\n\n".join(filter(None, texts)) + "\n"


def _notes(table: Table) -> list[str]:
    """Return the notes and, if there are no rows, the command that produces some."""
    return [*table.notes, *([f"To fill it, run {table.fill}"] if table.fill and not len(table) else [])]


def to_latex(table: Table) -> str:
    """Format a table as LaTeX: a ``table*`` (package booktabs) per part, with a label and notes below it."""
    parts = [_latex(table, part, k) for k, part in enumerate(table.parts)] or [_latex(table, None, 0)]
    return "% needs \\usepackage{booktabs}\n" + "\n".join(parts)


def _latex(table: Table, part: Part | None, number: int) -> str:
    title = part.title if part and part.title else table.title
    # LaTeX numbers tables itself.
    sentence = NUMBERED.sub("", title)
    caption = LATEX.text(f"{sentence[:1].upper()}{sentence[1:]}.")
    label = f"tab:{table.name}{f'-{number + 1}' if number else ''}".replace("_", "-")
    lines = ["\\begin{table*}", "\\centering", f"\\caption{{{caption}}}", f"\\label{{{label}}}"]
    if part:
        header = _latex_row([LATEX.text(column.title) for column in part.columns])
        groups = [[[_written(value, LATEX) for value in row] for row in group] for group in part.groups]
        bodies = ["\n".join(map(_latex_row, group)) for group in groups]
        columns = "".join("r" if column.number else "l" for column in part.columns)
        lines += ["\\scriptsize", "\\setlength{\\tabcolsep}{2pt}", f"\\begin{{tabular}}{{{columns}}}"]
        lines += ["\\toprule", header, "\\midrule", "\n\\addlinespace\n".join(bodies)]
        lines += ["\\bottomrule", "\\end{tabular}"]
    if notes := [*([part.text] if part and part.text else []), *_notes(table)]:
        below = "\n".join(map(LATEX.text, notes))
        lines += ["\\par\\smallskip", f"\\parbox{{\\textwidth}}{{\\footnotesize {below}}}"]
    return "\n".join([*lines, "\\end{table*}"]) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _written(value: Value, dialect: Dialect) -> str:
    return dialect.emphasis[value.rank].format(dialect.text(value.text))

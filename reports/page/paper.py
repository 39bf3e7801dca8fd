"""Files for a paper: tables, figures and numbers of a report in LaTeX, in the folder ``paper``.

The tables are those of ``tables/`` with longer captions, split to fit on pages; figures are copies of PDFs.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from harness.study.description import STUDY_FILE
from reports import commands
from reports.page.html import PageFigure
from reports.page.macros import macros
from reports.runs.study import Study
from reports.tables.markup import LATEX
from reports.tables.table import NUMBERED, Part, Table, to_latex

FOLDER = "paper"
MACROS, MAIN, README = "results.tex", "main.tex", "README.md"
OWN = ("table_*.tex", "figure*.pdf")
"""Files of the folder that a report may remove; others, such as those of LaTeX, stay."""
MOST_ROWS = 48
"""Rows of a table on a page in LaTeX's size scriptsize."""
SCORES = "mean ± standard deviation over {n} seeds; ⁺ better, ⁻ worse than none by 95% intervals"
CAPTIONS = {
    "table2_mosi_mosei": SCORES,
    "table3_sims": SCORES,
    "other_scales": SCORES,
    "table4_ablation": SCORES,
    "occlusion": SCORES,
    "comparison": "mean gain of {n} pairs, 95% intervals for other and for these clips, and verdict",
    "table5_cost": "mean over {n} seeds",
    "sweep": "mean ± standard deviation over {n} seeds [95% interval]",
}
"""Table, or the start of its name -> the part of its caption on n, intervals and verdict marks."""
TABLES = ("table1_datasets", *CAPTIONS)
"""The tables of the paper; a report has further ones."""
COUNTS = ("n", "Seeds")
FIGURE_NUMBER = re.compile(r"^Figure \d+: ")
TEX = """\
% Compile with: latexmk -pdf main.tex (latexmk -lualatex main.tex if names have signs that pdflatex lacks).
% The report writes this file again: copy the folder, or \\input its files from your paper.
\\documentclass{article}
\\usepackage[T1]{fontenc}
\\usepackage[margin=15mm]{geometry}
\\usepackage{booktabs}
\\usepackage{graphicx}
\\input{results.tex}
\\begin{document}
"""


def write_paper(
    study: Study, tables: Iterable[Table], figures: Iterable[PageFigure], folder: Path
) -> list[Path]:
    """Write the folder ``paper`` of a report's folder, and return its files.

    tables, figures: those of the report; the ones without data are left out, and so are tables that papers
    do not have. figures: their PDFs are in the report's folder.
    """
    own = folder / FOLDER
    own.mkdir(parents=True, exist_ok=True)
    shown = [table for table in tables if len(table) and _kind(table) in TABLES]
    drawn = [figure for figure in figures if not figure.placeholder and "pdf" in figure.files]
    texts = {_file(table): to_latex(captioned(table)) for table in shown}
    inputs = [f"\\input{{{name}}}" for name in texts]
    texts[MACROS] = macros(shown)
    texts[MAIN] = "\n".join([TEX, *_floats([*inputs, *map(_figure, drawn)]), "\\end{document}\n"])
    texts[README] = readme(study, shown)
    for name, text in texts.items():
        (own / name).write_text(text, encoding="utf-8")
    for figure in drawn:
        shutil.copyfile(folder / figure.files["pdf"], own / f"{figure.name}.pdf")
    paths = [own / name for name in (*texts, *(f"{figure.name}.pdf" for figure in drawn))]
    for stale in {path for pattern in OWN for path in own.glob(pattern)} - set(paths):
        stale.unlink()
    return paths


def _file(table: Table) -> str:
    """Return the name of a table's file, without signs that LaTeX would interpret."""
    name = re.sub(r"^table\d+_", "", table.name)
    # Names of sweeps are percent-encoded, so a plus sign is free.
    return f"table_{name.replace('%', '+').replace('~', '+7E')}.tex"


def captioned(table: Table) -> Table:
    """Return a table whose captions state n, intervals and marks, with parts that fit on a page."""
    parts = [part for whole in table.parts for part in _pages(whole)]
    titles = [_title(part.title or table.title, part, _kind(table)) for part in parts]
    return replace(table, parts=[replace(p, title=t) for p, t in zip(parts, titles, strict=True)])


def _kind(table: Table) -> str:
    """Return the name of a table, or the start of it for comparisons and sweeps, which may be several."""
    return next((kind for kind in ("comparison", "sweep") if table.name.startswith(f"{kind}_")), table.name)


def _title(title: str, part: Part, kind: str) -> str:
    return f"{title}: {CAPTIONS[kind].format(n=_count(part))}" if kind in CAPTIONS else title


def _count(part: Part) -> str:
    """Return the numbers of trainings of a part's rows: ``n = 3``, or ``n = 2 to 5``."""
    places = [k for k, column in enumerate(part.columns) if column.title in COUNTS]
    texts = (row[k].text for k in places for group in part.groups for row in group)
    counts = sorted({int(found[0]) for text in texts if (found := re.match(r"\d+", text))})
    if not counts:
        return "the"
    return f"n = {counts[0]}" + (f" to {counts[-1]}" if len(counts) > 1 else "")


def _pages(part: Part) -> Iterator[Part]:
    """Split a part into parts of at most `MOST_ROWS` rows, between groups where that is possible."""
    pieces = [group[k : k + MOST_ROWS] for group in part.groups for k in range(0, len(group), MOST_ROWS)]
    pages: list[list[Sequence]] = [[]]
    for piece in pieces:
        if sum(map(len, pages[-1])) + len(piece) > MOST_ROWS:
            pages.append([])
        pages[-1].append(piece)
    for k, page in enumerate(pages):
        # The sentence on the part stands once.
        yield replace(part, groups=page, text="" if k else part.text)


def _figure(figure: PageFigure) -> str:
    title = FIGURE_NUMBER.sub("", figure.title)
    # The short caption is that of a list of figures.
    caption = f"\\caption[{{{LATEX.text(title)}}}]{{{LATEX.text(f'{title}. {figure.caption}')}}}"
    # Its own width, but within the page.
    picture = (
        f"\\includegraphics[width=\\linewidth,height=.75\\textheight,keepaspectratio]{{{figure.name}.pdf}}"
    )
    label = f"\\label{{fig:{figure.name.replace('_', '-')}}}"
    return "\n".join(["\\begin{figure*}", "\\centering", picture, caption, label, "\\end{figure*}"])


def _floats(texts: Iterable[str]) -> Iterator[str]:
    """Yield the floats, each followed by a page break, because LaTeX can hold few that wait for a page."""
    empty = True
    for text in texts:
        empty = False
        yield f"{text}\n\\clearpage"
    if empty:
        yield "There are no results yet."


def _sentence(title: str) -> str:
    plain = NUMBERED.sub("", title)
    return f"{plain[:1].upper()}{plain[1:]}."


def readme(study: Study, tables: Sequence[Table]) -> str:
    """Return the text on the folder's files and on the command that repeats the study."""
    stored = f"python -m harness.benchmark REPORT/{STUDY_FILE}" if study.study_file else commands.again(study)
    where = (
        "REPORT is the folder above this one."
        if study.study_file
        else "This is the last request of the study."
    )
    names = "\n".join(f"- `{_file(table)}`: {_sentence(table.title)}" for table in tables)
    return TEXT.format(
        study=study.name, command=stored, where=where, names=names or "- There is no table yet."
    )


TEXT = """\
# For the paper: study {study}

- `main.tex` shows all tables and figures; compile it with `latexmk -pdf main.tex`.
- `results.tex` has a macro for every number of the tables, such as `\\MainMosiTfnMsMixMaeMean`; its head
  explains the names. Text that uses macros follows the runs.
{names}
- `figure*.pdf` are the figures of the report; `main.tex` has their captions.

The report writes these files again, so edit a copy, or `\\input` them from your own paper.

To repeat the study, run in the project's folder

    {command}

{where} `make report` then writes this folder from the runs, without training.
"""

"""Renderer of the report's page: `template.html` filled in as one self-contained HTML file without a date.

`page` only formats; the `Report` already holds all numbers, sentences and drawings.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from harness.errors import visible
from reports.page.claims import ClaimRow
from reports.page.picture import EDGE, NAMES, Picture
from reports.page.picture import WIDTH as PICTURE
from reports.runs.study import STATES
from reports.tables.table import BEST, SECOND, Column, Part, Table, Value

LIMIT = 9_500_000
"""Maximum size of a page in bytes; beyond it, the largest figures are linked instead of embedded."""
MOST_CHOICES = 30
HEAD = "Method"
WIDE = 620
"""Width in pixels above which a figure spans the page."""

_ADDRESS = re.compile(r"https?://[^\s\\]+|(?!/)[^:/?#\s\\]*([/?#][^\s\\]*)?", re.IGNORECASE)
_MARKS = {BEST: "<b>{}</b>", SECOND: "<u>{}</u>"}
_SPREAD = re.compile(r"(.*\S) (± \S.*)")
_SVG = re.compile(r"<svg\b[^>]*>")
_LENGTH = re.compile(r'\s(width|height)="(\d+\.?\d*)(pt|px|)"')
# Figures use 8-point text as in papers, which is small on a screen.
_ENLARGED = {"pt": 1.3 * 4 / 3, "px": 1.3, "": 1.3}


@dataclass(frozen=True)
class PageFigure:
    """A figure. files: ending -> relative address. placeholder: whether it only names missing data."""

    name: str
    title: str
    caption: str
    svg: str | bytes
    files: Mapping[str, str] = field(default_factory=dict)
    placeholder: bool = False


@dataclass(frozen=True)
class Failure:
    """A cell without a result. link: address of its run, or empty."""

    cell: str
    state: str
    reason: str
    link: str = ""


@dataclass(frozen=True)
class Report:
    """The contents of a page as plain text.

    synthetic: suffix of the title, see `reports.runs.study.Study.stand_in`. counts: state -> number of cells.
    requested_note: text below the counts. summary: sentences. notes: headings and their sentences.
    claims: a row per claim. decisions: what would decide claims, in words, as a command, and the ids of these
    claims. pictures: of the gains, one per metric. runs_link: address of all runs of the study. ui: command
    that starts MLflow's UI. study_file: address of the settings. table_files: name of a table -> ending ->
    relative address.
    """

    title: str
    study: str
    synthetic: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    requested_note: str = ""
    summary: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[PageFigure] = ()
    failures: Sequence[Failure] = ()
    notes: Sequence[tuple[str, Sequence[str]]] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    runs_link: str = ""
    ui: str = ""
    claims: Sequence[ClaimRow] = ()
    decisions: Sequence[tuple[str, str, Sequence[str]]] = ()
    pictures: Sequence[Picture] = ()
    table_files: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    study_file: str = ""


@dataclass(frozen=True)
class PageColumn:
    """A column. head: names the rows. ordered: some value has an order. choice: index of its filter menu."""

    title: str
    number: bool
    head: bool
    ordered: bool
    choice: int | None

    @property
    def sortable(self) -> bool:
        """Whether a click on the heading sorts the rows."""
        return self.ordered or not self.number

    @property
    def classes(self) -> str:
        """The CSS classes of the column's cells."""
        return " ".join(["n"] * self.number + ["head"] * self.head)


def page(report: Report) -> str:
    """Render index.html; the same report gives the same text."""
    svgs = [f.svg.encode("utf-8", "replace") if isinstance(f.svg, str) else f.svg for f in report.figures]
    images = {i: f"data:image/svg+xml;base64,{b64encode(svg).decode()}" for i, svg in enumerate(svgs)}
    text = _render(report, images)
    while images and (excess := len(text.encode()) - LIMIT) > 0:
        # Rendering takes seconds, so all images that are too much are removed before the next one.
        while images and excess > 0:
            excess -= len(images.pop(max(images, key=lambda i: len(images[i]))))
        text = _render(report, images)
    return text


def _render(report: Report, images: Mapping[int, str]) -> str:
    style, script = (Markup((files("reports.page") / f"page.{e}").read_text("utf-8")) for e in ("css", "js"))
    columns = [Column("Cell"), Column("State"), Column("Reason")]
    failures = [[Value(f.cell, link=f.link), Value(f.state), Value(f.reason)] for f in report.failures]
    return _environment().get_template("template.html").render(
        report=report,
        images=images,
        style=style,
        script=script,
        failures=Table("", "", [Part(columns, [failures])]),
        table_ids=_ids("table", [table.name for table in report.tables]),
        figure_ids=_ids("figure", [figure.name for figure in report.figures]),
    )  # fmt: skip


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("reports.page", ""),
        autoescape=True,
        finalize=printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals |= {"dict": dict, "zip": zip, "cell": cell, "STATES": STATES, "WIDE": WIDE}
    environment.globals |= {"PICTURE": PICTURE, "NAMES": NAMES, "EDGE": EDGE}
    environment.tests["linkable"] = linkable
    for function in (by_method, choices, page_columns, screen_size, sha256):
        environment.filters[function.__name__] = function
    return environment


def printable(value: object) -> str:
    """Return a value as one line of text with invisible characters escaped; markup is unchanged."""
    return value if isinstance(value, Markup) else visible(" ".join(str(value).split()))


def linkable(address: str) -> bool:
    """Return whether an address is http(s) or a relative path, without invisible characters."""
    return bool(address and _ADDRESS.fullmatch(address)) and visible(address) == address


def sha256(text: str) -> str:
    """Return the base64 SHA-256 of a text, as a content security policy expects it."""
    return b64encode(hashlib.sha256(text.encode()).digest()).decode()


def by_method(rows: Iterable[ClaimRow]) -> list[tuple[str, list[ClaimRow]]]:
    """Group claims that follow each other by the method that they are about."""
    return [(about, list(group)) for about, group in itertools.groupby(rows, lambda row: row.about)]


def choices(table: Table) -> dict[str, list[str]]:
    """Return title -> distinct values, in order, of each text column that gets a filter menu."""
    names: dict[str, list[str]] = {}
    for part in table.parts:
        for index, column in enumerate(part.columns):
            texts = [row[index].text for group in part.groups for row in group if not column.number]
            names.setdefault(column.title, []).extend(filter(None, texts))
    distinct = {title: list(dict.fromkeys(texts)) for title, texts in names.items()}
    most = {title: min(MOST_CHOICES, len(texts) - 1) for title, texts in names.items()}
    return {title: texts for title, texts in distinct.items() if 2 <= len(texts) <= most[title]}


def page_columns(part: Part, menus: Iterable[str]) -> list[PageColumn]:
    """Return the columns of a part. menus: titles of the columns with a filter menu, see `choices`."""
    titles, numbers = [column.title for column in part.columns], {title: i for i, title in enumerate(menus)}
    head = titles.index(HEAD) if HEAD in titles else 0
    rows = [row for group in part.groups for row in group]
    return [
        PageColumn(
            column.title,
            column.number,
            index == head,
            any(_key(row[index].order)[0] for row in rows),
            numbers.get(column.title),
        )
        for index, column in enumerate(part.columns)
    ]


def cell(value: Value, column: PageColumn) -> Markup:
    """Return a table's cell; a macro of the template would take most of the time of a large page."""
    mean, spread = mean_and_spread(value, column)
    kind, key = sort_key(value, column)
    mark = _MARKS.get(value.rank, "{}")
    text = mark.format(escape(mean))
    # A separate element for the spread aligns the means of a column.
    text += f' <span class="sd">{escape(spread)}</span>' if spread else ""
    start = _anchor(value.link) if mean else ""
    text = f"{start}{text}</a>" if start else text
    head, tail = ('th scope="row"', "th") if column.head else ("td", "td")
    classes = f' class="{column.classes}"' if column.classes else ""
    order = f' data-{kind}="{escape(printable(key))}"' if kind else ""
    return Markup(f"<{head}{classes}{order}>{text}</{tail}>")


@functools.lru_cache(maxsize=1024)  # the cells of a row share an address
def _anchor(address: str) -> str:
    """Return the start tag of a link, or an empty text for an address that is not `linkable`."""
    if not linkable(address):
        return ""
    web = address.lower().startswith("http")
    more = ' target="_blank" rel="noopener noreferrer"' if web else ""
    return f'<a href="{escape(printable(address))}"{more}>'


def sort_key(value: Value, column: PageColumn) -> tuple[str, str]:
    """Return the sort key for the script: ("n", number), ("t", text), or ("", ""), which sorts last."""
    # A text column without an order is sorted by its text.
    return _key(value.order if column.ordered else None if column.number else value.text)


def _key(order: float | str | None) -> tuple[str, str]:
    if isinstance(order, str):
        return "t", order
    if order is None or math.isnan(order):
        return "", ""
    return "n", repr(float(order)).replace("inf", "Infinity")


def mean_and_spread(value: Value, column: PageColumn) -> tuple[str, str]:
    """Split the text of a number into its mean and ``± ...``; the latter is empty if there is none."""
    text = printable(value.text)
    spread = _SPREAD.fullmatch(text) if column.number else None
    return (spread[1], spread[2]) if spread else (text, "")


def screen_size(svg: str | bytes) -> tuple[int, int] | None:
    """Return a drawing's width and height in CSS pixels, or None; they prevent layout shifts on loading."""
    start = svg[:10_000]
    tag = _SVG.search(start if isinstance(start, str) else start.decode("utf-8", "replace"))
    sides = {name: _ENLARGED[unit] * float(n) for name, n, unit in _LENGTH.findall(tag[0] if tag else "")}
    width, height = (round(sides.get(side, 0)) for side in ("width", "height"))
    return (width, height) if width and height else None


def _ids(kind: str, names: Iterable[str]) -> list[str]:
    """Return a unique and reproducible element id for each name."""
    ids = [f"{kind}-{re.sub(r'[^A-Za-z0-9_-]+', '-', name)[:80]}" for name in names]
    return [name if ids.index(name) == i else f"{name}.{i}" for i, name in enumerate(ids)]

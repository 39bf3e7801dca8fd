"""A study's report as one page that needs nothing but itself: no network, no other file, no date.

`page` only shows: all numbers, sentences and drawings are given. Every text is data and is escaped; what one
cannot see of it (control characters, marks that turn the direction of reading) is spelt out.
"""

from __future__ import annotations

import hashlib
import html
import itertools
import math
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files

from harness.errors import visible
from reports.study import STATES
from reports.tables.table import BEST, SECOND, Column, Part, Table, Value

LIMIT = 9_500_000
"""Bytes of a page; figures that would exceed it are linked instead of shown."""
MOST_CHOICES = 30
HEAD = "Method"

# Nothing is loaded from anywhere, whatever a text may try; style and script are known by their hashes.
_POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
    "style-src 'sha256-{}'; script-src 'sha256-{}'"
)
_ADDRESS = re.compile(r"https?://[^\s\\]+|(?!/)[^:/?#\s\\]*([/?#][^\s\\]*)?", re.IGNORECASE)
_SPREAD = re.compile(r"(.*\S) (± \S.*)")
_SVG = re.compile(r"<svg\b[^>]*>")
_LENGTH = re.compile(r'\s(width|height)="(\d+\.?\d*)(pt|px|)"')
# Text of 8 points, as in a paper's figure, is small on a screen.
_ENLARGED = {"pt": 1.3 * 4 / 3, "px": 1.3, "": 1.3}
_WIDE = 620
_DIALOG = """<dialog id="zoom" aria-labelledby="zoom-title">
<div class="controls"><h2 id="zoom-title"></h2>
<button type="button" data-do="out" aria-label="Zoom out">\u2212</button>
<button type="button" data-do="in" aria-label="Zoom in">+</button>
<button type="button" data-do="fit">Fit</button> <button type="button" data-do="close">Close</button></div>
<div class="view" role="group" tabindex="0" aria-labelledby="zoom-title"></div></dialog>"""
_EMPHASIS = {BEST: "<b>{}</b>", SECOND: "<u>{}</u>"}


@dataclass(frozen=True)
class Shown:
    """A figure. files: ending -> relative address; placeholder: it only says what is missing."""

    name: str
    title: str
    caption: str
    svg: str | bytes
    files: Mapping[str, str] = field(default_factory=dict)
    placeholder: bool = False


@dataclass(frozen=True)
class Failure:
    """A cell without a result; link: to its run, or empty."""

    cell: str
    state: str
    reason: str
    link: str = ""


@dataclass(frozen=True)
class Report:
    """All that a page shows, as plain text.

    synthetic: follows the title, see `reports.study.Study.stand_in`. counts: cells in each state;
    requested_note stands under them. summary: sentences. notes: headings and their sentences. runs_link: to
    all runs of the study. table_files: name of a table -> ending -> relative address.
    """

    title: str
    study: str
    synthetic: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    requested_note: str = ""
    summary: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Shown] = ()
    failures: Sequence[Failure] = ()
    notes: Sequence[tuple[str, Sequence[str]]] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    runs_link: str = ""
    table_files: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def page(report: Report) -> str:
    """The text of index.html; the same report gives the same text."""
    tables = _anchors("table", [table.name for table in report.tables])
    figures = _anchors("figure", [shown.name for shown in report.figures])
    contents = _contents("Tables", tables, (table.title for table in report.tables))
    contents += _contents("Figures", figures, (shown.title for shown in report.figures))
    notes = [f"<h3>{_text(heading)}</h3>\n{_list(told)}" for heading, told in report.notes]
    before = [
        _head(report),
        _top(report),
        _section("summary", "Summary", _list(report.summary, "<p>There is nothing to sum up yet.</p>")),
        f'<nav class="contents" aria-label="Contents">\n{contents}</nav>' if contents else "",
        _section("tables", "Tables", _all_tables(report, tables)),
    ]
    after = [
        _section("failures", "Failures", _failures(report)),
        _section("notes", "Notes", "\n".join(notes)) if notes else "",
        _foot(report),
    ]
    room = LIMIT - len("".join(before + after).encode())
    shown = _section("figures", "Figures", _all_figures(report.figures, figures, room))
    return "\n".join(filter(None, [*before, shown, *after]))


def _text(text: object) -> str:
    return html.escape(visible(" ".join(str(text).split())))


def _linked(inner: str, address: str) -> str:
    """HTML with a link to an address of the web or a file beside the page; of any other, without."""
    if not address or not _ADDRESS.fullmatch(address) or visible(address) != address:
        return inner
    away = ' target="_blank" rel="noopener noreferrer"' if address.lower().startswith("http") else ""
    return f'<a href="{html.escape(address)}"{away}>{inner}</a>'


def _anchors(kind: str, names: Iterable[str]) -> list[str]:
    """Different ids, the same for the same names."""
    plain = [f"{kind}-{re.sub(r'[^A-Za-z0-9_-]+', '-', name)[:80]}" for name in names]
    return [name if plain.index(name) == i else f"{name}.{i}" for i, name in enumerate(plain)]


def _section(anchor: str, heading: str, inner: str) -> str:
    return (
        f'<section id="{anchor}" aria-labelledby="{anchor}-heading">\n'
        f'<h2 id="{anchor}-heading">{heading}</h2>\n{inner}\n</section>'
    )


def _list(sentences: Sequence[str], otherwise: str = "") -> str:
    items = "\n".join(f"<li>{_text(sentence)}</li>" for sentence in sentences)
    return f"<ul>\n{items}\n</ul>" if items else otherwise


def _head(report: Report) -> str:
    style, script = ((files("reports.page") / f"page.{e}").read_text("utf-8") for e in ("css", "js"))
    digests = (hashlib.sha256(text.encode()).digest() for text in (style, script))
    policy = _POLICY.format(*(b64encode(digest).decode() for digest in digests))
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">
<title>{_text(report.title + report.synthetic)}</title>
<style>{style}</style>
<script>{script}</script></head>"""


def _top(report: Report) -> str:
    places = ["Summary", "Tables", "Figures", "Failures", *["Notes"] * bool(report.notes)]
    links = "".join(f'<li><a href="#{place.lower()}">{place}</a></li>' for place in places)
    counts = "".join(
        f'<li class="{state}{"" if report.counts.get(state) else " zero"}">'
        f"<b>{report.counts.get(state, 0):,}</b> {state}</li>"
        for state in STATES
    )
    note = f" <small>{_text(report.synthetic)}</small>" if report.synthetic.strip() else ""
    runs = _linked("all runs in MLflow", report.runs_link)
    told = [_text(report.requested_note), f"See {runs}." if runs.startswith("<a") else ""]
    return f"""<body><a class="skip" href="#main">Skip to the report</a>
<nav class="bar" aria-label="Sections"><ul>{links}</ul>
<button type="button" id="theme" hidden></button></nav>
<main id="main" tabindex="-1"><header>
<p class="study">Study {_text(report.study)}</p>
<h1>{_text(report.title)}{note}</h1>
<ul class="counts" aria-label="Cells">{counts}</ul>
<p>{" ".join(filter(None, told))}</p>
</header>"""


def _contents(heading: str, anchors: Sequence[str], titles: Iterable[str]) -> str:
    links = (f'<li><a href="#{a}">{_text(title)}</a></li>' for a, title in zip(anchors, titles, strict=True))
    return f"<div><p>{heading}</p>\n<ol>{''.join(links)}</ol></div>\n" if anchors else ""


def _all_tables(report: Report, anchors: Sequence[str]) -> str:
    hint = '<p class="hint">Numbers link to their runs in MLflow, which <code>make ui</code> shows.</p>'
    written = [hint] if report.runs_link else []
    for table, anchor in zip(report.tables, anchors, strict=True):
        written.append(
            f'<article id="{anchor}" aria-labelledby="{anchor}-title">\n'
            f'<h3 id="{anchor}-title">{_text(table.title)}</h3>\n{_table(table, f"{anchor}-title")}'
            f'<div class="notes">{_list(table.notes)}</div>\n'
            f"{_files(report.table_files.get(table.name, {}))}</article>"
        )
    return "\n".join(written) if report.tables else "<p>There is no table yet.</p>"


def _files(addresses: Mapping[str, str], before: str = "") -> str:
    links = (_linked(_text(ending.upper()), address) for ending, address in addresses.items())
    found = f"{before} {' '.join(link for link in links if link.startswith('<a'))}".strip()
    return f'<p class="files">{found}</p>\n' if found else ""


def _table(table: Table, label: str) -> str:
    """Controls and parts; a table without rows tells what would fill it."""
    if len(table) == 0:
        how = f" This fills it: <code>{_text(table.fill)}</code>" if table.fill else ""
        return f'<p class="empty">The table has no rows yet.{how}</p>\n'
    choices = _choices(table)
    selects = "".join(
        f'<label>{_text(title)} <select data-pick="{number}"><option value="">all</option>'
        + "".join(f'<option value="{_text(text)}">{_text(text)}</option>' for text in texts)
        + "</select></label>"
        for number, (title, texts) in enumerate(choices.items())
    )
    tools = (
        '<div class="tools" hidden><label>Search <input type="search" autocomplete="off" spellcheck="false">'
        f'</label>{selects}<button type="button" class="clear" hidden>Clear</button>'
        '<p class="status" role="status" aria-live="polite"></p></div>\n'
    )
    return tools + "".join(_part(part, list(choices), label) for part in table.parts if any(part.groups))


def _choices(table: Table) -> dict[str, list[str]]:
    """Columns of names that repeat, and their names in the order of the table."""
    seen: dict[str, list[str]] = {}
    for part in table.parts:
        for index, column in enumerate(part.columns):
            texts = [row[index].text for group in part.groups for row in group if not column.number]
            seen.setdefault(column.title, []).extend(filter(None, texts))
    distinct = {title: list(dict.fromkeys(texts)) for title, texts in seen.items()}
    most = {title: min(MOST_CHOICES, len(texts) - 1) for title, texts in seen.items()}
    return {title: texts for title, texts in distinct.items() if 2 <= len(texts) <= most[title]}


def _part(part: Part, choices: Sequence[str], label: str) -> str:
    titles = [column.title for column in part.columns]
    head = titles.index(HEAD) if HEAD in titles else 0
    rows = [row for group in part.groups for row in group]
    ordered = [any(_key(row[index].order) for row in rows) for index in range(len(titles))]

    def key(index: int, value: Value) -> str:
        # A column of names that gives no order is sorted by what it shows.
        shown = None if part.columns[index].number else value.text
        return _key(value.order if ordered[index] else shown)

    header = "".join(
        f'<th scope="col"{_class(column, index == head)}'
        f"{' data-sort' if ordered[index] or not column.number else ''}"
        f"{f' data-pick={choices.index(column.title)}' if column.title in choices else ''}>"
        f"{_text(column.title)}</th>"
        for index, column in enumerate(part.columns)
    )
    starts = set(itertools.accumulate(map(len, part.groups)))
    body = "\n".join(
        f"<tr{' class=first' if number in starts else ''}>"
        + "".join(_cell(v, part.columns[i], key(i, v), i == head) for i, v in enumerate(row))
        + "</tr>"
        for number, row in enumerate(rows)
    )
    named = f'aria-labelledby="{label}"'
    return f"""<div class="box" role="group" tabindex="0" {named}><table {named}>
<thead><tr>{header}</tr></thead>
<tbody>\n{body}\n</tbody></table></div>\n"""


def _class(column: Column, head: bool) -> str:
    names = " ".join([*["n"] * column.number, *["head"] * head])
    return f' class="{names}"' if names else ""


def _key(order: float | str | None) -> str:
    """What the script sorts by: a number, a text, or nothing, which stays last."""
    if isinstance(order, str):
        return f' data-t="{_text(order)}"'
    if order is None or math.isnan(order):
        return ""
    return f' data-n="{float(order)!r}"'.replace("inf", "Infinity")


def _cell(value: Value, column: Column, key: str, head: bool) -> str:
    text = _text(value.text)
    spread = _SPREAD.fullmatch(text) if column.number else None
    # The spread has a width of its own, so that means stand below each other.
    inner = _EMPHASIS.get(value.rank, "{}").format(spread[1] if spread else text)
    inner += f' <span class="sd">{spread[2]}</span>' if spread else ""
    inner = _linked(inner, value.link if text else "")
    tag = 'th scope="row"' if head else "td"
    return f"<{tag}{_class(column, head)}{key}>{inner}</{tag[:2]}>"


def _all_figures(figures: Sequence[Shown], anchors: Sequence[str], room: int) -> str:
    if not figures:
        return "<p>There is no figure yet.</p>"
    texts = [f.svg.encode("utf-8", "replace") if isinstance(f.svg, str) else f.svg for f in figures]
    sources = ["data:image/svg+xml;base64," + b64encode(text).decode() for text in texts]
    written: dict[int, str] = {}
    for index in sorted(range(len(figures)), key=lambda index: len(sources[index])):
        size = _size(texts[index])
        whole = _figure(figures[index], anchors[index], sources[index], size)
        fits = len(whole.encode()) <= room
        written[index] = whole if fits else _figure(figures[index], anchors[index], "", size)
        room -= len(written[index].encode())
    return '<div class="figures">\n' + "\n".join(written[index] for index in sorted(written)) + "\n</div>"


def _figure(shown: Shown, anchor: str, source: str, size: tuple[int, int] | None) -> str:
    title, caption = _text(shown.title), _text(shown.caption)
    sides = f' width="{size[0]}" height="{size[1]}"' if size else ""
    image = f'<img src="{source}" alt="{title}. {caption}"{sides}>'
    drawn = f'<div class="paper">{image}</div>' if source else "<p>Too large to show: see its files.</p>"
    zoom = f'<button type="button" class="zoom" hidden aria-label="Enlarge: {title}">Enlarge</button>'
    wide = ' class="wide"' if not size or size[0] > _WIDE else ""
    badge = ' <small class="badge">placeholder</small>' if shown.placeholder else ""
    return (
        f'<figure id="{anchor}"{wide} aria-labelledby="{anchor}-title">\n'
        f'<h3 id="{anchor}-title">{title}{badge}</h3>\n{drawn}\n<figcaption>{caption}</figcaption>\n'
        f"{_files(shown.files, zoom if source else '')}</figure>"
    )


def _size(svg: bytes) -> tuple[int, int] | None:
    """Width and height on the screen, so that nothing moves while the page is read."""
    tag = _SVG.search(svg[:10_000].decode("utf-8", "replace"))
    sides = {name: _ENLARGED[unit] * float(n) for name, n, unit in _LENGTH.findall(tag[0] if tag else "")}
    width, height = (round(sides.get(side, 0)) for side in ("width", "height"))
    return (width, height) if width and height else None


def _failures(report: Report) -> str:
    if not report.failures:
        lost = report.counts.get("failed", 0) + report.counts.get("diverged", 0)
        return f"<p>{f'No reasons are known of {lost} cells.' if lost else 'No cell failed or diverged.'}</p>"
    columns = [Column("Cell"), Column("State"), Column("Reason")]
    rows = [[Value(f.cell, link=f.link), Value(f.state), Value(f.reason)] for f in report.failures]
    return f"<article>{_table(Table('', '', [Part(columns, [rows])]), 'failures-heading')}</article>"


def _foot(report: Report) -> str:
    facts = "".join(f"<div><dt>{_text(k)}</dt><dd>{_text(v)}</dd></div>" for k, v in report.facts.items())
    foot = f'<footer aria-label="Facts"><dl>{facts}</dl></footer>\n' if facts else ""
    return f"</main>\n{foot}{_DIALOG}\n</body>\n</html>\n"

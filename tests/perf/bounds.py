"""Measurements with their bounds, in sections: for JSON, as Markdown tables and as a plot."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.figure import Figure

from reports.figures.style import styled

WIDTH, BAR_HEIGHT, TITLE_HEIGHT = 9.0, 0.2, 0.8
HOLDS, BROKEN = "#0072B2", "#D55E00"


@dataclass(frozen=True)
class Measurement:
    """One number. bound: the most it may be, or with ``least`` the least; None: it has no bound.

    name: its keys, from the outside in, with ", " between them. unit: "s", "ms", "MB", "%", "times", "hours",
    or "" for a plain number.
    """

    name: str
    value: float
    unit: str
    bound: float | None = None
    least: bool = False

    @property
    def holds(self):
        """Whether the number keeps its bound; NaN keeps none."""
        if self.bound is None:
            return True
        return self.value >= self.bound if self.least else self.value <= self.bound

    @property
    def verdict(self):
        """The bound and whether it holds, for people."""
        if self.bound is None:
            return ""
        return f"{'≥' if self.least else '≤'} {self.bound:g} {'holds' if self.holds else 'BROKEN'}"

    @property
    def share(self):
        """The share of its bound that the number takes: above 1 the bound is broken."""
        assert self.bound is not None
        return self.bound / self.value if self.least else self.value / self.bound


@dataclass(frozen=True)
class Section:
    """One part of the report: a title, what was measured and how, and the measurements."""

    name: str
    title: str
    how: str
    rows: list[Measurement]

    @classmethod
    def of(cls, stored):
        """The inverse of `dataclasses.asdict`; raises TypeError or KeyError for anything else."""
        return cls(**{**stored, "rows": [Measurement(**row) for row in stored["rows"]]})


def markdown(sections):
    """Lines of a Markdown document: a table per section."""
    for section in sections:
        yield from (f"## {section.title}", "", section.how, "")
        yield "| what | value | unit | bound |"
        yield "|---|---:|---|---|"
        for row in section.rows:
            value = f"{row.value:.0f}" if abs(row.value) >= 100 else f"{row.value:.3g}"
            yield f"| {row.name} | {value} | {row.unit} | {row.verdict} |"
        yield ""


def draw(sections, file):
    """A panel per section with bounds, a bar per bound: how much of it is taken. Without bounds, no plot."""
    bounded = {s.title: [row for row in s.rows if row.bound is not None][::-1] for s in sections}
    panels = {title: rows for title, rows in bounded.items() if rows}
    if not panels:
        return
    heights = [TITLE_HEIGHT + BAR_HEIGHT * len(rows) for rows in panels.values()]
    with styled():
        figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
        axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights).flat
        for ax, (title, rows) in zip(axes, panels.items(), strict=True):
            colours = [HOLDS if row.holds else BROKEN for row in rows]
            ax.barh([row.name for row in rows], [row.share for row in rows], color=colours)
            ax.axvline(1, color="black", linewidth=0.8)
            ax.tick_params(axis="y", labelsize=6)
            ax.set_title(title, loc="left")
        figure.supxlabel("share of the bound (above 1: broken)")
        figure.savefig(file, dpi=130, metadata={"Software": None})

"""Measurements with their bounds, in sections: for JSON, as Markdown tables and as a plot."""

from __future__ import annotations

from dataclasses import dataclass, field

from matplotlib.figure import Figure

from reports.figures.parts.style import styled


@dataclass(frozen=True)
class Measurement:
    """One number. bound: the most it may be, or with ``least`` the least; None: it has no bound.

    unit: "s", "ms", "MB", "%", "times", "hours", or "" for a plain number.
    """

    name: str
    value: float
    unit: str
    bound: float | None = None
    least: bool = False

    @property
    def share(self):
        """The number as a share of its bound; above 1, the bound is exceeded."""
        return self.bound / self.value if self.least else self.value / self.bound

    @property
    def holds(self):
        """Whether the number is within its bound; False for NaN."""
        return self.bound is None or self.share <= 1


@dataclass(frozen=True)
class Section:
    """One part of the report: a title, what was measured and how, and the measurements."""

    name: str
    title: str
    how: str
    rows: list[Measurement] = field(default_factory=list)

    def add(self, name, value, unit, bound=None, least=False):
        self.rows.append(Measurement(name, value, unit, bound, least))


def markdown(sections):
    """Yield the lines of a Markdown document, with a table per section."""
    for section in sections:
        yield from (f"## {section.title}", "", section.how, "")
        yield "| what | value | unit | bound |"
        yield "|---|---:|---|---|"
        for row in section.rows:
            value = f"{row.value:.0f}" if abs(row.value) >= 100 else f"{row.value:.3g}"
            verdict = ""
            if row.bound is not None:
                verdict = f"{'≥' if row.least else '≤'} {row.bound:g} {'holds' if row.holds else 'BROKEN'}"
            yield f"| {row.name} | {value} | {row.unit} | {verdict} |"
        yield ""


def draw(sections, file):
    """Draw a panel per section, and a bar per bound with the share used. Without bounds, draw no plot."""
    bounded = {s.title: [row for row in s.rows if row.bound is not None][::-1] for s in sections}
    panels = {title: rows for title, rows in bounded.items() if rows}
    if not panels:
        return
    heights = [0.8 + 0.2 * len(rows) for rows in panels.values()]
    with styled():
        figure = Figure(figsize=(9.0, sum(heights)), layout="constrained")
        axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights).flat
        for ax, (title, rows) in zip(axes, panels.items(), strict=True):
            colours = ["#0072B2" if row.holds else "#D55E00" for row in rows]
            ax.barh([row.name for row in rows], [row.share for row in rows], color=colours)
            ax.axvline(1, color="black", linewidth=0.8)
            ax.tick_params(axis="y", labelsize=6)
            ax.set_title(title, loc="left")
        figure.supxlabel("share of the bound (above 1: broken)")
        figure.savefig(file, dpi=130, metadata={"Software": None})

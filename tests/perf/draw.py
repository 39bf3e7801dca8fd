"""The measurements as one picture: ratios with their bounds, epochs, where an epoch goes, growth, scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from reports.figures.style import colour, marker, ordered, styled
from tests.perf.rows import Part, Row
from tests.perf.steps import PARTS

PANEL_WIDTH, PANEL_HEIGHT = 7.0, 4.2
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")


def draw(parts: Sequence[Part], file: Path) -> None:
    """A panel for each part that has a drawing; nothing is written where none has."""
    chosen = [part for part in parts if part.name in PANELS and part.rows]
    if not chosen:
        return
    columns = min(2, len(chosen))
    rows = -(-len(chosen) // columns)
    with styled():
        size = (PANEL_WIDTH * columns, PANEL_HEIGHT * rows)
        figure = Figure(figsize=size, layout="constrained")
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        for ax, part in zip(axes, chosen, strict=False):
            ax.set_title(part.title, loc="left", pad=18)
            PANELS[part.name](ax, part.rows)
        for ax in axes[len(chosen) :]:
            ax.set_axis_off()
        figure.savefig(file, dpi=130, metadata={"Software": None})


def _keys(row: Row) -> list[str]:
    return row.name.split(", ")


def _ratios(ax: Any, rows: Sequence[Row]) -> None:
    """A bar per ratio, a mark at its bound."""
    found = [row for row in rows if row.unit == "times"][::-1]
    for place, row in enumerate(found):
        ax.barh(place, row.value, color=COLOURS[0 if row.holds else 5], height=0.6)
        if row.bound is not None:
            ax.plot([row.bound] * 2, [place - 0.4, place + 0.4], color="black", linewidth=2)
    names = [row.name.replace(", ratio", "").replace(" to the", ", to the") for row in found]
    ax.set_yticks(range(len(found)), names, fontsize=7)
    ax.axvline(1, color="grey", linewidth=0.8)
    ax.set_xlabel("times as fast (black: least)")


def _epochs(ax: Any, rows: Sequence[Row]) -> None:
    """Seconds of an epoch, a column per backbone, a dot per method."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        backbone, method, what = _keys(row)
        if what == "epoch":
            found.setdefault(method, {})[backbone] = row.value
    for method in ordered(found):
        seconds, look = found[method], {"color": colour(method), "marker": marker(method)}
        ax.plot(list(seconds), list(seconds.values()), linestyle="", markersize=5, label=method, **look)
    ax.set_yscale("log")
    ax.set_ylabel("seconds per epoch, one thread")
    ax.legend(fontsize=6, ncols=2)


def _shares(ax: Any, rows: Sequence[Row]) -> None:
    """Where an epoch goes, a bar per backbone."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        backbone, what = _keys(row)
        found.setdefault(what, {})[backbone] = row.value
    left = dict.fromkeys(next(iter(found.values())), 0.0)
    for shade, what in zip((*COLOURS, "#999999"), (*PARTS, "evaluation"), strict=True):
        values = found[what]
        ax.barh(list(values), list(values.values()), left=list(left.values()), color=shade, label=what)
        left = {backbone: left[backbone] + value for backbone, value in values.items()}
    ax.set_xlabel("percent of an epoch")
    ax.set_xlim(0, 100)
    ax.legend(fontsize=6, ncols=7, loc="lower left", bbox_to_anchor=(0, 1), columnspacing=1, handlelength=1)


def _grown(ax: Any, rows: Sequence[Row]) -> None:
    """Exponents, of clips and of lengths, a pair per backbone."""
    found: dict[str, dict[str, float]] = {"epoch": {}, "step": {}}
    for row in rows:
        backbone, what, size = _keys(row)
        if size == "exponent":
            found[what][backbone] = row.value
    labels = {"epoch": "epoch, with the number of clips", "step": "step, with the length of sequences"}
    for (what, values), shade in zip(found.items(), COLOURS, strict=False):
        ax.plot(list(values), list(values.values()), "o", color=shade, label=labels[what])
    for power in (1, 2):
        ax.axhline(power, color="grey", linewidth=0.8)
    ax.set_ylim(0, 2.4)
    ax.set_ylabel("exponent of growth")
    ax.legend(fontsize=7)


def _scaled(ax: Any, rows: Sequence[Row]) -> None:
    """Seconds by the number of cells, a line per command, and the bound."""
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        command, *size = _keys(row)
        if row.unit == "s":
            found.setdefault(command, {})[int(size[0].removesuffix(" cells"))] = row.value
    for (command, seconds), shade in zip(found.items(), COLOURS, strict=False):
        ax.plot(list(seconds), list(seconds.values()), "o-", color=shade, label=command)
    bounds = {row.bound for row in rows if row.unit == "s" and row.bound is not None}
    for bound in sorted(bounds):
        ax.axhline(bound, color="black", linewidth=0.8)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("cells")
    ax.set_ylabel("seconds (black: most)")
    ax.legend(fontsize=7)


PANELS: Mapping[str, Callable[[Any, Sequence[Row]], None]] = {
    "reference": _ratios,
    "compare": _ratios,
    "steps": _epochs,
    "parts": _shares,
    "growth": _grown,
    "scale": _scaled,
}

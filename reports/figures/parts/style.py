"""Style and output of figures: sizes, one colour per method, placeholders, reproducible files."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports.names import base_method, plugin_colour, proper_name

COLUMN, PAGE = 3.4, 7.0
"""Widths in inches of a column and of a page of a two-column paper."""
ENDINGS = ("pdf", "svg", "png")
POLARITY = {"negative": "#2166ac", "neutral": "#8c8c8c", "positive": "#b2182b"}
"""Sign of a label -> colour, distinguishable with all common kinds of colour blindness."""

# The palette of Okabe and Ito (2008), grey, and a colour of Paul Tol's palettes.
_COLOURS = {
    "none": "#000000",
    "duplicate": "#7f7f7f",
    "mixup": "#e69f00",
    "manifold_mixup": "#56b4e9",
    "c_mixup": "#a89a00",
    "av_mc": "#332288",
    "multimix": "#009e73",
    "advmixup": "#882255",
    "powmix": "#0072b2",
    "ms_mix": "#d55e00",
    "ms_mix_released": "#cc79a7",
}
_FURTHER = ("#117733", "#aa4499", "#44aa99", "#661100", "#6699cc")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")
_DASHES = ("-", "--", ":", "-.")
_ACROSS = 4  # data sets side by side
_RC = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,
    "svg.hashsalt": "report",
    "figure.constrained_layout.use": True,
}


@contextmanager
def styled() -> Iterator[None]:
    """Apply the style of all figures within the block, and restore the caller's settings afterwards."""
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, "backend": "Agg", **_RC}):
        yield


def colour(label: str, labels: Sequence[str] = ()) -> str:
    """Return the colour of a method, the same in every figure; variants share their method's colour.

    labels: all methods of the figure; needed only for methods that are not part of this project.
    """
    base = base_method(label)
    if (given := plugin_colour(base)) is not None:
        return given
    others = sorted({base_method(name) for name in (*labels, label)} - set(_COLOURS))
    return _COLOURS[base] if base in _COLOURS else _FURTHER[others.index(base) % len(_FURTHER)]


def marker(label: str, labels: Sequence[str] = ()) -> str:
    """Return a method's marker, which distinguishes methods without colour. labels: see `colour`."""
    bases = [*_COLOURS, *sorted({base_method(name) for name in (*labels, label)} - set(_COLOURS))]
    return _MARKERS[bases.index(base_method(label)) % len(_MARKERS)]


def dashes(label: str, labels: Sequence[str]) -> str:
    """Return a line style that distinguishes variants of a method. labels: all methods of the figure."""
    variants = [name for name in dict.fromkeys(labels) if base_method(name) == base_method(label)]
    return _DASHES[variants.index(label) % len(_DASHES)]


def ordered(labels: Iterable[str]) -> list[str]:
    """Sort methods as in all figures: ``none`` first, then the project's methods, then others by name."""
    known = list(_COLOURS)
    places = {
        name: known.index(base) if (base := base_method(name)) in known else len(known) for name in labels
    }
    return sorted(places, key=lambda name: (places[name], base_method(name), name))


def wrapped(text: object, width: int = 40) -> str:
    """Wrap a name, as people know it, to lines of at most ``width`` characters, without mathtext."""
    return plain("\n".join(textwrap.wrap(proper_name(str(text)), width)))


def look(label: str, labels: Sequence[str]) -> dict[str, Any]:
    """Return a method's line properties. labels: all methods of the figure."""
    return {
        "color": colour(label, labels),
        "marker": marker(label, labels),
        "linestyle": dashes(label, labels),
    }


def method_handles(labels: Sequence[str]) -> list[Line2D]:
    """Return a legend handle per method."""
    return [Line2D([], [], label=wrapped(label), **look(label, labels)) for label in labels]


def dataset_grid(
    title: str, datasets: Iterable[str], kinds: Sequence[str], height: tuple[float, float], **options: Any
) -> tuple[Figure, list[tuple[str, dict[str, Axes]]]]:
    """Create axes with a column per data set (at most four per row) and a row per kind of panel.

    Args:
        height: inches of the figure without rows, and of each row.
        options: keyword arguments of `plt.subplots`.

    Returns:
        The figure, and for each row its kind and data set -> axes.
    """
    names = sorted(set(datasets))
    across = min(_ACROSS, len(names))
    chunks = [names[i : i + across] for i in range(0, len(names), across)]
    rows = [(kind, chunk) for chunk in chunks for kind in kinds]
    size = PAGE if across > 1 else COLUMN, height[0] + height[1] * len(rows)
    figure, grid = plt.subplots(len(rows), across, figsize=size, squeeze=False, **options)
    set_title(figure, title)
    places = []
    for axes, (kind, chunk) in zip(grid, rows, strict=True):
        for spare in axes[len(chunk) :]:
            spare.set_axis_off()
        places.append((kind, dict(zip(chunk, axes, strict=False))))
    return figure, places


def legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """Draw a figure's legend below its axes, in as many columns as fit."""
    widest = max(len(line) for handle in handles for line in str(handle.get_label()).splitlines())
    columns = max(1, int(16 * figure.get_figwidth() / (widest + 7)))
    rows = -(-len(handles) // columns)
    figure.legend(handles=list(handles), loc="outside lower center", ncols=-(-len(handles) // rows))


def polarity(label: float) -> str:
    """Return the sign of a label as a key of ``POLARITY``."""
    return "neutral" if label == 0 else "positive" if label > 0 else "negative"


def lighter(shade: str, share: float = 0.6) -> str:
    """Mix a colour (#rrggbb) with white. share: fraction of white."""
    parts = (int(shade[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(part + (255 - part) * share):02x}" for part in parts)


def plain(text: object) -> str:
    """Escape dollar signs, which matplotlib would read as mathtext."""
    return str(text).replace("$", r"\$")


def set_title(figure: Figure, title: str) -> None:
    """Set a figure's title, wrapped to its width."""
    lines = textwrap.wrap(title, max(30, int(17 * figure.get_figwidth())))
    figure.suptitle(plain("\n".join(lines)), fontsize=8)


def say(ax: Axes, text: str, columns: int = 44) -> Axes:
    """Fill empty axes with a sentence, such as the command that produces their data."""
    ax.set_axis_off()
    lines = wrapped_lines(text, columns)
    size = 7 if len(lines) <= 9 else 4.5
    note = ax.text(0.5, 0.5, plain("\n".join(lines)), ha="center", va="center", color="#555555",
                   fontsize=size, transform=ax.transAxes, family="monospace")  # fmt: skip
    note.set_in_layout(False)  # a long command would leave no room for the axes
    return ax


def wrapped_lines(text: str, columns: int) -> list[str]:
    """Wrap a text to lines of at most ``columns`` characters."""
    return [part for line in text.splitlines() for part in textwrap.wrap(line, columns) or [""]]


def placeholder(title: str, reason: str, fill: str) -> Figure:
    """Create a figure that shows only what is missing and the command that produces it."""
    text = f"{reason}\n\n{fill}"
    width, columns = (COLUMN, 44) if len(fill) <= 80 else (PAGE, 96)
    lines = len(wrapped_lines(text, columns))
    figure, ax = plt.subplots(figsize=(width, max(1.6, 0.8 + 0.15 * lines)))
    set_title(figure, title)
    say(ax, text, columns)
    ax.texts[0].set_fontsize(7)
    return figure


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as PDF, SVG and PNG and close it; the same figure gives the same bytes."""
    metadata: dict[str, dict[str, None]] = {
        "pdf": {"CreationDate": None, "ModDate": None},
        "svg": {"Date": None},
        "png": {"Software": None},
    }
    paths = [folder / f"{name}.{ending}" for ending in ENDINGS]
    try:
        with warnings.catch_warnings():
            # Glyphs that the font lacks are drawn as boxes; a warning for each in each file is too much.
            warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from font")
            for path, ending in zip(paths, ENDINGS, strict=True):
                figure.savefig(path, metadata=metadata[ending])
                # One layout serves all three; computing it takes as long as drawing.
                figure.set_layout_engine("none")
    finally:
        plt.close(figure)
    return paths

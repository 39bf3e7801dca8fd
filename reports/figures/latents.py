"""Figure 1: clean and mixed latents of each method in one shared projection, with their KL divergence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D

from harness.errors import StoreError
from reports import commands
from reports.figures.parts import style
from reports.figures.parts.base import Command, Figure
from reports.figures.projection import (
    NEIGHBOURS,
    Projection,
    density,
    fit_projection,
    kl_estimate,
    plane,
    scaling,
    stacked,
    standardised,
)
from reports.names import proper_name
from reports.runs.frame import is_ablation
from reports.runs.study import SAMPLE_KEYS, Study

KEYS = ("dataset", "backbone", "seed", "method", "kind")
COLUMNS = (*KEYS, "x", "y", "label", "n_clean", "n_mixed", "kl", "components", "share_x", "share_y", "note")
COMPONENTS = 5
"""Number of principal components in which KL is estimated."""
HELD = (0.9, 0.5)
"""Fractions of points inside the outer and the inner contour."""
KINDS = ("clean", "mixed")
PLACE = ["dataset", "backbone", "seed"]
_CLEAN, _LINE = "#8c8c8c", "#3c3c3c"
_GRID = 64
Kinds = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Each of ``KINDS`` -> latents (n, D) and labels (n,), see `stacked`."""


def sampled_runs(study: Study) -> pd.DataFrame:
    """Return the runs with samples without ablations, one per (dataset, backbone, seed, method).

    MISA comes first, MOSEI before other data sets, and methods are in the order of all figures.
    """
    rows = study.sampled[list(SAMPLE_KEYS)]
    rows = rows[np.array([not is_ablation(name) for name in rows["method"]], bool)]
    methods = style.ordered(rows["method"])
    rows = rows.assign(
        other_backbone=rows["backbone"] != "misa",
        other_dataset=[not name.endswith("mosei") for name in rows["dataset"]],
        place=[methods.index(name) for name in rows["method"]],
    )
    rows = rows.sort_values(["other_backbone", "other_dataset", *PLACE, "place", "run_id"], ignore_index=True)
    return rows.drop_duplicates([*PLACE, "method"], ignore_index=True)[list(SAMPLE_KEYS)]


def load_samples(study: Study, run_id: str) -> Mapping[str, np.ndarray]:
    """Return a run's samples; empty if they are missing or damaged."""
    try:
        return study.samples(run_id)
    except (KeyError, StoreError):
        return {}


def rounded(values: Iterable[float]) -> list[float]:
    """Round to six significant digits, which hides differences in the last bits."""
    return [float(f"{value:.6g}") for value in values]


def latents(study: Study) -> pd.DataFrame:
    """Return the data of Figure 1: for each method a row of kind "method" and a row per latent.

    The data set, backbone and seed are those with the most sampled methods. x, y: the first two shared
    components. share_x, share_y: their fractions of the variance. components: number of components used for
    KL. note: why a method has no points.
    """
    runs = _most_methods(sampled_runs(study))
    by_method = {
        r["method"]: _standardised(load_samples(study, r["run_id"])) for r in runs.to_dict("records")
    }
    widths = Counter(kinds["clean"][0].shape[1] for kinds in by_method.values() if len(kinds["clean"][0]))
    if not widths:
        return pd.DataFrame(columns=list(COLUMNS))
    width = widths.most_common(1)[0][0]
    pooled = [k["clean"][0] for k in by_method.values() if k["clean"][0].shape[1] == width]
    project = fit_projection(np.vstack(pooled), COMPONENTS)
    rows = []
    for method, kinds in by_method.items():
        common = dict(zip(KEYS, (*runs[PLACE].iloc[0], method), strict=False))
        if not len(kinds["clean"][0]) or kinds["clean"][0].shape[1] != width:
            note = "latents of another width" if len(kinds["clean"][0]) else "no latents kept"
            rows.append({**common, "kind": "method", "note": note})
        else:
            rows += [{**common, **row} for row in _method_rows(kinds, project)]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype({"n_clean": "Int64", "n_mixed": "Int64", "components": "Int64"})


def _most_methods(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of the (dataset, backbone, seed) with the most methods; the first one wins ties."""
    if runs.empty:
        return runs
    sizes = runs.groupby(PLACE, sort=False)["method"].transform("size")
    first = runs[PLACE].iloc[int(sizes.argmax())]
    return runs[(runs[PLACE] == first).all(axis=1)]


def _standardised(samples: Mapping[str, np.ndarray]) -> Kinds:
    """Return clean and mixed latents, standardised by the network's own clean latents, with labels."""
    rows = {kind: stacked(samples, kind) for kind in KINDS}
    mean, scale = scaling(rows["clean"][0])
    return {kind: (standardised(x, mean, scale), labels) for kind, (x, labels) in rows.items()}


def _method_rows(kinds: Kinds, project: Projection) -> list[dict[str, Any]]:
    """Return a method's summary row and the rows of its points."""
    points = {kind: project(x) for kind, (x, _) in kinds.items()}
    share_x, share_y = rounded(np.pad(project.shares, (0, 2))[:2])
    summary = {
        "kind": "method",
        "n_clean": len(points["clean"]),
        "n_mixed": len(points["mixed"]),
        "kl": rounded([kl_estimate(points["mixed"], points["clean"])])[0],
        "components": len(project.shares),
        "share_x": share_x,
        "share_y": share_y,
        "note": "",
    }
    return [summary] + [
        {"kind": kind, "x": x, "y": y, "label": label, "note": ""}
        for kind, (_, labels) in kinds.items()
        for (x, y), label in zip(map(rounded, plane(points[kind])), rounded(labels), strict=True)
    ]


def caption(data: pd.DataFrame) -> str:
    """Return the caption of Figure 1."""
    methods = data[data["kind"] == "method"]
    if methods["n_clean"].isna().all():
        return ""
    first = methods.dropna(subset="n_clean").iloc[0]
    without = [proper_name(row["method"]) + (f" ({row['note']})" if row["note"] else "")
               for row in methods[methods["kl"].isna()].to_dict("records")]  # fmt: skip
    return (
        f"Latents of up to {methods['n_clean'].max()} training clips of {proper_name(first.dataset)} under "
        f"{proper_name(first.backbone)}, one trained network for each method (seed {first.seed}). The "
        "vectors of text, audio and vision are concatenated, standardised by the clean latents of the same "
        "network, and projected onto the first two principal components "
        f"({first.share_x:.0%} and {first.share_y:.0%} of the variance) of the pooled clean latents of all "
        "methods, so all panels share one space. Contours enclose the densest regions with "
        f"{HELD[1]:.0%} and {HELD[0]:.0%} of the points. KL: KL(mixed || clean) within one network, in nats, "
        f"a {NEIGHBOURS}-nearest-neighbour estimate (Wang, Kulkarni and Verdu, 2009) in the first "
        f"{first.components} of these components. At this n, the estimate is too high if mixed latents are "
        "narrower than clean ones, and too low (even negative) if they are wider. It is also lowered because "
        "mixed latents lie near the clean latents they come from; exact copies are excluded. Each value is "
        "of one network (n = 1 seed), so its uncertainty is unknown and small differences mean nothing."
        + (f" Without KL: {', '.join(without)}." if without else "")
    )


def draw(data: pd.DataFrame, title: str, command: Command) -> Drawing:
    """Draw points, contours and KL in a panel per method with shared axes."""
    methods = data[data["kind"] == "method"]
    points = data[data["kind"] != "method"]
    columns = min(len(methods), 3 if len(methods) in (5, 6, 9) else 4)
    rows = -(-len(methods) // columns)
    limits = [_limits(points[name], above) for name, above in (("x", 0.0), ("y", 0.12))]
    ratio = float(np.clip(np.ptp(limits[1]) / np.ptp(limits[0]), 0.6, 0.85))
    width = (style.PAGE - 0.6) / max(3, columns)
    size = columns * width + 0.6, rows * (ratio * width + 0.25) + 0.75
    figure, grid = plt.subplots(rows, columns, sharex=True, sharey=True, squeeze=False, figsize=size)
    labels, first = list(methods["method"]), methods.dropna(subset="n_clean").iloc[0]
    for number, ax in enumerate(grid.flat):
        ax.set_box_aspect(ratio)
        ax.set(xlim=limits[0], ylim=limits[1])
        ax.tick_params(labelbottom=number + columns >= len(methods))
        ax.set_visible(number < len(methods))
        if number >= (rows - 1) * columns:
            ax.set_xlabel(f"component 1 ({first.share_x:.0%})")
        if number % columns == 0:
            ax.set_ylabel(f"component 2 ({first.share_y:.0%})")
    for ax, row in zip(grid.flat, methods.to_dict("records"), strict=False):
        own = points[points["method"] == row["method"]]
        ax.set_title(style.wrapped(row["method"], 96 // max(3, columns)), pad=3)
        _panel(ax, row, own, style.colour(row["method"], labels))
    mixed = methods["method"][methods["n_mixed"].fillna(0) > 0]
    _legend(figure, [style.colour(name, labels) for name in mixed])
    style.set_title(figure, title)
    return figure


def _limits(values: pd.Series[float], above: float) -> tuple[float, float]:
    """Return an axis range with margins. above: extra room for the text, as a fraction of the range."""
    low, high = float(values.min()), float(values.max())
    span = high - low or 2.0
    return low - 0.06 * span, high + (0.06 + above) * span


def _panel(ax: Axes, row: Mapping[Hashable, Any], points: pd.DataFrame, colour: str) -> None:
    """Draw one method. row: its row of kind "method"."""
    if row["note"]:
        ax.text(0.5, 0.5, row["note"], ha="center", va="center", transform=ax.transAxes, color="#555555")
        return
    for kind, shade, line, dash in (("clean", _CLEAN, _LINE, "solid"), ("mixed", colour, colour, "dashed")):
        xy = points.loc[points["kind"] == kind, ["x", "y"]].to_numpy(float)
        light = style.lighter(shade, 0.4)
        ax.scatter(xy[:, 0], xy[:, 1], s=5, c=light, alpha=0.7, linewidths=0, zorder=1, rasterized=True)
        _contours(ax, xy, line, dash)
    text = f"KL {row['kl']:.2f} (1 network)\n".replace("-", "\u2212") if np.isfinite(row["kl"]) else ""
    text += f"n = {row['n_clean']} clean, {row['n_mixed'] or 'none'} mixed"
    ax.text(0.03, 0.98, text, ha="left", va="top", transform=ax.transAxes, fontsize=6.5)


def _contours(ax: Axes, points: np.ndarray, colour: str, dash: str) -> None:
    """Draw contours around the densest regions that hold the fractions ``HELD`` of the points."""
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    x, y = np.linspace(left, right, _GRID), np.linspace(low, high, _GRID)
    at = np.stack([axis.ravel() for axis in np.meshgrid(x, y)], 1)
    heights, own = density(points, at), density(points, points)
    if heights is None or own is None:
        return
    levels = np.quantile(own, [1 - share for share in HELD])
    if levels[0] < levels[1]:
        ax.contour(x, y, heights.reshape(_GRID, _GRID), levels, colors=[colour], linestyles=dash,
                   linewidths=(0.7, 1.1))  # fmt: skip


def _legend(figure: Drawing, colours: Sequence[str]) -> None:
    """Draw the legend of all panels. colours: colours of the methods with mixed latents."""

    def dot(colour: str) -> Line2D:
        return Line2D([], [], color=style.lighter(colour, 0.4), linestyle="none", marker="o", markersize=4)

    share = f"densest {HELD[1]:.0%} and {HELD[0]:.0%} of"
    handles: dict[str, Any] = {"clean": dot(_CLEAN)}
    handles[f"{share} clean"] = Line2D([], [], color=_LINE, linewidth=1)
    if colours:
        handles["mixed, in the method's colour"] = tuple(dot(colour) for colour in colours[:4])
        handles[f"{share} mixed"] = Line2D([], [], color=_LINE, linewidth=1, linestyle="--")
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=min(len(handles), max(1, int(figure.get_figwidth() / 1.7))),
        handler_map={tuple: HandlerTuple(None)},
    )


FIGURE = Figure(
    name="figure1_latents",
    title="Figure 1: clean and mixed latents in one projection",
    caption=caption,
    data=latents,
    draw=draw,
    missing="No finished run of the study has stored latents that can be read.",
    fill=commands.sampled,
)

"""Figure 6: radar chart of all metrics, each on its own scale."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from harness.metrics import DIRECTION, METRICS
from reports import commands
from reports.figures.parts import style
from reports.figures.parts.base import Command, Figure
from reports.figures.parts.blocks import SUMMARY, equal_lines, omissions, over_blocks, training_counts
from reports.names import METRIC_NAMES, proper_name
from reports.runs.study import Study

COLUMNS = ("dataset", "metric", "method", "scaled", *SUMMARY)
INNER = 0.25
"""Position of the worst method on an axis (the best is at 1); at 0, lines would coincide in the centre."""
_ACROSS = 2
_PLAIN = ("mae", "corr")


def data(study: Study) -> pd.DataFrame:
    """Return a row per data set, metric and method, for data sets with 2 methods and 3 metrics or more."""
    scores = study.scores()
    scores = scores[(scores["occlusion_protocol"] == "test") & (scores["occlusion_ratio"] == 0)]
    rows: list[dict[str, object]] = []
    for dataset, part in scores.groupby("dataset"):
        axes: list[dict[str, object]] = []
        for metric in METRICS.get(study.kinds.get(str(dataset), ""), ()):
            summaries = list(over_blocks(part[part["metric"] == metric]))
            scaled = outward(np.array([row["mean"] for row in summaries]), metric)
            common = {"dataset": dataset, "metric": metric}
            if np.isfinite(scaled).sum() > 1:
                places = zip(summaries, scaled.tolist(), strict=True)
                axes += [{**common, **row, "scaled": place} for row, place in places]
        rows += axes if len({row["metric"] for row in axes}) > 2 else []
    return pd.DataFrame(rows, columns=list(COLUMNS))


def outward(means: np.ndarray, metric: str) -> np.ndarray:
    """Scale means to an axis: the worst to ``INNER``, the best to 1; all to 1 if they are equal.

    Shape: (methods,) -> (methods,); NaN for methods without a mean.
    """
    values = DIRECTION[metric] * means
    if not np.isfinite(values).any():
        return values
    low, high = np.nanmin(values), np.nanmax(values)
    if low == high:
        return np.where(np.isfinite(values), 1.0, np.nan)
    return INNER + (1 - INNER) * (values - low) / (high - low)


def caption(data: pd.DataFrame) -> str:
    """Return the caption: contents, numbers of trainings, and the effect of the scale."""
    texts = [
        f"Scores on the test split: means over {training_counts(data)}, with equal backbones and seeds for "
        "all methods.",
        "Outward is better: each axis runs from the worst method shown (inner ring) to the best (outer "
        "ring). Its label gives their means (accuracies and F1 in percent, MAE in label units).",
        "Even the smallest difference fills an axis: the shapes show the order of methods, not the size of "
        "differences, which may be inside the noise, see Figure 8.",
    ]
    if data["low"].isna().all():
        texts.append("No uncertainty can be given without two seeds that differ.")
    equal = data.groupby(["dataset", "metric"])["mean"].agg(lambda means: means.nunique() == 1)
    if equal.any():
        names = (
            f"{METRIC_NAMES[metric]} on {proper_name(dataset)}" for dataset, metric in equal[equal].index
        )
        texts.append(f"All methods are equal and drawn at the outer ring in {', '.join(names)}.")
    return " ".join([*texts, *omissions(data, ["dataset", "metric"]), *equal_lines(data, ["metric"])])


def panel(data: pd.DataFrame, ax: Axes, labels: Sequence[str]) -> None:
    """Draw the polygons of one data set on polar axes; labels: all methods of the figure."""
    metrics = list(dict.fromkeys(data["metric"]))
    angles = [2 * math.pi * i / len(metrics) for i in range(len(metrics))]
    wide = data.pivot_table(index="metric", columns="method", values="scaled", sort=False).loc[metrics]
    for method in style.ordered(wide.columns):
        values = wide[method].tolist()
        ax.plot([*angles, 0], [*values, values[0]], linewidth=1, markersize=3, **style.look(method, labels))
    ax.set_theta_offset(math.pi / 2)  # type: ignore[attr-defined]
    ax.set_theta_direction(-1)  # type: ignore[attr-defined]
    ax.set_ylim(0, 1.05)
    ax.set_yticks([INNER, 1], ["", ""])
    ax.set_xticks(angles, [""] * len(metrics))
    ax.grid(linewidth=0.4, color="#bbbbbb")
    ax.spines["polar"].set_visible(False)
    upright = defaultdict(lambda: "center", {1.0: "bottom", -1.0: "top"})
    for angle, metric in zip(angles, metrics, strict=True):
        side = round(math.sin(angle), 6)
        align = "center" if not side else "left" if side > 0 else "right"
        text = _axis_label(data[data["metric"] == metric]["mean"], metric)
        ax.text(angle, 1.12, text, fontsize=6, ha=align,
                va=upright[round(math.cos(angle), 6)], linespacing=1.1)  # fmt: skip


def _axis_label(means: pd.Series, metric: str) -> str:
    """Return the metric's name and the means at the inner and the outer ring."""
    worst, best = (means.max(), means.min()) if DIRECTION[metric] < 0 else (means.min(), means.max())
    factor, digits = (1, 3) if metric in _PLAIN else (100, 1)
    arrow = "↑" if DIRECTION[metric] > 0 else "↓"
    return f"{METRIC_NAMES[metric]} {arrow}\n{factor * worst:.{digits}f} → {factor * best:.{digits}f}"


def draw(data: pd.DataFrame, title: str, command: Command) -> Drawing:
    """Draw a radar per data set in two columns; the legend fills the free place of an odd number."""
    datasets = sorted(set(data["dataset"]))
    across = min(_ACROSS, len(datasets))
    down = -(-len(datasets) // across)
    width = style.PAGE if across > 1 else style.COLUMN
    size, polar = (width, 0.6 + 2.5 * down), {"projection": "polar"}
    figure, axes = plt.subplots(down, across, figsize=size, squeeze=False, subplot_kw=polar)
    style.set_title(figure, title)
    labels = style.ordered(data.loc[data["n"] > 0, "method"])
    handles = style.method_handles(labels)
    for ax, dataset in zip(axes.flat, datasets, strict=False):
        panel(data[data["dataset"] == dataset], ax, labels)
        ax.set_title(style.wrapped(dataset, 30), pad=22)
    for spare in axes.flat[len(datasets) :]:
        spare.set_axis_off()
        spare.legend(handles=handles, loc="center", fontsize=8)
    if len(datasets) == axes.size:
        style.legend(figure, handles)
    return figure


FIGURE = Figure(
    name="figure6_radar",
    title="Figure 6: All metrics, each scaled between the worst and the best method",
    caption=caption,
    data=data,
    draw=draw,
    missing="There are no two methods to compare in three metrics or more.",
    fill=commands.compared,
)

"""Figure 8: forest plot of each method's gain over `none`, per data set and backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import MaxNLocator

from reports import commands
from reports.figures.parts import style
from reports.figures.parts.base import Command, Figure
from reports.figures.parts.blocks import count_range
from reports.names import METRIC_NAMES
from reports.runs.study import Study
from reports.stats.comparison import BOUNDS, clean, intervals, overall, paired
from reports.stats.intervals import FEWEST

METRICS = ("mae", "corr")
UNITS = {"mae": "label units; ", "corr": ""}
ALL = "all backbones"
COLUMNS = ("metric", "dataset", "row", "method", "gain", *BOUNDS, "verdict", "n", "strata", "unpaired")
_HEADER, _GAP = 1.2, 1.5
_WIDEST = 3
"""Maximum length of an axis in multiples of the largest gain; intervals of two seeds are far wider."""


def data(study: Study) -> pd.DataFrame:
    """Return a row per metric, data set, backbone (``ALL`` last) and method.

    ``row`` is the backbone or ``ALL``; bounds and ``verdict`` are as in `reports.stats.comparison`;
    ``unpaired`` is the metric's number of runs without a partner.
    """
    scores = clean(study.scores())
    parts = []
    for metric in METRICS:
        pairs = paired(scores, metric, clips=study.clips)
        judged = study.clips, study.margins
        single = intervals(pairs, *judged).rename(columns={"backbone": "row"}).assign(strata=1)
        pooled = overall(pairs, *judged).assign(row=ALL)
        for part in (single, pooled):
            parts.append(part.assign(metric=metric, unpaired=pairs.attrs["unpaired"]))
    rows = pd.concat([part for part in parts if len(part)] or [pd.DataFrame(columns=list(COLUMNS))])
    methods = style.ordered(rows["method"])
    rows = rows.assign(
        by_metric=[METRICS.index(name) for name in rows["metric"]],
        last=rows["row"] == ALL,
        place=[methods.index(name) for name in rows["method"]],
    )
    keys = ["by_metric", "dataset", "last", "row", "place"]
    return rows.sort_values(keys, kind="stable", ignore_index=True)[list(COLUMNS)]


def caption(data: pd.DataFrame) -> str:
    """Return the caption: contents, expected false positives, and runs without a partner."""
    single, pooled = data[data["row"] != ALL], data[data["row"] == ALL]
    texts = [
        "Gain on the test split over none with the same seed, backbone and data set "
        f"(n = {count_range(single['n'], 'seed')}); further right is better in both panels."
    ]
    tested = single[(single["n"] >= FEWEST) & single["low"].notna()]
    if single["low_seeds"].isna().all():
        texts.append("No uncertainty can be given without two seeds that differ: only points are shown.")
    else:
        wider = "" if single["low"].isna().all() else "; thin bars: 95% intervals for other seeds and clips"
        texts.append(
            f"Thick bars: 95% intervals over seeds for these clips (paired t; for {ALL} a bootstrap over "
            f"{count_range(pooled['n'], 'pair')}){wider}. Arrowheads: the bar or mark extends beyond the "
            "axis. "
            "Filled marks: better or worse, as the thin bar excludes 0 and there are three seeds. Hollow "
            "marks: undecided or equal."
        )
    if len(tested):
        outside = tested["verdict"].isin(["better", "worse"]).sum()
        texts.append(
            f"{outside} of {len(tested)} gains on single backbones are better or worse; about "
            f"{0.05 * len(tested):.0f} would if no method had any effect."
        )
    lost = data.groupby("metric", sort=False)["unpaired"].first()
    if lost.any():
        runs = count_range(lost[lost == lost.max()].iloc[:1], "run")
        texts.append(f"Left out: {runs} without a run of none with the same seed and environment.")
    return " ".join(texts)


def panel(data: pd.DataFrame, ax: Axes, places: dict[tuple[str, str], float], step: float) -> None:
    """Draw the gains of one metric.

    places: (data set, row) -> y of its first method. step: distance in y between methods.
    """
    metric, limits = data["metric"].iloc[0], axis_limits(data)
    labels = style.ordered(data["method"])
    ax.axvline(0, color="black", linewidth=0.6, zorder=0)
    for mark in data.to_dict("records"):
        y = places[mark["dataset"], mark["row"]] + step * labels.index(mark["method"])
        draw_gain(ax, mark, y, limits, labels)
    ax.set_xlim(*limits)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.set_xlabel(f"gain in {METRIC_NAMES[metric]} over none ({UNITS[metric]}better →)")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


def axis_limits(data: pd.DataFrame) -> tuple[float, float]:
    """Return the limits of a metric's axis: the longest bars, but at most 3 times the largest usual gain.

    Outliers, such as the gain of a failed training, may lie outside the limits.
    """
    gains = data["gain"].abs()
    usual = gains.quantile(0.9)
    most = min(gains.max(), 5 * usual) if usual > 0 else gains.max()
    ends = data[["gain", *BOUNDS]].clip(-_WIDEST * most, _WIDEST * most)
    low, high = min(ends.min().min(), -0.1 * most), max(ends.max().max(), 0.1 * most)
    margin = 0.04 * (high - low) or 1.0
    return float(low - margin), float(high + margin)


def draw_gain(
    ax: Axes, row: dict[Any, Any], y: float, limits: tuple[float, float], labels: Sequence[str]
) -> None:
    """Draw one gain with its two intervals, with arrowheads where they extend beyond the axis."""
    shade, whole = style.colour(row["method"], labels), row["row"] == ALL
    strong = row["verdict"] in ("better", "worse")
    edge = 0.01 * (limits[1] - limits[0])
    ends = limits[0] + edge, limits[1] - edge
    for low, high, width in (("low", "high", 0.5), ("low_seeds", "high_seeds", 1.8 if whole else 1.3)):
        bar = np.clip([row[low], row[high]], *ends)
        ax.plot(bar, [y, y], color=shade, linewidth=width, alpha=1 if strong else 0.6, solid_capstyle="butt")
    if row["low"] < ends[0] or row["low_seeds"] < ends[0]:
        ax.plot(ends[0], y, marker="<", color=shade, markersize=2.5, linestyle="none")
    if row["high"] > ends[1] or row["high_seeds"] > ends[1]:
        ax.plot(ends[1], y, marker=">", color=shade, markersize=2.5, linestyle="none")
    if not ends[0] <= row["gain"] <= ends[1]:
        ax.plot(np.clip(row["gain"], *ends), y, marker="<>"[int(row["gain"] > 0)], color=shade, markersize=5)
        return
    ax.plot(row["gain"], y, marker=style.marker(row["method"], labels), color=shade, linestyle="none",
            markerfacecolor=shade if strong else "white", markeredgewidth=0.8,
            markersize=4.5 if whole else 3.2)  # fmt: skip


def layout(data: pd.DataFrame) -> tuple[dict[tuple[str, str], float], dict[str, float], float]:
    """Return the y of rows and of headings from the top, and the total height, in heights of a mark."""
    height, methods = 0.0, data["method"].nunique()
    rows, headings = {}, {}
    for dataset, part in data.groupby("dataset"):
        headings[str(dataset)] = height + _HEADER / 2
        height += _HEADER
        backbones = sorted(set(part["row"]) - {ALL})
        for row in [*backbones, ALL]:
            rows[str(dataset), row] = height + 0.9
            height += methods + 0.8
        height += _GAP
    return rows, headings, height - _GAP


def draw(data: pd.DataFrame, title: str, command: Command) -> Drawing:
    """Draw the metrics side by side with shared rows."""
    rows, headings, height = layout(data)
    methods = style.ordered(data["method"])
    inches = 0.095 if height < 85 else max(0.055, 8.1 / height)
    metrics = list(dict.fromkeys(data["metric"]))
    size = (style.PAGE, 1.1 + max(inches * height, 0.8))
    figure, axes = plt.subplots(1, len(metrics), figsize=size, sharey=True, squeeze=False)
    style.set_title(figure, title)
    middle = (len(methods) - 1) / 2
    for ax, metric in zip(axes.flat, metrics, strict=True):
        panel(data[data["metric"] == metric], ax, rows, 1.0)
        for number, y in enumerate(rows.values()):
            if number % 2 == 0:
                ax.axhspan(y - 0.9, y + len(methods) - 0.1, color="#f4f4f4", zorder=-1, linewidth=0)
    first = axes.flat[0]
    names = {y + middle: style.wrapped(row, 24) for (_, row), y in rows.items()}
    names |= {y: style.wrapped(dataset, 30) for dataset, y in headings.items()}
    first.set_yticks(list(names), list(names.values()))
    for label in first.get_yticklabels()[len(rows) :]:
        label.set_fontweight("bold")
    first.set_ylim(height, -0.2)
    handles = style.method_handles(methods)
    for handle in handles:
        handle.set_linestyle("-")
    style.legend(figure, handles)
    return figure


FIGURE = Figure(
    name="figure8_forest",
    title="Figure 8: Gain of each method over none",
    caption=caption,
    data=data,
    draw=draw,
    missing="No method shares seed, backbone and data set with a run of none.",
    fill=commands.compared,
)

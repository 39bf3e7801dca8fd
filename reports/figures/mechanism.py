"""Figure 9, the effects of mixing: pairs of opposite polarity, learnt intensities, mixing weights."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from backbones.batch import MODALITIES
from reports import commands
from reports.figures.parts import style
from reports.figures.parts.base import Command, Figure
from reports.figures.parts.blocks import SUMMARY, omissions, over_blocks, training_counts
from reports.runs.frame import is_ablation, named
from reports.runs.study import Study

COLUMNS = ("panel", "dataset", "metric", "part", "what", "method", *SUMMARY)
PARTS = (*MODALITIES, "label")
CHECKS = {"truth": ("s", "expressed"), "label": ("^", "|label|"), "partial": ("D", "weight")}
QUANTILES = ("q10", "q50", "q90")
PANELS = {
    "opposite": re.compile("mix_opposite_rate"),
    "intensity": re.compile(rf"intensity_({'|'.join(MODALITIES)})_({'|'.join(CHECKS)})"),
    "lambda": re.compile(rf"mix_lambda_({'|'.join(PARTS)})_({'|'.join(QUANTILES)})"),
}
LABELS = {
    "opposite": "pairs of opposite\npolarity (share)",
    "intensity": "correlation of\nintensity |Iᵐ|",
    "lambda": "weight of the first\nmember, λ",
}
_WIDTH = 0.8  # total width of the marks at one tick


def data(study: Study) -> pd.DataFrame:
    """Return a row per panel, data set, metric and method, for training on clean input.

    ``part`` is the modality or "label"; ``what`` is the quantile or the variable of the correlation. The
    columns ``SUMMARY`` are as in `reports.figures.parts.blocks`.
    """
    frame = study.frame
    rows = frame[frame["split"].isin(["epoch", "mechanism"]) & (frame["occlusion_protocol"] == "test")]
    rows = named(rows)
    rows = rows[np.array([not is_ablation(name) for name in rows["method"]], bool)]
    numbers = []
    for (dataset, metric), part in rows.groupby(["dataset", "metric"]):
        for panel, pattern in PANELS.items():
            if match := pattern.fullmatch(str(metric)):
                names = dict(zip(("part", "what"), (*match.groups(), "", "")[:2], strict=True))
                common = {"panel": panel, "dataset": dataset, "metric": metric, **names}
                numbers += [{**common, **row} for row in over_blocks(part)]
    place = {name: number for number, name in enumerate((*PANELS, *PARTS, *QUANTILES))}
    numbers.sort(key=lambda row: (place[row["panel"]], row["dataset"], place.get(row["part"], -1)))
    table = pd.DataFrame(numbers, columns=list(COLUMNS))
    return table if (table["n"] > 0).any() else table[:0]


def caption(data: pd.DataFrame) -> str:
    """Return the caption: contents, numbers of trainings, and uncertainty."""
    texts = [f"Means over {training_counts(data)}, with equal backbones and seeds for all compared methods."]
    if data["low"].notna().any():
        texts.append(
            "Thin bars in (a) and (b): 95% bootstrap intervals over seeds within backbones; if they overlap, "
            "or in (b) contain 0, the difference may be noise."
        )
    else:
        texts.append("No uncertainty can be given without two seeds that differ: differences may be noise.")
    texts_of = {
        "opposite": "(a) Fraction of pairs of a mixture's members whose labels have opposite signs, in the "
        "last epoch.",
        "intensity": "(b) Pearson's correlation, over the test clips, of predicted intensities |Iᵐ| with the "
        "intensity expressed in the modality (known for synthetic data), with |label|, and with the "
        "modality's weight in the clip given |label|, for which the method has no training target.",
        "lambda": "(c) Weight of a mixture's first member in the last epoch: 10%, 50% (mark) and 90% "
        "quantiles over mixed examples, per modality and for the label; bars show spread, not uncertainty.",
    }
    panels = set(data.loc[data["n"] > 0, "panel"])
    texts += [text for name, text in texts_of.items() if name in panels]
    if "intensity" not in panels:
        texts.append("(b) is empty: it needs synthetic data, whose intensities are known, and MS-Mix.")
    return " ".join([*texts, *omissions(data, ["dataset", "metric"])])


def opposite(data: pd.DataFrame, ax: Axes, labels: Sequence[str]) -> None:
    """Draw the rate of opposite pairs of each method."""
    for x, row in enumerate(_in_order(data, labels)):
        _interval(ax, x, row, labels, style.marker(row["method"], labels))
    ax.set_xticks([])
    ax.set_xlim(-0.6, len(labels) - 0.4)


def intensity(data: pd.DataFrame, ax: Axes, labels: Sequence[str]) -> None:
    """Draw the correlations of intensities, with a tick per modality."""
    methods = style.ordered(data["method"])
    ax.axhline(0, color="black", linewidth=0.6, zorder=0)
    for row in _in_order(data, labels):
        number = methods.index(row["method"]) * len(CHECKS) + [*CHECKS].index(row["what"])
        x = MODALITIES.index(row["part"]) + _shift(number, len(CHECKS) * len(methods))
        _interval(ax, x, row, labels, CHECKS[row["what"]][0])
    ax.set_xticks(range(len(MODALITIES)), MODALITIES)
    ax.set_xlim(-0.5, len(MODALITIES) - 0.5)


def weights(data: pd.DataFrame, ax: Axes, labels: Sequence[str]) -> None:
    """Draw the quantiles of mixing weights, with a tick per modality and one for the label."""
    wide = data.pivot_table(index=["part", "method"], columns="what", values="mean")
    wide = wide.reindex(columns=list(QUANTILES))
    methods = [name for name in labels if name in set(data["method"])]
    for part, method in wide.index:
        x = PARTS.index(part) + _shift(methods.index(method), len(methods))
        low, middle, high = wide.loc[(part, method)]
        look = style.look(method, labels)
        ax.plot([x, x], [low, high], linewidth=1, **(look | {"marker": ""}))
        ax.plot(x, middle, markersize=3, **(look | {"linestyle": "none"}))
    ax.set_xticks(range(len(PARTS)), PARTS)
    ax.set_xlim(-0.5, len(PARTS) - 0.5)


def _in_order(data: pd.DataFrame, labels: Sequence[str]) -> list[dict[Any, Any]]:
    return sorted(data.to_dict("records"), key=lambda row: labels.index(row["method"]))


def _shift(number: int, count: int) -> float:
    """Return the offset of a mark from its tick. number: index of the mark among ``count`` marks."""
    return _WIDTH * ((number + 0.5) / count - 0.5)


def _interval(ax: Axes, x: float, row: dict[Any, Any], labels: Sequence[str], marker: str) -> None:
    """Draw a mean and its interval, if there is one."""
    shade = style.colour(row["method"], labels)
    if not math.isnan(row["low"]):
        ax.plot([x, x], [row["low"], row["high"]], color=shade, linewidth=0.9)
    ax.plot(x, row["mean"], marker=marker, color=shade, linestyle="none", markersize=4)


DRAW = {"opposite": opposite, "intensity": intensity, "lambda": weights}
ABSENT = {
    "opposite": "There is no run of a method that mixes.",
    "intensity": "This panel needs synthetic data, whose intensities are known, and MS-Mix.",
    "lambda": "There is no run of a method that mixes.",
}


def draw(data: pd.DataFrame, title: str, command: Command) -> Drawing:
    """Draw a column per data set and a row per panel."""
    data = data[data["n"] > 0]
    figure, rows = style.dataset_grid(title, data["dataset"], list(PANELS), (0.8, 1.5), sharey="row")
    labels = style.ordered(data["method"])
    for panel, axes in rows:
        letter = "abc"[[*PANELS].index(panel)]
        for dataset, ax in axes.items():
            part = data[(data["dataset"] == dataset) & (data["panel"] == panel)]
            if len(part):
                DRAW[panel](part, ax, labels)
            else:
                style.say(ax, ABSENT[panel])
            ax.set_title(f"({letter}) {style.wrapped(dataset, 30)}", loc="left")
        first = next(iter(axes.values()))
        first.set_ylabel(LABELS[panel])
        if panel == "opposite":
            rates = data.loc[(data["panel"] == panel) & data["dataset"].isin([*axes]), ["mean", "high"]]
            first.set_ylim(0, 1.15 * max(rates.max().max(), 0.01) if len(rates) else 1)
        if panel == "lambda":
            # The released MS-Mix extrapolates.
            shown = data.loc[(data["panel"] == panel) & data["dataset"].isin([*axes]), "mean"]
            first.set_ylim(min(0, shown.min()), max(1, shown.max()))
    handles = style.method_handles(labels)
    if "intensity" in set(data["panel"]):
        handles += [
            Line2D([], [], color="black", marker=mark, linestyle="none", label=f"(b) {text}")
            for mark, text in CHECKS.values()
        ]
    style.legend(figure, handles)
    return figure


FIGURE = Figure(
    name="figure9_mechanism",
    title="Figure 9: Effects of mixing",
    caption=caption,
    data=data,
    draw=draw,
    missing="There is no run of a method that mixes.",
    fill=commands.mixed,
)

"""Figure 5: error when parts of the input are hidden in testing or in training."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import MaxNLocator

from harness.metrics import DIRECTION
from reports import commands
from reports.figures.parts import style
from reports.figures.parts.base import Command, Figure
from reports.figures.parts.blocks import SUMMARY, equal_lines, omissions, over_blocks, training_counts
from reports.names import METRIC_NAMES
from reports.runs.study import Study

METRIC = "mae"
COLUMNS = ("dataset", "protocol", "ratio", "method", "metric", *SUMMARY)
PROTOCOLS = {"test": "hidden in test clips", "train": "hidden in training clips"}
_CURVE = ["dataset", "backbone", "method"]


def data(study: Study) -> pd.DataFrame:
    """Return a row per data set, protocol, ratio and method if there are two ratios or more."""
    scores = study.scores()
    scores = scores[scores["metric"] == METRIC]
    test, train = (scores[scores["occlusion_protocol"] == name] for name in PROTOCOLS)
    # Training on clean input is the first point of both curves.
    trained = pd.MultiIndex.from_frame(train[_CURVE])
    clean = test[test["occlusion_ratio"] == 0]
    clean = clean[pd.MultiIndex.from_frame(clean[_CURVE]).isin(trained)]
    rows = []
    for protocol, part in zip(PROTOCOLS, (test, pd.concat([clean, train])), strict=True):
        for dataset, curves in part.groupby("dataset"):
            if curves["occlusion_ratio"].nunique() < 2:
                continue
            for ratio, points in curves.groupby("occlusion_ratio"):
                common = {"dataset": dataset, "protocol": protocol, "ratio": ratio, "metric": METRIC}
                rows += [{**common, **row} for row in over_blocks(points)]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame if (frame["n"] > 0).any() else frame[:0]


def caption(data: pd.DataFrame) -> str:
    """Return the caption: contents, numbers of trainings, and uncertainty."""
    banded = data["low"].notna().any()
    texts = [
        "Mean absolute error on the test split (in units of the label; lower is better) against the share of "
        f"hidden input: means over {training_counts(data)}, with equal backbones and seeds for all methods.",
        "Above: input hidden in test clips, after training on clean clips. Below: input hidden in training "
        "clips, tested on clean clips."
        if data["protocol"].nunique() > 1
        else f"The input is {PROTOCOLS[data['protocol'].iloc[0]]}.",
        "Bands: 95% bootstrap intervals over seeds within backbones, for each method; where they overlap, "
        "the order of methods may be inside the noise."
        if banded
        else "No uncertainty can be given without two seeds that differ: differences may be noise.",
    ]
    keys = ["dataset", "protocol", "ratio"]
    return " ".join([*texts, *omissions(data, keys), *equal_lines(data, ["protocol", "ratio"])])


def panel(data: pd.DataFrame, ax: Axes, labels: Sequence[str]) -> None:
    """Draw the curves of one data set and protocol; labels: all methods of the figure."""
    for method in style.ordered(data["method"]):
        curve = data[data["method"] == method].sort_values("ratio")
        look = style.look(method, labels)
        ax.plot(curve["ratio"], curve["mean"], **look)
        ax.fill_between(curve["ratio"], curve["low"], curve["high"], color=look["color"], alpha=0.13, lw=0.4)
    ax.yaxis.set_major_locator(MaxNLocator(5))


def draw(data: pd.DataFrame, title: str, command: Command) -> Drawing:
    """Draw a column per data set and a row per protocol."""
    protocols = [name for name in PROTOCOLS if name in set(data["protocol"])]
    figure, rows = style.dataset_grid(title, data["dataset"], protocols, (0.7, 1.75))
    points = data[data["n"] > 0]
    labels = style.ordered(points["method"])
    for protocol, axes in rows:
        for dataset, ax in axes.items():
            part = points[(points["dataset"] == dataset) & (points["protocol"] == protocol)]
            if len(part):
                panel(part, ax, labels)
                ax.set_xlabel(f"share {PROTOCOLS[protocol]}")
            else:
                style.say(ax, f"No run has input {PROTOCOLS[protocol]}.")
            ax.set_title(style.wrapped(dataset, 30))
        arrow = "↑" if DIRECTION[METRIC] > 0 else "↓"
        next(iter(axes.values())).set_ylabel(f"{METRIC_NAMES[METRIC]} {arrow} (label units)")
    style.legend(figure, style.method_handles(labels))
    return figure


FIGURE = Figure(
    name="figure5_occlusion",
    title="Figure 5: Error against the share of hidden input",
    caption=caption,
    data=data,
    draw=draw,
    missing="No run was evaluated on occluded input.",
    fill=commands.occluded,
)

"""Figure 5: what is left of a score when parts of the input are hidden, in testing or in training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import MaxNLocator

from harness.metrics import DIRECTION
from reports.figures import style
from reports.figures.base import Command, Figure
from reports.names import METRIC_NAMES
from reports.stats.intervals import stratified_interval
from reports.study import Study

METRIC = "mae"
SUMMARY = ("mean", "low", "high", "n", "blocks", "backbones")
COLUMNS = ("dataset", "protocol", "ratio", "method", "metric", *SUMMARY)
PROTOCOLS = {"test": "hidden in test clips", "train": "hidden in training clips"}
RESAMPLES = 2_000
_ACROSS = 4  # panels side by side
_CURVE = ["dataset", "backbone", "method"]


def over_blocks(rows: pd.DataFrame, confidence: float = 0.95) -> Iterator[dict[str, Any]]:
    """Summarise one number of each method over the blocks that hold it for all methods.

    A block is a backbone, a seed and what they ran on. Methods that hold it in less than half of all blocks
    would cost the others theirs, and are left out.

    Args:
        rows: columns ``backbone, seed, environment, method, value`` of one data set and metric.

    Returns:
        A dict per method, in the order of figures: ``method`` and the keys ``SUMMARY``. ``mean`` is over
        backbones, each of which weighs the same, of means over seeds; ``low`` and ``high`` are NaN with one
        seed and where there is no spread; ``n`` of the ``blocks`` of any method are counted, 0 for methods
        that are left out.
    """
    finite = rows[np.isfinite(rows["value"].to_numpy(float))]
    keys = ["backbone", "environment", "seed"]
    wide = finite.pivot_table(index=keys, columns="method", values="value", aggfunc="mean")
    kept = wide.loc[:, 2 * wide.notna().sum() >= len(wide)].dropna()
    strata = kept.index.get_level_values("backbone").to_numpy()
    for method in style.ordered(rows["method"]):
        values = kept[method].to_numpy() if method in kept.columns else np.array([])
        used = strata[: len(values)]
        low, high = math.nan, math.nan
        if len(values):
            low, high = stratified_interval(values, used, confidence, RESAMPLES)
            # Equal values are no measure of noise, and an interval without width would claim certainty.
            if not high - low > 1e-9 * abs(low):
                low, high = math.nan, math.nan
        means = [values[used == name].mean() for name in sorted(set(used))]
        mean = float(np.mean(means)) if means else math.nan
        counts = {"n": len(values), "blocks": len(wide), "backbones": len(means)}
        yield {"method": method, "mean": mean, "low": low, "high": high, **counts}


def left_out(data: pd.DataFrame, keys: Sequence[str]) -> list[str]:
    """Sentences on what `over_blocks` did not use; keys: columns that tell its calls apart."""
    texts = []
    most = data.groupby(["method", "dataset"])["n"].max().reset_index()
    absent = most[most["n"] == 0]
    for dataset, part in absent.groupby("dataset"):
        names = ", ".join(style.ordered(part["method"]))
        texts.append(f"Not shown on {dataset}, for lack of most of the trainings of others: {names}.")
    points = data[data["n"] > 0].drop_duplicates(list(keys))
    lost = points["blocks"] - points["n"]
    if lost.any():
        worst = points.iloc[int(lost.to_numpy().argmax())]
        texts.append(
            f"Left out: up to {lost.max()} of {worst['blocks']} pairs of backbone and seed, which lack a "
            "number of some method."
        )
    return texts


def span(counts: pd.Series, one: str, more: str) -> str:
    """Counts in words: ``1 seed``, ``2 seeds``, ``2 to 5 seeds``."""
    low, high = counts.min(), counts.max()
    return f"{low} {one if low == 1 else more}" if low == high else f"{low} to {high} {more}"


def counted(data: pd.DataFrame) -> str:
    """How many trainings stand behind a mean, and of how many backbones."""
    used = data[data["n"] > 0]
    trainings = span(used["n"], "training", "trainings")
    return f"n = {trainings} of {span(used['backbones'], 'backbone', 'backbones')}"


def twins(data: pd.DataFrame, keys: Sequence[str], value: str = "mean") -> list[str]:
    """A sentence for each data set with methods whose lines hide one another, being equal to the last bit."""
    texts = []
    for dataset, part in data[data["n"] > 0].groupby("dataset"):
        wide = part.pivot_table(index=list(keys), columns="method", values=value)
        groups: dict[tuple[float, ...], list[str]] = {}
        for method in style.ordered(wide.columns):
            groups.setdefault(tuple(wide[method].fillna(math.inf)), []).append(method)
        texts += [
            f"Exactly equal on {dataset}, so that one hides the other: {', '.join(names)}."
            for names in groups.values()
            if len(names) > 1
        ]
    return texts


def data(study: Study) -> pd.DataFrame:
    """A row per data set, protocol, ratio and method; of those where there are two ratios or more."""
    scores = study.scores()
    scores = scores[scores["metric"] == METRIC]
    test, train = (scores[scores["occlusion_protocol"] == name] for name in PROTOCOLS)
    # What was trained with nothing hidden is the first point of both curves.
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
    """What is shown, of how many trainings."""
    banded = data["low"].notna().any()
    texts = [
        "Mean absolute error on the test split (in units of the label; lower is better) against the share of "
        f"the input that is hidden: means over {counted(data)}, the same for all methods at a point.",
        "Above: hidden in test clips, after training on whole ones. Below: hidden in training clips, tested "
        "on whole ones."
        if data["protocol"].nunique() > 1
        else f"The input is {PROTOCOLS[data['protocol'].iloc[0]]}.",
        "Bands: 95% bootstrap intervals over seeds within backbones, of each method alone; where they "
        "overlap, the order of methods may be inside the noise."
        if banded
        else "Without two seeds that differ no uncertainty can be given: differences may be noise.",
    ]
    keys = ["dataset", "protocol", "ratio"]
    return " ".join([*texts, *left_out(data, keys), *twins(data, ["protocol", "ratio"])])


def panel(data: pd.DataFrame, ax: Axes, labels: Sequence[str]) -> Axes:
    """Draw the curves of one data set and protocol; labels: all methods of the figure."""
    shown = data[data["n"] > 0]
    for method in style.ordered(shown["method"]):
        curve = shown[shown["method"] == method].sort_values("ratio")
        shade = style.colour(method, labels)
        ax.plot(curve["ratio"], curve["mean"], color=shade, marker=style.marker(method, labels),
                linestyle=style.dashes(method, labels))  # fmt: skip
        ax.fill_between(curve["ratio"], curve["low"], curve["high"], color=shade, alpha=0.13, lw=0.4)
    ax.yaxis.set_major_locator(MaxNLocator(5))
    return ax


def draw(data: pd.DataFrame, title: str, command: Command) -> Drawing:
    """A column per data set, a row per protocol; more than four data sets go on below."""
    datasets = sorted(set(data["dataset"]))
    protocols = [name for name in PROTOCOLS if name in set(data["protocol"])]
    across = min(_ACROSS, len(datasets))
    chunks = [datasets[i : i + across] for i in range(0, len(datasets), across)]
    places = [(chunk, protocol) for chunk in chunks for protocol in protocols]
    width = style.PAGE if across > 1 else style.COLUMN
    size = (width, 0.7 + 1.75 * len(places))
    figure, axes = plt.subplots(len(places), across, figsize=size, squeeze=False)
    style.set_title(figure, title)
    labels = style.ordered(data.loc[data["n"] > 0, "method"])
    for row, (chunk, protocol) in zip(axes, places, strict=True):
        for ax in row[len(chunk) :]:
            ax.set_axis_off()
        for ax, dataset in zip(row, chunk, strict=False):
            part = data[(data["dataset"] == dataset) & (data["protocol"] == protocol)]
            if (part["n"] > 0).any():
                panel(part, ax, labels)
                ax.set_xlabel(f"share {PROTOCOLS[protocol]}")
            else:
                style.say(ax, f"No training has clips {PROTOCOLS[protocol]}.")
            ax.set_title(style.wrapped(dataset, 30))
        arrow = "↑" if DIRECTION[METRIC] > 0 else "↓"
        row[0].set_ylabel(f"{METRIC_NAMES[METRIC]} {arrow} (label units)")
    style.legend(figure, [style.method_handle(name, labels) for name in labels])
    return figure


FIGURE = Figure(
    name="figure5_occlusion",
    title="Figure 5: Error against how much of the input is hidden",
    caption=caption,
    data=data,
    draw=draw,
    missing="No run was evaluated on occluded input.",
    fill="make benchmark ARGS='occlusion.ratios=[0,0.5]'",
)

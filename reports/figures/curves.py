"""Figure 11: training and validation loss of each method after each epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import MaxNLocator

from reports import commands
from reports.figures.parts import style
from reports.figures.parts.base import Command, Figure
from reports.runs.study import Study
from reports.stats.comparison import clean

LOSSES = {"train_task_loss": "training loss", "valid_loss": "validation loss"}
"""Curve -> its name. All methods have the task loss on clean examples; what else they minimize differs."""
MEAN = "mean"
MOST_SEEDS = 5
COLUMNS = ("dataset", "loss", "method", "seed", "epoch", "value", "n")


def data(study: Study) -> pd.DataFrame:
    """Return a row per data set, loss, method, seed and epoch, and rows of their means (seed "mean").

    A seed's value is the mean over its backbones, up to the last epoch that all of them reached; the mean
    over seeds ends where the first training ended, since later means would be of fewer. ``n``: trainings.
    """
    scores = clean(study.scores()).dropna(subset=["value"])
    runs = scores.drop_duplicates(["run_id", "method"])[["dataset", "backbone", "method", "seed", "run_id"]]
    curves = study.curves(list(dict.fromkeys(runs["run_id"])))
    rows = runs.merge(curves, on="run_id")
    parts = [_of_loss(rows, loss) for loss in LOSSES if loss in rows]
    found = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(COLUMNS))
    order = found["seed"].map(lambda seed: math.inf if seed == MEAN else int(seed))
    keys = ["dataset", "loss", "method", "order", "epoch"]
    return found.assign(order=order).sort_values(keys, ignore_index=True)[list(COLUMNS)]


def _of_loss(rows: pd.DataFrame, loss: str) -> pd.DataFrame:
    """Return the rows of one loss, see `data`."""
    # The order of rows, on which the last bits of sums depend, is fixed.
    rows = rows.sort_values(["dataset", "method", "seed", "backbone", "run_id", "epoch"])
    rows = rows.assign(value=rows[loss].astype(float)).dropna(subset=["value"])
    seeds = _means(rows, ["dataset", "method", "seed"]).astype({"seed": str})
    means = _means(rows, ["dataset", "method"]).assign(seed=MEAN)
    return pd.concat([seeds, means], ignore_index=True).assign(loss=loss)[list(COLUMNS)]


def _means(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Average each group's trainings by epoch, with equal weights of backbones, while all of them go on."""
    total = rows.groupby(keys)["run_id"].nunique().rename("n").reset_index()
    blocks = rows.groupby([*keys, "epoch", "backbone"])["value"].agg(["mean", "size"]).reset_index()
    points = blocks.groupby([*keys, "epoch"]).agg(value=("mean", "mean"), size=("size", "sum")).reset_index()
    points = points.merge(total, on=keys)
    return points[points["size"] == points["n"]].drop(columns="size")


def caption(data: pd.DataFrame) -> str:
    """Return the caption: contents, numbers of trainings, and uncertainty."""
    return " ".join(_sentences(data))


def _sentences(data: pd.DataFrame) -> Iterator[str]:
    counts = sorted(set(data.loc[data["seed"] == MEAN, "n"]))
    n = f"n = {counts[0]}" + (f" to {counts[-1]}" if len(counts) > 1 else "")
    if len(counts) > 1:
        yield "Means of fewer trainings lack backbones or seeds, so that only their shape can be compared."
    seeds = data.loc[data["seed"] != MEAN, "seed"].nunique()
    yield (
        "Task loss on clean clips: above that of the training split during each epoch, below that of the "
        f"validation split after it; means over {n} trainings (all seeds and backbones) of each method."
    )
    if seeds > 1:
        first = f"the first {MOST_SEEDS} of {seeds} seeds" if seeds > MOST_SEEDS else "single seeds"
        yield f"Thin lines: {first}, means over backbones; their spread is the noise between seeds."
    else:
        yield "No uncertainty can be given with one seed: differences may be noise."
    yield (
        "Lines end where the first of their trainings ended. Results are those of the epoch with the least "
        "validation loss of each training."
    )


def panel(data: pd.DataFrame, ax: Axes, labels: Sequence[str]) -> None:
    """Draw the curves of one data set and loss; labels: all methods of the figure."""
    for method in style.ordered(data["method"].unique()):
        part = data[data["method"] == method]
        look: dict[str, Any] = {**style.look(method, labels), "marker": ""}
        seeds = list(dict.fromkeys(part.loc[part["seed"] != MEAN, "seed"]))
        for seed in seeds[:MOST_SEEDS] if len(seeds) > 1 else ():
            line = part[part["seed"] == seed]
            ax.plot(line["epoch"], line["value"], **look, lw=0.4, alpha=0.35, zorder=1)
        mean = part[part["seed"] == MEAN]
        # A single epoch would be no line.
        ax.plot(mean["epoch"], mean["value"], **{**look, "marker": "o" if len(mean) == 1 else ""}, zorder=2)
    ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def draw(data: pd.DataFrame, title: str, command: Command) -> Drawing:
    """Draw a column per data set and a row per loss."""
    losses = [name for name in LOSSES if name in set(data["loss"])]
    figure, rows = style.dataset_grid(title, data["dataset"], losses, (0.7, 1.75))
    labels = style.ordered(data["method"].unique())
    for loss, axes in rows:
        for dataset, ax in axes.items():
            part = data[(data["dataset"] == dataset) & (data["loss"] == loss)]
            if len(part):
                panel(part, ax, labels)
                ax.set_xlabel("epoch")
            else:
                style.say(ax, f"No run stores a {LOSSES[loss]}.")
            ax.set_title(style.wrapped(dataset, 30))
        next(iter(axes.values())).set_ylabel(f"{LOSSES[loss]} ↓")
    style.legend(figure, _handles(labels))
    return figure


def _handles(labels: Sequence[str]) -> list:
    handles = style.method_handles(labels)
    for handle in handles:
        handle.set_marker("")
    return handles


FIGURE = Figure(
    name="figure11_curves",
    title="Figure 11: Losses after each epoch",
    caption=caption,
    data=data,
    draw=draw,
    missing="No run that is shown stores its losses.",
    fill=commands.again,
)

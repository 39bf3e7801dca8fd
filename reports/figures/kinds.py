"""Figure 10: gain in MAE of each method over `none` on kinds of test clips."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import MaxNLocator

from reports import commands
from reports.figures.forest import ALL, axis_limits, draw_gain
from reports.figures.parts import style
from reports.figures.parts.base import Command, Figure
from reports.figures.parts.blocks import count_range
from reports.names import dataset_name
from reports.runs.study import Study
from reports.stats.intervals import FEWEST
from reports.stats.kinds import BY_KIND, gains_by_kind, kinds_of_clips

COLUMNS = ("dataset", *BY_KIND)
_ACROSS = 2  # data sets side by side; names of kinds are long
_GAP = 0.8  # between kinds, in distances between methods


def data(study: Study) -> pd.DataFrame:
    """Return a row per data set, kind of clips and method, see `reports.stats.kinds.gains_by_kind`."""
    parts = [pd.DataFrame(columns=list(COLUMNS))]
    for dataset, (clips, pairs) in study.clip_pairs.items():
        kinds = kinds_of_clips(study.kinds[dataset], clips.labels, study.text_lengths(dataset, clips.ids))
        part = gains_by_kind(pairs, clips, kinds, study.margins).assign(dataset=dataset)
        parts.append(part[list(COLUMNS)])
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)


def caption(data: pd.DataFrame) -> str:
    """Return the caption: contents, intervals, expected false positives, and kinds that are unknown."""
    single = data[data["group"] != "all"]
    texts = [
        "Gain in MAE over none on kinds of test clips, in units of the label: mean over backbones of the "
        f"mean difference over seeds (n = {count_range(data['n'], 'pair')}); further right is better."
    ]
    if data["low_seeds"].isna().all():
        texts.append("No uncertainty can be given without two seeds that differ: only points are shown.")
    else:
        texts.append(
            "Thick bars: 95% intervals over seeds for these clips; thin bars: for other seeds and other "
            "clips of the kind, by video. Filled marks: better or worse, as the thin bar excludes 0 and "
            "there are three seeds. Hollow marks: undecided or equal."
        )
    tested = single[single["low"].notna() & (single["seeds"] >= FEWEST)]
    if len(tested):
        decided = tested["verdict"].isin(["better", "worse"]).sum()
        texts.append(
            f"{decided} of {len(tested)} gains on single kinds are better or worse; about "
            f"{0.05 * len(tested):.2g} would be if no method had any effect."
        )
    texts.append("Predictions closer to 0 gain on labels around 0 and lose on strong ones.")
    unknown = set(data["dataset"]) - set(data.loc[data["group"] == "length", "dataset"])
    if unknown:
        names = ", ".join(sorted(map(dataset_name, unknown)))
        texts.append(f"Lengths of texts are unknown on {names}: the next call of the benchmark stores them.")
    return " ".join(texts)


def panel(data: pd.DataFrame, ax: Axes, labels: list[str]) -> None:
    """Draw the gains on one data set. labels: all methods of the figure."""
    limits, step = axis_limits(data), len(labels) + _GAP
    ax.axvline(0, color="black", linewidth=0.6, zorder=0)
    kinds = data.drop_duplicates("kind")
    places = {name: step * k for k, name in enumerate(kinds["kind"])}
    for number, y in enumerate(places.values()):
        if number % 2 == 0:
            ends = y - (1 + _GAP) / 2, y + len(labels) - (1 - _GAP) / 2
            ax.axhspan(*ends, color="#f4f4f4", zorder=-1, linewidth=0)
    for row in data.to_dict("records"):
        y = places[row["kind"]] + labels.index(row["method"])
        draw_gain(ax, {**row, "row": ALL if row["group"] == "all" else ""}, y, limits, labels)
    names = kinds["kind"], kinds["clips"]
    texts = [f"{style.wrapped(name, 26)}\n({n} clips)" for name, n in zip(*names, strict=True)]
    ax.set_yticks(np.array([*places.values()]) + (len(labels) - 1) / 2, texts)
    ax.set_ylim(step * len(places) - (1 + _GAP) / 2, -(1 + _GAP) / 2)
    ax.set_xlim(*limits)
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    ax.set_xlabel("gain in MAE over none (better →)")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


def draw(data: pd.DataFrame, title: str, command: Command) -> Drawing:
    """Draw a panel per data set, two side by side."""
    datasets, labels = sorted(set(data["dataset"])), style.ordered(data["method"])
    across = min(_ACROSS, len(datasets))
    down = -(-len(datasets) // across)
    kinds = data.groupby("dataset")["kind"].nunique().max()
    inches = max(0.3, 0.095 * (len(labels) + _GAP)) * kinds
    size = style.PAGE if across > 1 else 0.7 * style.PAGE, 0.9 + down * (inches + 0.6)
    figure, axes = plt.subplots(down, across, figsize=size, squeeze=False)
    style.set_title(figure, title)
    for spare in axes.flat[len(datasets) :]:
        spare.set_axis_off()
    for ax, dataset in zip(axes.flat, datasets, strict=False):
        panel(data[data["dataset"] == dataset], ax, labels)
        ax.set_title(style.wrapped(dataset_name(dataset), 40))
    handles = style.method_handles(labels)
    for handle in handles:
        handle.set_linestyle("-")
    style.legend(figure, handles)
    return figure


FIGURE = Figure(
    name="figure10_kinds",
    title="Figure 10: Gain of each method over none on kinds of clips",
    caption=caption,
    data=data,
    draw=draw,
    missing="No method shares seed, backbone and data set with a run of none where both have predictions.",
    fill=commands.compared,
)

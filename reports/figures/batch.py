"""Figure 2: MS-Mix on one batch, below a diagram of the method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, PathPatch
from matplotlib.path import Path

from backbones.batch import MODALITIES
from harness.train.inspection import correlation
from reports import commands
from reports.figures.latents import load_samples, rounded, sampled_runs
from reports.figures.parts import style
from reports.figures.parts.base import Command, Figure
from reports.names import base_method, proper_name
from reports.runs.study import Study

COLUMNS = ("dataset", "backbone", "seed", "method", "kind", "name", "i", "j", "value")
LOSSES = ("total", "task", "mixed", "penalty", "auxiliary")
LAMBDAS = (*MODALITIES, "label")
_METHOD = "ms_mix"
_INK, _SOFT, _BLANK = "#3c3c3c", "#8c8c8c", "#cfe3f5"

# Box of the diagram -> (left, bottom, width, height) in inches, text, whether it is specific to MS-Mix.
_BOXES = {
    "encode": ((0.02, 0.62, 0.74, 0.42), "encoders\n$z^m$", False),
    "sass": ((0.98, 0.62, 1.10, 0.42), "SASS: alike pairs\n$s_{ij} > \\delta$", True),
    "sig": ((2.30, 0.62, 1.16, 0.42), "SIG: intensities\n$I^m$, ratios $\\lambda^m$", True),
    "mix": ((3.68, 0.62, 1.26, 0.42), "mix\n$\\lambda^m z_i^m + (1-\\lambda^m) z_j^m$", False),
    "fuse": ((5.16, 0.62, 0.62, 0.42), "fusion,\nhead", False),
    "loss": ((6.00, 0.62, 0.72, 0.42), "losses", False),
    "sal": ((2.30, 0.04, 2.64, 0.30), "SAL: KL(softmax $|I^m|$ || softmax $|y|$)", True),
}
_FLOW = (6.74, 1.24)


def batch(study: Study) -> pd.DataFrame:
    """Return the data of Figure 2: a batch of the first MS-Mix run that stores labels and similarities.

    Clips are numbered 0, 1, ... by ascending label. ``value`` for each kind of row:

    - "clip": the label of clip i.
    - "similarity": the similarity of clips i < j.
    - "pair": the similarity of a mixed pair, first member i, second member j, in the order of the mixtures.
    - "intensity": the signed intensity of clip i; name is the modality.
    - "lambda": the weight of the first member of mixture i; name is a modality or "label".
    - "loss": the loss called name, one of ``LOSSES``; penalty is weighted, mixed is not.
    """
    runs = [run for run in sampled_runs(study).to_dict("records") if base_method(run["method"]) == _METHOD]
    for run in sorted(runs, key=lambda run: run["method"] != _METHOD):
        samples = load_samples(study, run["run_id"])
        labels = samples.get("batch_labels", np.empty(0)).astype(float).ravel()
        whole = samples.get("batch_similarity", labels).shape == (len(labels), len(labels))
        if len(labels) >= 2 and np.isfinite(labels).all() and whole:
            common = {name: run[name] for name in COLUMNS[:4]}
            frame = pd.DataFrame([{**common, **row} for row in _rows(samples)], columns=list(COLUMNS))
            frame["value"] = rounded(frame["value"])
            return frame.astype({"i": "Int64", "j": "Int64"})
    return pd.DataFrame(columns=list(COLUMNS))


def _rows(samples: Mapping[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    labels = samples["batch_labels"].astype(float).ravel()
    order = np.argsort(labels, kind="stable")
    place = np.argsort(order)
    similarity = samples["batch_similarity"].astype(float)[np.ix_(order, order)]
    for i, label in enumerate(labels[order]):
        yield {"kind": "clip", "i": i, "value": label}
    for i, j in combinations(range(len(labels)), 2):
        yield {"kind": "similarity", "i": i, "j": j, "value": similarity[i, j]}
    pairs = np.asarray(samples.get("batch_indices", np.empty((0, 2), int)))
    if pairs.ndim == 2 and pairs.shape[1] == 2 and pairs.dtype.kind in "iu":
        # Indices out of range come from a damaged file.
        for i, j in place[pairs[((pairs >= 0) & (pairs < len(labels))).all(1)]]:
            yield {"kind": "pair", "i": i, "j": j, "value": similarity[i, j]}
    for name in MODALITIES:
        values = samples.get(f"batch_intensity_{name}", np.empty(0))
        if values.shape == labels.shape:
            yield from ({"kind": "intensity", "name": name, "i": i, "value": v}
                        for i, v in enumerate(values[order]))  # fmt: skip
    for name in LAMBDAS:
        values = samples.get(f"batch_lambda_{name}", np.empty(0)).ravel()
        yield from ({"kind": "lambda", "name": name, "i": i, "value": v} for i, v in enumerate(values))
    losses = samples.get("batch_losses", np.empty(0))
    if losses.shape == (len(LOSSES),):
        yield from ({"kind": "loss", "name": n, "value": v} for n, v in zip(LOSSES, losses, strict=True))


def caption(data: pd.DataFrame) -> str:
    """Return the caption of Figure 2."""
    if data.empty:
        return ""
    first, pairs, losses = data.iloc[0], _kind(data, "pair"), _kind(data, "loss").set_index("name")["value"]
    clips = _kind(data, "clip")["value"].to_numpy(float)
    distinct = len({tuple(sorted(pair)) for pair in pairs[["i", "j"]].to_numpy(int).tolist()})
    text = (
        f"{proper_name(first.method)} ({proper_name(first.dataset)}, {proper_name(first.backbone)}, seed "
        f"{first.seed}) on one batch of {len(clips)} "
        "training clips, with the best weights after training. (a) Diagram of the method; shaded: its three "
        "components. (b) Similarity of latents, to which SASS applies its threshold; clips are sorted by "
        f"label, and the diagonal is blank. Marks: the {len(pairs)} mixed pairs ({distinct} of them "
        "distinct), first member by row"
    )
    if len(pairs):
        signs = np.sign(clips)[pairs[["i", "j"]].to_numpy(int)]
        text += (
            f"; their lowest similarity is {pairs['value'].min():.2f}, and "
            f"{(signs.prod(1) < 0).mean():.0%} have labels of opposite signs. "
        )
    else:
        text += ". "
    text += (
        "(c) Intensity |I^m| of each clip against |y|, with Pearson's r. (d) Weights of the first member of "
        "each pair; bar: the median. (e) Losses of this batch; the mixed loss is shown without its weight "
        "xi1, the penalty with all its weights"
    )
    if len(losses):
        text += f"; the total is {losses['total']:.2f}, of which the backbone adds {losses['auxiliary']:.2f}"
    return text + ". This is an example of one batch of one network (n = 1 seed), not evidence."


def draw(data: pd.DataFrame, title: str, command: Command) -> Drawing:
    """Draw the diagram above, and similarities, intensities, weights and losses below."""
    figure = plt.figure(figsize=(style.PAGE, 5.4))
    grid = figure.add_gridspec(2, 2, height_ratios=(1.24, 3.1), width_ratios=(1, 1.1))
    right = grid[1, 1].subgridspec(2, 1)
    above, below = right[0].subgridspec(1, 3), right[1].subgridspec(1, 2, width_ratios=(2, 1))
    _flow(figure.add_subplot(grid[0, :]))
    _matrix(figure.add_subplot(grid[1, 0]), data)
    intensities, clips = _kind(data, "intensity"), _kind(data, "clip")["value"].to_numpy(float)
    shared: Axes | None = None
    for column, modality in enumerate(MODALITIES):
        ax = figure.add_subplot(above[column], sharex=shared, sharey=shared)
        shared = shared or ax
        rows = intensities[intensities["name"] == modality]
        if rows.empty:
            style.say(ax, "not recorded")
        else:
            _intensity(ax, rows, clips[rows["i"].to_numpy(int)], modality)
    for place, (kind, panel) in zip(below, (("lambda", _lambdas), ("loss", _losses)), strict=True):
        ax, rows = figure.add_subplot(place), _kind(data, kind)
        if rows.empty:
            style.say(ax, "not recorded")
        else:
            panel(ax, rows)
    handles = [Line2D([], [], color=shade, marker="o", linestyle="none", label=f"{name} label")
               for name, shade in style.POLARITY.items()]  # fmt: skip
    handles.append(Line2D([], [], color=style.colour(_METHOD), marker="s", linestyle="none",
                          markerfacecolor="none", label="mixed pair"))  # fmt: skip
    style.legend(figure, handles)
    style.set_title(figure, title)
    return figure


def _kind(data: pd.DataFrame, kind: str) -> pd.DataFrame:
    return data[data["kind"] == kind]


def _flow(ax: Axes) -> None:
    """Draw the boxes and arrows of the method."""
    ax.set(xlim=(0, _FLOW[0]), ylim=(0, _FLOW[1]))
    ax.set_axis_off()
    ax.set_title("(a) flow of MS-Mix", loc="left", pad=2)
    shade = style.colour(_METHOD)
    corners = "round,pad=0,rounding_size=0.05"
    for (left, bottom, width, height), text, own in _BOXES.values():
        face, edge = (style.lighter(shade, 0.85), shade) if own else ("white", _INK)
        ax.add_patch(FancyBboxPatch((left, bottom), width, height, boxstyle=corners, facecolor=face,
                                    edgecolor=edge, linewidth=0.8))  # fmt: skip
        ax.text(left + width / 2, bottom + height / 2, text, ha="center", va="center", fontsize=7)
    edges = {name: (x, y, x + w, y + h) for name, ((x, y, w, h), _, _) in _BOXES.items()}
    middle = {name: ((x + right) / 2, (y + top) / 2) for name, (x, y, right, top) in edges.items()}
    for start, end in pairwise(("encode", "sass", "sig", "mix", "fuse", "loss")):
        _arrow(ax, (edges[start][2], middle[start][1]), (edges[end][0], middle[end][1]))
    above, below = _FLOW[1] - 0.06, middle["sal"][1]
    _arrow(ax, (middle["sig"][0], edges["sig"][1]), (middle["sig"][0], edges["sal"][3]))
    _arrow(ax, (edges["sal"][2], below), (middle["loss"][0], below), (middle["loss"][0], edges["loss"][1]))
    _arrow(ax, (middle["encode"][0], edges["encode"][3]), (middle["encode"][0], above),
           (middle["fuse"][0], above), (middle["fuse"][0], edges["fuse"][3]))  # fmt: skip
    plate = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    for x, y, text in ((3.2, above, "clean $z^m$, $y$"), (5.6, below, "penalty")):
        ax.text(x, y, text, ha="center", va="center", fontsize=6.5, bbox=plate)


def _arrow(ax: Axes, *points: tuple[float, float]) -> None:
    """Draw an arrow through all points."""
    if len(points) > 2:
        ax.add_patch(PathPatch(Path(points[:-1]), fill=False, edgecolor=_INK, linewidth=0.8))
    ax.add_patch(FancyArrowPatch(*points[-2:], arrowstyle="-|>", mutation_scale=7, shrinkA=0, shrinkB=0,
                                 linewidth=0.8, color=_INK))  # fmt: skip


def _matrix(ax: Axes, data: pd.DataFrame) -> None:
    """Draw the similarity matrix of clips sorted by label, and mark mixed pairs."""
    clips = _kind(data, "clip")["value"].to_numpy(float)
    known, pairs = _kind(data, "similarity"), _kind(data, "pair")
    i, j = known[["i", "j"]].to_numpy(int).T
    matrix = np.full((len(clips), len(clips)), np.nan)
    matrix[i, j] = matrix[j, i] = known["value"]
    ax.set_facecolor(_BLANK)
    image = ax.imshow(np.ma.masked_invalid(matrix), cmap="Greys", interpolation="nearest", rasterized=True)
    colours = ax.figure.colorbar(image, ax=ax, shrink=0.8, pad=0.02, location="bottom")
    colours.set_label("similarity")
    side, line = max(5.0, 72 * 2.7 / len(clips)), style.colour(_METHOD)
    ax.scatter(pairs["j"].astype(float), pairs["i"].astype(float), s=(0.85 * side) ** 2, marker="s",
               facecolors="none", edgecolors=line, linewidths=1)  # fmt: skip
    at = np.unique(np.linspace(0, len(clips) - 1, min(6, len(clips))).round().astype(int))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks(at, [f"{clips[k]:.1f}".replace("-", "\u2212") for k in at])
    ax.set(xlabel="label of the second clip", ylabel="label of the first clip")
    ax.set_title("(b) similarity and mixed pairs", loc="left", pad=3)


def _intensity(ax: Axes, rows: pd.DataFrame, labels: np.ndarray, modality: str) -> None:
    """Draw the predicted intensity of each clip against the absolute value of its label."""
    x, y = np.abs(labels), np.abs(rows["value"].to_numpy(float))
    shades = [style.POLARITY[style.polarity(label)] for label in labels]
    ax.scatter(x, y, s=8, c=shades, linewidths=0, alpha=0.8, rasterized=True)
    r = correlation(x, y)
    text = f"r = {r:.2f}".replace("-", "\u2212") if np.isfinite(r) else "r undefined"
    ax.set_title(f"{modality}\n{text}", fontsize=7, pad=3)
    ax.set_xlabel("$|y|$")
    ax.tick_params(labelleft=modality == MODALITIES[0])
    if modality == MODALITIES[0]:
        ax.set_ylabel("(c) intensity $|I^m|$")


def _lambdas(ax: Axes, rows: pd.DataFrame) -> None:
    """Draw the weights of the first members: a point per pair, a bar at the median."""
    for place, name in enumerate(LAMBDAS):
        values = np.sort(rows.loc[rows["name"] == name, "value"].to_numpy(float))
        if not len(values):
            continue
        # A deterministic vertical jitter separates similar values.
        height = place + 0.5 * ((np.arange(len(values)) * 0.618034) % 1 - 0.5)
        ax.scatter(values, height, s=6, color=_SOFT, alpha=0.7, linewidths=0, rasterized=True)
        median = [np.median(values)] * 2
        ax.plot(median, [place - 0.36, place + 0.36], color=style.colour(_METHOD), linewidth=1.6)
    ax.set_yticks(range(len(LAMBDAS)), LAMBDAS)
    ax.set(xlim=(-0.02, 1.02), ylim=(len(LAMBDAS) - 0.5, -0.5), xlabel="weight of the first member")
    ax.set_title("(d) mixing weights $\\lambda$", loc="left", pad=3)


def _losses(ax: Axes, rows: pd.DataFrame) -> None:
    """Draw the three losses of the batch as bars with their values."""
    values = rows.set_index("name")["value"].reindex(["task", "mixed", "penalty"]).to_numpy(float)
    bars = ax.bar(range(3), values, width=0.6, color=[_SOFT, style.lighter(style.colour(_METHOD), 0.3), _INK])
    ax.bar_label(bars, [f"{v:.2f}" for v in values], fontsize=7, padding=1)
    ax.set_xticks(range(3), ["task", "mixed", "penalty"], rotation=30, ha="right", rotation_mode="anchor")
    ax.margins(x=0.15, y=0.15)
    ax.set_title("(e) losses", loc="left", pad=3)


FIGURE = Figure(
    name="figure2_ms_mix",
    title="Figure 2: MS-Mix on one batch",
    caption=caption,
    data=batch,
    draw=draw,
    missing="No finished run of MS-Mix stores a sampled batch.",
    fill=lambda study: commands.sampled(study, _METHOD),
)

"""Figure 3: t-SNE of clean and mixed latents of MS-Mix and PowMix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D
from threadpoolctl import threadpool_limits

from reports import commands
from reports.figures.latents import KINDS, PLACE, load_samples, rounded, sampled_runs
from reports.figures.parts import style
from reports.figures.parts.base import Command, Figure
from reports.figures.projection import bounded_perplexity, scaling, stacked, standardised, tsne
from reports.names import proper_name
from reports.runs.study import Study

COLUMNS = ("dataset", "backbone", "seed", "method", "kind", "x", "y", "label", "perplexity")
PREFERRED = ("ms_mix", "powmix")
MOST = 512
"""Maximum number of points of each kind that are embedded."""


def embedded(study: Study) -> pd.DataFrame:
    """Return the data of Figure 3: a row per latent of at most two methods that mix.

    The data set, backbone and seed are those with the most of ``PREFERRED``; another method replaces a
    preferred one without mixed latents.
    """
    runs = sampled_runs(study)
    preferred = runs["method"].isin(PREFERRED).astype(int).groupby([runs[name] for name in PLACE], sort=False)
    for place in preferred.sum().sort_values(ascending=False, kind="stable").index:
        here = runs[(runs[PLACE] == list(place)).all(axis=1)]
        ranks = [PREFERRED.index(m) if m in PREFERRED else len(PREFERRED) for m in here["method"]]
        rows = here.iloc[np.argsort(ranks, kind="stable")].to_dict("records")
        parts: list[pd.DataFrame] = []
        for start in range(0, len(rows), 2):
            parts += _embed_together(study, rows[start : start + 2]) if len(parts) < 2 else []
        if parts:
            return pd.concat(parts[:2], ignore_index=True)[list(COLUMNS)]
    return pd.DataFrame(columns=list(COLUMNS))


def _embed_together(study: Study, rows: Sequence[dict[Any, Any]]) -> list[pd.DataFrame]:
    """Return the points of those of the runs that have some, each embedded in a thread of its own."""
    samples = [load_samples(study, row["run_id"]) for row in rows]
    # The limit holds for the whole process, so it must not end while another thread computes.
    with threadpool_limits(1), ThreadPoolExecutor() as threads:
        points = list(threads.map(_embed, samples))
    return [
        part.assign(**{name: row[name] for name in COLUMNS[:4]})
        for row, part in zip(rows, points, strict=True)
        if len(part)
    ]


def _embed(samples: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Return a run's points, clean ones first; empty without mixed latents or with too few for t-SNE."""
    rows = {kind: [array[:MOST] for array in stacked(samples, kind)] for kind in KINDS}
    clean, mixed = rows["clean"][0], rows["mixed"][0]
    points = tsne(standardised(np.vstack([clean, mixed]), *scaling(clean))) if len(mixed) else mixed
    if not len(points):
        return pd.DataFrame()
    return pd.DataFrame(
        {
            "kind": np.repeat(KINDS, [len(clean), len(mixed)]),
            "x": rounded(points[:, 0]),
            "y": rounded(points[:, 1]),
            "label": rounded(np.concatenate([rows[kind][1] for kind in KINDS])),
            "perplexity": rounded([bounded_perplexity(len(points))])[0],
        }
    )


def caption(data: pd.DataFrame) -> str:
    """Return the caption of Figure 3."""
    if data.empty:
        return ""
    first = data.iloc[0]
    counts = [
        f"{proper_name(str(method))}: n = {(rows['kind'] == 'clean').sum()} clean, "
        f"{(rows['kind'] == 'mixed').sum()} mixed, perplexity {rows['perplexity'].iloc[0]:.3g}"
        for method, rows in data.groupby("method", sort=False)
    ]
    return (
        f"Clean and mixed latents of training clips of {proper_name(first.dataset)} under "
        f"{proper_name(first.backbone)}, seed "
        f"{first.seed} ({'; '.join(counts)}). Each method has one t-SNE of its clean and mixed latents "
        "together: the vectors of text, audio and vision are concatenated and standardised by the clean "
        "latents. It is initialised with the first two principal components and uses a fixed seed. Colour: "
        "sign of the label, for mixed latents of the mixed label; mixed latents are light with an outline. "
        "t-SNE preserves neighbourhoods; distances between groups, their sizes and densities, and directions "
        "have no meaning, and panels cannot be compared point by point. One network per method (n = 1 seed)."
    )


def draw(data: pd.DataFrame, title: str, command: Command) -> Drawing:
    """Draw a panel per method, without axes, because they have no units."""
    methods = list(dict.fromkeys(data["method"]))
    wide = style.PAGE if len(methods) > 1 else style.COLUMN
    figure, grid = plt.subplots(1, len(methods), squeeze=False, figsize=(wide, 3.9))
    for ax, method in zip(grid.flat, methods, strict=True):
        _panel(ax, data[data["method"] == method])
        ax.set_title(style.wrapped(method), pad=3)
    handles = [_dot(name, mixed) for name in style.POLARITY for mixed in (False, True)]
    style.legend(figure, handles)
    style.set_title(figure, title)
    return figure


def _panel(ax: Axes, rows: pd.DataFrame) -> None:
    signs = np.array([style.polarity(label) for label in rows["label"]])
    for mixed in (False, True):
        for name in style.POLARITY:
            here = rows[(signs == name) & (rows["kind"] == KINDS[mixed]).to_numpy()]
            ax.scatter(here["x"], here["y"], s=9, rasterized=True, **_look(name, mixed))
    ax.set(xticks=[], yticks=[])
    ax.set_aspect("equal", adjustable="datalim")
    for spine in ax.spines.values():
        spine.set(visible=True, color="#bbbbbb")


def _look(name: str, mixed: bool) -> dict[str, Any]:
    shade = style.POLARITY[name]
    if not mixed:
        return {"facecolors": shade, "edgecolors": "none", "linewidths": 0.0}
    return {
        "facecolors": style.lighter(shade, 0.75),
        "edgecolors": style.lighter(shade, 0.25),
        "linewidths": 0.5,
    }


def _dot(name: str, mixed: bool) -> Line2D:
    look = _look(name, mixed)
    return Line2D([], [], linestyle="none", marker="o", markersize=4, markerfacecolor=look["facecolors"],
                  markeredgecolor=look["edgecolors"], markeredgewidth=look["linewidths"],
                  label=f"{KINDS[mixed]}, {name}")  # fmt: skip


FIGURE = Figure(
    name="figure3_tsne",
    title="Figure 3: t-SNE of clean and mixed latents",
    caption=caption,
    data=embedded,
    draw=draw,
    missing="No finished run of a mixing method has stored latents that can be read.",
    fill=lambda study: commands.sampled(study, *PREFERRED),
    beside=True,
)

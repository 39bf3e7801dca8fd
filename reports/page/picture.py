"""The chart at the top of the page: each method's gain over `none`, pooled over backbones, per data set.

`pictures` computes places in pixels; the template draws them as SVG, and the page's script shows the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from reports.names import METRIC_NAMES, dataset_name, method_name, signed
from reports.runs.study import Study
from reports.stats.comparison import BASELINE, clean, paired
from reports.tables.seed_means import place

WIDTH, NAMES, EDGE = 640, 150, 12
"""Pixels of a picture, of its column of names, and of its right edge."""
HEADING, AXIS, ROWS = 22, 34, (14, 22)
MOST_HEIGHT = 430
"""Pixels that a picture may have, so that it fits on the first screen, unless its rows get too small."""
_WIDEST = 3
"""Half the length of the axis, at most, in multiples of the largest gain."""


@dataclass(frozen=True)
class Mark:
    """One gain. y, x: of its point. thin, thick: ends of the intervals for other and for these clips, or
    None; dots: x of single seeds; said: its numbers; link: address of its runs."""

    name: str
    verdict: str
    y: float
    x: float
    thin: tuple[float, float] | None
    thick: tuple[float, float] | None
    dots: Sequence[float]
    said: str
    link: str


@dataclass(frozen=True)
class Picture:
    """The gains in one metric. ticks: x and text. headings: y and text; zero: x of no gain."""

    metric: str
    name: str
    height: float
    marks: Sequence[Mark]
    ticks: Sequence[tuple[float, str]]
    headings: Sequence[tuple[float, str]]
    zero: float


def pictures(study: Study, gains: pd.DataFrame, order: Sequence[str] = ()) -> list[Picture]:
    """Return a picture per metric that has gains. gains: see `reports.page.summary.compare_methods`."""
    gains = gains[gains["baseline"] == BASELINE]
    metrics = list(dict.fromkeys(gains["metric"]))
    return [_picture(study, gains[gains["metric"] == metric], metric, order) for metric in metrics]


def _picture(study: Study, gains: pd.DataFrame, metric: str, order: Sequence[str]) -> Picture:
    rows = sorted(
        gains.to_dict("records"), key=lambda row: (place(row["dataset"], order), place(row["method"], order))
    )
    seeds = _seed_gains(study, metric)
    ends = _limits(gains, [dot for dots in seeds.values() for dot in dots])
    scale = _scale(*ends)
    datasets = list(dict.fromkeys(row["dataset"] for row in rows))
    left = MOST_HEIGHT - AXIS - HEADING * len(datasets)
    step = min(max(left / max(1, len(rows)), ROWS[0]), ROWS[1])
    marks, headings, y = [], [], 0.0
    for dataset in datasets:
        y += HEADING
        headings.append((y - 6, dataset_name(dataset)))
        for row in (row for row in rows if row["dataset"] == dataset):
            y += step
            dots = seeds.get((dataset, row["method"]), [])
            marks.append(_mark(study, row, metric, y - step / 2, scale, dots))
    ticks = [(scale(value), f"{value:+g}" if value else "0") for value in _ticks(*ends)]
    return Picture(metric, METRIC_NAMES[metric], round(y + AXIS), marks, ticks, headings, scale(0.0))


def _mark(
    study: Study,
    row: Mapping[Any, Any],
    metric: str,
    y: float,
    scale: Callable[[float], float],
    dots: Sequence[float],
) -> Mark:
    thin, thick = (
        None if math.isnan(row[low]) else (scale(row[low]), scale(row[high]))
        for low, high in (("low", "high"), ("low_seeds", "high_seeds"))
    )
    name = method_name(row["method"])
    said = " ".join(_said(row, name, METRIC_NAMES[metric]))
    link = study.links.behind({"dataset": row["dataset"], "method": row["method"]})
    places = [scale(dot) for dot in dots]
    return Mark(name, row["verdict"], round(y, 1), scale(row["gain"]), thin, thick, places, said, link)


def _said(row: Mapping[Any, Any], name: str, metric: str) -> Iterator[str]:
    """Yield the numbers of a gain in words."""
    where = f"{name} on {dataset_name(row['dataset'])}"
    yield f"{where}: gain in {metric} {signed(row['gain'])}, {row['verdict']}."
    for ends, what in ((("low", "high"), "other clips"), (("low_seeds", "high_seeds"), "these clips")):
        low, high = (row[end] for end in ends)
        if not math.isnan(low):
            yield f"95% for {what}: {signed(low)} to {signed(high)}."
    seeds, strata = row["seeds"], row["strata"]
    yield f"{row['n']} pairs: {seeds} seed{'s' * (seeds != 1)}, {strata} backbone{'s' * (strata != 1)}."


def _seed_gains(study: Study, metric: str) -> dict[tuple[str, str], list[float]]:
    """Return (dataset, method) -> the gain of each seed, a mean over the backbones."""
    pairs = paired(clean(study.scores()), metric)
    means = pairs.groupby(["dataset", "method", "seed"], observed=True)["gain"].mean()
    return {
        (str(dataset), str(method)): part.tolist()
        for (dataset, method), part in means.groupby(["dataset", "method"], observed=True)
    }


def _limits(gains: pd.DataFrame, dots: Sequence[float]) -> tuple[float, float]:
    """Return the ends of the axis; intervals that are far longer than the gains are cut."""
    most = float(gains["gain"].abs().max()) or 1.0
    columns = gains[["gain", "low", "high", "low_seeds", "high_seeds"]].to_numpy(float)
    ends = np.clip(np.append(columns, dots), -_WIDEST * most, _WIDEST * most)
    low, high = min(float(np.nanmin(ends)), 0.0), max(float(np.nanmax(ends)), 0.0)
    # If all gains are 0, any axis around 0 will do.
    margin = 0.04 * (high - low) or most
    return low - margin, high + margin


def _scale(low: float, high: float) -> Callable[[float], float]:
    """Return a function from gains to x, which moves what lies beyond the axis to its end."""
    wide = WIDTH - NAMES - EDGE

    def place_of(value: float) -> float:
        share = (min(max(value, low), high) - low) / (high - low)
        return round(NAMES + wide * share, 1)

    return place_of


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers between the ends."""
    rough = (high - low) / 5
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    return [float(f"{step * k:.6g}") for k in range(math.ceil(low / step), math.floor(high / step) + 1)]

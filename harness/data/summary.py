"""Summary of a dataset as text: tables of splits, modalities and labels, then the notes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from backbones.batch import MODALITIES
from harness.data.dataset import Dataset, Split
from harness.data.standardize import feature_scale, scale_notes

BINS = 6  # of the histogram of labels
BAR = 16  # characters of its longest bar
_SPLITS = ("split", "clips", "videos", "labels", "mean", "std")
_FEATURES = (
    "features",
    "split",
    "steps",
    "width",
    "min",
    "median",
    "max",
    "non-zero",
    "values",
    "magnitudes",
)


def summary_lines(dataset: Dataset) -> list[str]:
    """Describe a dataset: clips and labels per split, modalities per split, a histogram, and the notes.

    "min", "median" and "max" are lengths in steps; "non-zero" is the share of clips with a non-zero value.
    """
    splits = dataset.splits.items()
    features = [_features(m, name, split) for m in MODALITIES for name, split in splits]
    return [
        *_table([_SPLITS, *(_labels(name, split) for name, split in splits)]),
        "",
        *_table([_FEATURES, *features], left=2),
        "",
        *_table(_histogram(dataset), left=1 + len(dataset.splits)),
        "",
        *(f"note: {note}" for note in (*dataset.notes, *scale_notes(dataset))),
    ]


def _labels(name: str, split: Split) -> list[str]:
    videos, y = split.videos(), split.labels.astype(np.float64)
    known = "?" if videos is None else str(videos)
    span = f"{y.min():g} to {y.max():g}"
    return [name, str(len(split)), known, span, f"{y.mean():.3f}", f"{y.std():.3f}"]


def _features(m: str, name: str, split: Split) -> list[str]:
    values, lengths = split.features[m], split.lengths[m]
    scale = feature_scale(split, m)
    sizes = [values.shape[1], values.shape[2], lengths.min(), np.median(lengths), lengths.max()]
    return [
        *(m, name, *(f"{size:g}" for size in sizes)),
        f"{np.any(values, axis=(1, 2)).mean():.1%}",
        f"{scale.low.min():.3g} to {scale.high.max():.3g}",
        f"{scale.magnitude.min():.2g} to {scale.magnitude.max():.2g}",
    ]


def _histogram(dataset: Dataset) -> list[list[str]]:
    """Count the labels of each split in equal intervals of the scale, with a bar for each count."""
    low, high = dataset.label_center - dataset.label_scale, dataset.label_center + dataset.label_scale
    edges = np.linspace(low, high, BINS + 1)
    columns = []
    for split in dataset.splits.values():
        # Compared in float64: rounding the edges to float32 could leave the largest label out.
        counts, _ = np.histogram(np.clip(split.labels.astype(np.float64), low, high), edges)
        columns.append([f"{'#' * round(BAR * n / max(1, counts.max())):<{BAR}} {n}" for n in counts.tolist()])
    names = [f"{a:g} to {b:g}" for a, b in itertools.pairwise(edges.tolist())]
    return [["labels", *dataset.splits], *([*row] for row in zip(names, *columns, strict=True))]


def _table(rows: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    """Align the columns of a table, the first ``left`` ones to the left and the others to the right."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]

"""Gains in MAE by clip and by kind of clips: which clips a method improves. All functions are pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd

from harness.metrics import SIMS_EDGES, binned
from reports.stats.clips import ClipErrors, mean_moves
from reports.stats.comparison import BASELINE, BOUNDS, Clips, overall, paired
from reports.stats.intervals import t_half_width

METRIC = "mae"
COUNTS = ("n", "seeds", "strata")
BY_KIND = ("group", "kind", "clips", "videos", "method", "gain", *BOUNDS, "verdict", *COUNTS)
BY_CLIP = ("method", "clip", "label", "gain", "better", "n")
BY_VIDEO = ("method", "video", "clips", "gain", "low_seeds", "high_seeds", "n")
# Upper bounds of all bins but the last, each of which belongs to its bin, and names of the bins.
_MOSI = (
    (-1.0, -1e-30, 0.0, 1.0),
    ("label up to -1", "label above -1, below 0", "label 0", "label above 0 up to 1", "label above 1"),
)
_SIMS = (
    SIMS_EDGES["acc5"],
    (
        *("label up to -0.7", "label above -0.7 up to -0.1", "label above -0.1 up to 0.1"),
        *("label above 0.1 up to 0.7", "label above 0.7"),
    ),
)
_LABELS = {"mosi": _MOSI, "mosei": _MOSI, "sims": _SIMS}
_THIRDS = {
    "label": ("lowest third of labels", "middle third of labels", "highest third of labels"),
    "length": ("shortest third of texts", "middle third of texts", "longest third of texts"),
}


class ErrorSource(Clips, Protocol):
    """Clips of which the errors of single runs are known, too."""

    def errors(self, dataset: str) -> ClipErrors | None:
        """Return each run's errors on the clean clips of a data set; None without predictions."""


class Kind(NamedTuple):
    """A kind of clips. Shape: members (clips,)."""

    group: str
    name: str
    members: np.ndarray


def kinds_of_clips(kind: str, labels: np.ndarray, lengths: np.ndarray | None = None) -> list[Kind]:
    """Sort clips by label and by length of text, after the kind of all clips; kinds without clips are absent.

    kind: of metrics, a key of ``harness.metrics.METRICS``.

    Shape:
        labels, lengths: (clips,).
    """
    found = [Kind("all", "all clips", np.ones(len(labels), bool))]
    found += _bins("label", labels, *_LABELS[kind]) if kind in _LABELS else _thirds("label", labels)
    found += [] if lengths is None else _thirds("length", lengths)
    return [one for one in found if one.members.any()]


def _bins(group: str, values: np.ndarray, edges: Iterable[float], names: Iterable[str]) -> list[Kind]:
    places = binned(values, tuple(edges))
    return [Kind(group, name, places == k) for k, name in enumerate(names)]


def _thirds(group: str, values: np.ndarray) -> list[Kind]:
    return _bins(group, values, np.quantile(values, (1 / 3, 2 / 3)).tolist(), _THIRDS[group])


def clip_pairs(scores: pd.DataFrame, clips: ClipErrors, baseline: str = BASELINE) -> pd.DataFrame:
    """Return the pairs of `paired` in MAE that have predictions, with ``gains``: (clips,), each clip's gain.

    scores: clean scores of one data set, with the column ``run_id``, too.
    """
    pairs = paired(scores, METRIC, baseline, _Given(clips.errors, np.empty(0)))
    known = np.array([isinstance(gains, np.ndarray) for gains in pairs["moves"]], bool)
    found = pairs[known].rename(columns={"moves": "gains"})
    found.attrs = pairs.attrs
    return found


def gains_by_kind(
    pairs: pd.DataFrame, clips: ClipErrors, kinds: Iterable[Kind], margins: Mapping[str, float] | None = None
) -> pd.DataFrame:
    """Return a row per kind and method: its gain with intervals and verdict, see `overall`.

    Videos are those of the kind's clips; a kind of one video has no interval for other clips. pairs: from
    `clip_pairs`; ``clips`` and ``videos`` count those of the kind.
    """
    gains, parts = _stacked(pairs, clips), [pd.DataFrame(columns=list(BY_KIND))]
    for kind in kinds if len(pairs) else ():
        videos = np.unique(clips.videos[kind.members], return_inverse=True)[1]
        means, moves = mean_moves(gains[:, kind.members], videos)
        own = pairs.assign(gain=means, moves=pd.Series(list(moves), pairs.index, object))
        own.attrs = pairs.attrs
        rows = overall(own, _Given({}, np.bincount(videos) / len(videos)), margins)
        counts = {"clips": len(videos), "videos": int(videos.max()) + 1}
        parts.append(rows.assign(group=kind.group, kind=kind.name, **counts)[list(BY_KIND)])
    return pd.concat(parts[1:] or parts, ignore_index=True)


def gains_by_clip(pairs: pd.DataFrame, clips: ClipErrors) -> pd.DataFrame:
    """Return a row per method and clip: the mean over backbones of its mean gain over seeds.

    ``better`` counts those of the ``n`` pairs in which the method's error on the clip is lower.
    """
    gains, parts = _stacked(pairs, clips), [pd.DataFrame(columns=list(BY_CLIP))]
    methods, backbones = pairs["method"].to_numpy(), pairs["backbone"].to_numpy()
    for method in sorted(set(methods)):
        own = methods == method
        strata = [gains[own & (backbones == name)].mean(axis=0) for name in sorted(set(backbones[own]))]
        columns = {"method": method, "clip": clips.ids, "label": clips.labels, "n": int(own.sum())}
        columns |= {"gain": np.mean(strata, axis=0), "better": (gains[own] > 0).sum(axis=0)}
        parts.append(pd.DataFrame(columns)[list(BY_CLIP)])
    return pd.concat(parts[1:] or parts, ignore_index=True)


def gains_by_video(pairs: pd.DataFrame, clips: ClipErrors) -> pd.DataFrame:
    """Return a row per method and video: mean over backbones of its mean gain over seeds, with an interval.

    The 95% interval holds the clips fixed: Student's t for the mean over backbones with independent seeds.
    It is NaN without two seeds, and without spread. There is none for other clips, since a video is one draw.
    ``video`` is its number in ``clips.videos``.
    """
    sums, sizes = _sums_by_video(_stacked(pairs, clips), clips.videos)
    gains, parts = sums / sizes, [pd.DataFrame(columns=list(BY_VIDEO))]
    methods, backbones = pairs["method"].to_numpy(), pairs["backbone"].to_numpy()
    for method in sorted(set(methods)):
        own = methods == method
        strata = [gains[own & (backbones == name)] for name in sorted(set(backbones[own]))]
        mean = np.mean([part.mean(axis=0) for part in strata], axis=0)
        half = _half_width(strata)
        columns = {"method": method, "video": np.arange(len(sizes)), "clips": sizes, "gain": mean}
        columns |= {"low_seeds": mean - half, "high_seeds": mean + half, "n": int(own.sum())}
        parts.append(pd.DataFrame(columns)[list(BY_VIDEO)])
    return pd.concat(parts[1:] or parts, ignore_index=True)


def _sums_by_video(values: np.ndarray, videos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each video's sum of values and number of clips. Shape: (rows, videos), (videos,)."""
    belongs = videos[:, None] == np.arange(videos.max(initial=-1) + 1)
    return values @ belongs, belongs.sum(axis=0)


def _half_width(strata: list[np.ndarray]) -> np.ndarray:
    """Return half the width of the t interval of the mean over strata of their means; NaN without spread.

    Shape:
        strata: (seeds, columns) each. Output: (columns,).
    """
    spread = [part.var(axis=0, ddof=1) / len(part) for part in strata if len(part) > 1]
    freedom = sum(len(part) - 1 for part in strata)
    if not spread:
        return np.full(strata[0].shape[1], np.nan)
    error = np.sqrt(np.sum(spread, axis=0)) / len(strata)
    # `t_half_width` divides by the root of n and takes n - 1 degrees of freedom.
    half = t_half_width(error * np.sqrt(freedom + 1), np.full(error.shape, freedom + 1))
    return np.where(half > 1e-9, half, np.nan)


def _stacked(pairs: pd.DataFrame, clips: ClipErrors) -> np.ndarray:
    """Return the gains of all pairs. Shape: (pairs, clips)."""
    return np.stack(pairs["gains"].tolist()) if len(pairs) else np.empty((0, len(clips.labels)))


class _Given:
    """Passes errors of clips through `paired` in place of moves, which are as linear, or holds shares."""

    def __init__(self, errors: Mapping[str, np.ndarray], shares: np.ndarray) -> None:
        self._errors, self._shares = errors, shares

    def moves(self, scores: pd.DataFrame, metric: str) -> list[np.ndarray | None]:
        return [self._errors.get(run_id) for run_id in scores["run_id"]]

    def shares(self, dataset: str) -> np.ndarray:
        return self._shares

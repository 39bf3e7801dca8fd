"""Scores of many cells on the same clips, and how far each video moves them.

Every score but Spearman's is a function of sums over clips, so leaving out a video subtracts its part of the
sums. `video_moves` thus equals `harness.metrics.score` on the other clips, without computing it each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from harness.metrics import METRICS, SIMS_EDGES, binned, rounded

# Scores: (cells, 1 + videos), of all clips and of those without each video. Sums: the same shape.
Scores = np.ndarray
_CELLS_AT_ONCE = 256
_SPREAD_OF_NOISE = 1e-12


@dataclass(frozen=True)
class ClipErrors:
    """Absolute errors of runs on the clean clips of a test split.

    by_video: whether ids name videos; else each clip counts as a video.

    Shape:
        ids: (clips,) unicode. labels: (clips,). videos: (clips,), the video of each clip: 0, 1, ...
        errors[run_id]: (clips,).
    """

    ids: np.ndarray
    labels: np.ndarray
    videos: np.ndarray
    by_video: bool
    errors: Mapping[str, np.ndarray]


class _Sums:
    """Sums of clipwise values over all clips, and over all clips but one video's."""

    def __init__(self, groups: np.ndarray) -> None:
        self._order = np.argsort(groups, kind="stable")
        self._starts = np.flatnonzero(np.diff(groups[self._order], prepend=-1))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Sum values of shape (cells, clips) or (clips,)."""
        values = np.atleast_2d(values)[:, self._order].astype(np.float64)
        parts = np.add.reduceat(values, self._starts, axis=1)
        total = values.sum(axis=1, keepdims=True)
        return np.concatenate([total, total - parts], axis=1)


def video_moves(
    kind: str, metric: str, predictions: np.ndarray, labels: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return a score of each cell, and each video's share in its deviation from the score of all clips.

    The move of a video that holds the share w of the clips is (1 - w) times the difference between the
    score of all clips and that of the others. For a mean over clips it is w times the deviation of the
    video's mean.

    Shape:
        predictions: (cells, clips). labels: (clips,). groups: (clips,), the video of each clip: 0, 1, ...
        Output: scores (cells,), moves (cells, videos); NaN where undefined.

    Raises:
        ValueError: if ``METRICS[kind]`` lacks the metric.
    """
    if metric not in METRICS[kind]:
        raise ValueError(f"{metric} is not among the metrics of {kind}")
    sums, labels = _Sums(groups), labels.astype(np.float64)
    parts = []
    for start in range(0, len(predictions), _CELLS_AT_ONCE):
        block = predictions[start : start + _CELLS_AT_ONCE].astype(np.float64)
        # A video may hold all clips, and scores of the others are undefined then.
        with np.errstate(invalid="ignore", divide="ignore"):
            parts.append(_scores(kind, metric, block, labels, groups, sums))
    count = sums(np.ones(len(labels)))
    return _with_moves(np.concatenate(parts) if parts else np.empty((0, count.shape[1])), count)


def mean_moves(values: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return means over clips, and each video's move of them, see `video_moves`.

    Shape:
        values: (rows, clips). groups: (clips,). Output: means (rows,), moves (rows, videos).
    """
    sums = _Sums(groups)
    count = sums(np.ones(len(groups)))
    with np.errstate(invalid="ignore", divide="ignore"):
        return _with_moves(sums(values) / count, count)


def absolute_errors(kind: str, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the errors of which the MAE of this kind of metrics is the mean. Shape: (..., clips)."""
    predictions, labels = (_on_scale(kind, values.astype(np.float64)) for values in (predictions, labels))
    return np.abs(predictions - labels)


def _with_moves(scores: Scores, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return scores of all clips, and moves. count: clips of all, and of all but each video."""
    others = count[0, 1:] / count[0, 0]
    return scores[:, 0], others * (scores[:, :1] - scores[:, 1:])


def _on_scale(kind: str, values: np.ndarray) -> np.ndarray:
    return np.clip(values, -1, 1) if kind == "sims" else values


def _scores(
    kind: str, metric: str, predictions: np.ndarray, labels: np.ndarray, groups: np.ndarray, sums: _Sums
) -> Scores:
    predictions, labels = _on_scale(kind, predictions), _on_scale(kind, labels)
    if metric in _ERRORS:
        return _ERRORS[metric](predictions, labels, sums)
    if metric == "spearman":
        return np.stack(list(_rank_correlations(predictions, labels, groups)), axis=1)
    name, _, part = metric.partition("_")
    if metric == "acc2_non0" or metric == "f1_non0":
        rated = labels != 0
        return _two_classes(name, labels > 0, predictions > 0, rated, sums)
    everything = np.ones(len(labels), bool)
    if part == "has0":
        return _two_classes(name, labels >= 0, predictions >= 0, everything, sums)
    if name == "f1":
        truth, guess = (binned(x, SIMS_EDGES["acc2"]) == 1 for x in (labels, predictions))
        return _two_classes(name, truth, guess, everything, sums)
    if kind == "sims":
        truth, guess = (binned(x, SIMS_EDGES[metric]) for x in (labels, predictions))
    else:
        truth, guess = (rounded(x, {"acc5": 2, "acc7": 3}[metric]) for x in (labels, predictions))
    return sums(truth == guess) / sums(everything)


def _two_classes(name: str, truth: np.ndarray, guess: np.ndarray, counted: np.ndarray, sums: _Sums) -> Scores:
    """Return accuracy or weighted F1 of two classes over the clips that count."""
    count, true = sums(counted), sums(truth & counted)
    guessed, both = sums(guess & counted), sums(guess & truth & counted)
    other_both = count - true - guessed + both
    if name != "f1":
        return (both + other_both) / count
    total = np.zeros(np.broadcast_shapes(count.shape, guessed.shape))
    for support, hits, called in ((true, both, guessed), (count - true, other_both, count - guessed)):
        total += support * np.where(support > 0, 2 * hits / (support + called), 0)
    return total / count


def _mae(predictions: np.ndarray, labels: np.ndarray, sums: _Sums) -> Scores:
    return sums(np.abs(predictions - labels)) / sums(np.ones(len(labels)))


def _rmse(predictions: np.ndarray, labels: np.ndarray, sums: _Sums) -> Scores:
    return np.sqrt(sums(np.square(predictions - labels)) / sums(np.ones(len(labels))))


def _moments(
    predictions: np.ndarray, labels: np.ndarray, sums: _Sums
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return variances of predictions and labels, their covariance, and the difference of their means."""
    shift = labels.mean()
    p, y = predictions - predictions.mean(axis=1, keepdims=True), labels - shift
    count = sums(np.ones(len(labels)))
    mean_p, mean_y = sums(p) / count, sums(y) / count
    var_p, var_y = sums(p * p) / count - mean_p**2, sums(y * y) / count - mean_y**2
    gap = mean_p - mean_y + predictions.mean(axis=1, keepdims=True) - shift
    # Rounding leaves constant values a tiny variance.
    largest = np.maximum(1.0, np.abs(predictions).max(axis=1, keepdims=True)) ** 2
    var_p = np.where(var_p > _SPREAD_OF_NOISE * largest, var_p, np.nan)
    var_y = np.where(var_y > _SPREAD_OF_NOISE * max(1.0, np.abs(labels).max()) ** 2, var_y, np.nan)
    return var_p, var_y, sums(p * y) / count - mean_p * mean_y, gap


def _corr(predictions: np.ndarray, labels: np.ndarray, sums: _Sums) -> Scores:
    var_p, var_y, covariance, _ = _moments(predictions, labels, sums)
    return covariance / np.sqrt(var_p * var_y)


def _ccc(predictions: np.ndarray, labels: np.ndarray, sums: _Sums) -> Scores:
    var_p, var_y, covariance, gap = _moments(predictions, labels, sums)
    # Constant predictions have no variance, but an agreement: 0.
    return 2 * covariance / (np.nan_to_num(var_p) + var_y + gap**2)


def _r2(predictions: np.ndarray, labels: np.ndarray, sums: _Sums) -> Scores:
    _, var_y, _, _ = _moments(predictions, labels, sums)
    return 1 - sums(np.square(predictions - labels)) / sums(np.ones(len(labels))) / var_y


_ERRORS: dict[str, Callable[[np.ndarray, np.ndarray, _Sums], Scores]] = {
    "mae": _mae,
    "rmse": _rmse,
    "corr": _corr,
    "ccc": _ccc,
    "r2": _r2,
}


def _rank_correlations(
    predictions: np.ndarray, labels: np.ndarray, groups: np.ndarray
) -> Iterator[np.ndarray]:
    """Yield Spearman's coefficient of all clips, then without each video. Shape: (cells,) each."""
    # Imported here because importing scipy.stats takes half a second.
    from scipy.stats import rankdata

    for video in range(-1, int(groups.max(initial=-1)) + 1):
        rows = groups != video
        p, y = rankdata(predictions[:, rows], axis=1), rankdata(labels[rows])
        yield _corr(p, y, _Sums(np.zeros(len(y), int)))[:, 0] if len(y) else np.full(len(p), np.nan)

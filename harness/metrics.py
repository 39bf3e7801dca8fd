"""Scores of sentiment analysis, from regression outputs and labels, unrounded.

The definitions are those of MMSA's ``metricsTop`` (github.com/thuiar/MMSA), so that scores are comparable
with published ones. A score that is undefined for the data is NaN, and comes with a reason.

NOTE[DIFF]: MMSA rounds every score to four digits before it averages over seeds; here nothing is rounded.
NOTE[DIFF]: MMSA returns NaN for the correlation of constants, or noise where rounding makes them differ in
the last bits; here both are undefined, with a reason.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from harness.errors import unknown

_MOSI = ("acc2_has0", "f1_has0", "acc2_non0", "f1_non0", "acc5", "acc7", "mae", "corr")
_SIMS = ("acc2", "acc3", "acc5", "f1", "mae", "corr")
_SCORE = ("mae", "rmse", "corr", "spearman", "ccc", "r2")
_LOWER_IS_BETTER = ("mae", "rmse", "loss")

METRICS: dict[str, tuple[str, ...]] = {"mosi": _MOSI, "mosei": _MOSI, "sims": _SIMS, "score": _SCORE}
"""The scores of each kind of data set, in the order of the tables; "score" is without classes."""

DIRECTION: dict[str, int] = {
    name: -1 if name in _LOWER_IS_BETTER else 1 for name in dict.fromkeys((*_MOSI, *_SIMS, *_SCORE, "loss"))
}
"""+1 where higher is better, -1 where lower is better."""

SIMS_EDGES: dict[str, tuple[float, ...]] = {
    "acc2": (0.0,),
    "acc3": (-0.1, 0.1),
    "acc5": (-0.7, -0.1, 0.1, 0.7),
}
"""Upper bounds of all classes but the last; a value on a bound belongs to the class below it."""

# Relative difference between float32 predictions of one clip in batches of different composition.
_SPREAD_OF_NOISE = 1e-6


@dataclass(frozen=True)
class Scores:
    """Metric values by name; ``undefined`` gives the reason for each that is NaN, as a sentence."""

    values: dict[str, float]
    undefined: dict[str, str]


def score(kind: str, predictions: np.ndarray, labels: np.ndarray) -> Scores:
    """Compute the scores ``METRICS[kind]``.

    Shape:
        predictions, labels: (N,), N >= 1, any real dtype, in the data set's own label range.

    Raises:
        UserError: for an unknown kind.
        ValueError: if the arrays do not have this shape or hold a value that is not finite.
    """
    if kind not in METRICS:
        raise unknown("kind of metrics", kind, METRICS)
    predictions = _checked("predictions", predictions)
    labels = _checked("labels", labels)
    if predictions.shape != labels.shape:
        raise ValueError(f"{len(predictions)} predictions cannot be scored against {len(labels)} labels")
    scores = {"sims": _score_sims, "score": _score_regression}.get(kind, _score_mosi)
    return scores(predictions, labels)


def _checked(name: str, values: np.ndarray) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} must have the shape (N,) with N >= 1, got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(
            f"{name} must be finite, got {np.count_nonzero(~np.isfinite(array))} non-finite values"
        )
    return array


def _score_mosi(predictions: np.ndarray, labels: np.ndarray) -> Scores:
    undefined: dict[str, str] = {}
    values = {
        "acc2_has0": _accuracy(labels >= 0, predictions >= 0),
        "f1_has0": _weighted_f1(labels >= 0, predictions >= 0),
    }
    rated = labels != 0
    if rated.any():
        values["acc2_non0"] = _accuracy(labels[rated] > 0, predictions[rated] > 0)
        values["f1_non0"] = _weighted_f1(labels[rated] > 0, predictions[rated] > 0)
    else:
        for name in ("acc2_non0", "f1_non0"):
            values[name] = math.nan
            undefined[name] = "No label differs from 0, so no clip is left to classify."
    values["acc5"] = _accuracy(rounded(labels, 2), rounded(predictions, 2))
    values["acc7"] = _accuracy(rounded(labels, 3), rounded(predictions, 3))
    return _with_regression(values, undefined, predictions, labels)


def _score_sims(predictions: np.ndarray, labels: np.ndarray) -> Scores:
    predictions, labels = np.clip(predictions, -1, 1), np.clip(labels, -1, 1)
    values = {
        name: _accuracy(binned(labels, edges), binned(predictions, edges))
        for name, edges in SIMS_EDGES.items()
    }
    edges = SIMS_EDGES["acc2"]
    values["f1"] = _weighted_f1(binned(labels, edges) == 1, binned(predictions, edges) == 1)
    return _with_regression(values, {}, predictions, labels)


def _score_regression(predictions: np.ndarray, labels: np.ndarray) -> Scores:
    """Return errors and agreement in the labels' own units, without clipping or classes."""
    errors = predictions - labels
    values = {"rmse": float(np.sqrt(np.square(errors).mean()))}
    reasons = {"spearman": _why_no_correlation(predictions, labels)}
    # Constant predictions have no correlation, but an agreement and a share of explained variance.
    reasons |= dict.fromkeys(("ccc", "r2"), _why_constant("labels", labels))
    functions = {"spearman": _rank_correlation, "ccc": _concordance, "r2": _explained_variance}
    for name, reason in reasons.items():
        values[name] = math.nan if reason else functions[name](predictions, labels)
    undefined = {name: reason for name, reason in reasons.items() if reason}
    scores = _with_regression(values, undefined, predictions, labels)
    return Scores({name: scores.values[name] for name in _SCORE}, scores.undefined)


def _rank_correlation(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Return Spearman's coefficient: Pearson's r of the ranks."""
    return _correlation(_ranks(predictions), _ranks(labels))


def _explained_variance(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Return the coefficient of determination, below 0 where the labels' mean predicts better."""
    return float(1 - np.square(predictions - labels).sum() / np.square(labels - labels.mean()).sum())


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks from 1; ties get the mean of their ranks. Shape: (N,) -> (N,) float64."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]


def _concordance(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Return the concordance correlation coefficient (Lin, Biometrics 1989), with variances over N."""
    covariance = ((predictions - predictions.mean()) * (labels - labels.mean())).mean()
    gap = predictions.mean() - labels.mean()
    return float(2 * covariance / (predictions.var() + labels.var() + gap**2))


def _with_regression(
    values: dict[str, float], undefined: dict[str, str], predictions: np.ndarray, labels: np.ndarray
) -> Scores:
    values["mae"] = float(np.abs(predictions - labels).mean())
    reason = _why_no_correlation(predictions, labels)
    values["corr"] = math.nan if reason else _correlation(predictions, labels)
    return Scores(values, {**undefined, "corr": reason} if reason else undefined)


def _accuracy(truth: np.ndarray, guess: np.ndarray) -> float:
    return float((truth == guess).mean())


def _weighted_f1(truth: np.ndarray, guess: np.ndarray) -> float:
    """Return the F1 of both classes, weighted by their support. Shape: (N,) bool, (N,) bool -> float."""
    total = 0.0
    for positive in (False, True):
        support = int((truth == positive).sum())
        hits = int(((truth == positive) & (guess == positive)).sum())
        predicted = int((guess == positive).sum())
        total += support * (2 * hits / (support + predicted)) if support else 0.0
    return total / len(truth)


def rounded(values: np.ndarray, limit: int) -> np.ndarray:
    """Return integer classes after clipping to [-limit, limit]; halves round to the even integer."""
    return np.round(np.clip(values, -limit, limit))


def binned(values: np.ndarray, edges: tuple[float, ...]) -> np.ndarray:
    """Return class indices for right-closed bins."""
    # Labels are stored as float32, in which 0.1 is not the 0.1 of float64: both sides must be float32.
    return np.searchsorted(np.array(edges, dtype=np.float32), values.astype(np.float32), side="left")


def _why_no_correlation(predictions: np.ndarray, labels: np.ndarray) -> str:
    return _why_constant("predictions", predictions) or _why_constant("labels", labels)


def _why_constant(name: str, values: np.ndarray) -> str:
    """Say why values have no variance; empty if they have one."""
    if len(values) < 2:
        return "A correlation needs at least two clips."
    low, high = float(values.min()), float(values.max())
    if high - low < _SPREAD_OF_NOISE * max(1.0, abs(low), abs(high)):
        return f"All {name} are the same ({(low + high) / 2:.4g}), so there is nothing to correlate."
    return ""


def _correlation(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Return Pearson's r of two arrays that are not constant."""
    first, second = _centred(predictions), _centred(labels)
    norms = np.linalg.norm(first) * np.linalg.norm(second)
    return float(np.clip(first @ second / norms, -1, 1))


def _centred(values: np.ndarray) -> np.ndarray:
    """Return deviations from the mean, divided by the largest of them, so that no square overflows."""
    deviations = values - values.mean()
    return deviations / np.abs(deviations).max()

"""Predictions, losses and scores of a network on whole splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from backbones.base import Backbone
from harness.data.occlusion import occlude
from harness.matrix import Cell, ratio_text
from harness.metrics import DIRECTION, METRICS, score
from harness.train.arithmetic import autocast
from harness.train.result import Diverged, Predictions, Result
from harness.train.splits import EVALUATION_BATCH, Splits
from harness.train.state import TrainingState
from harness.train.step import CRITERIA

CURVE, BEST_EPOCH = "test_", "test_best_epoch"
"""Prefix of the curves of the test split, and the group of the best of each."""


@torch.inference_mode()
def predict(
    cell: Cell, backbone: Backbone, splits: Splits, name: str, ratio: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Predict a split in large batches, unshuffled; return predictions and labels, both (N,)."""
    backbone.eval()
    split = splits.resident[name]
    predictions, labels = [], []
    order = np.arange(len(split))
    cuts = range(EVALUATION_BATCH, len(order), EVALUATION_BATCH)
    for index in np.split(order, cuts)[: cell.max_batches]:
        batch = split.take(index)
        if ratio:
            batch = occlude(batch, ratio, splits.fields[name].of(batch, index, cell.granularity))
        with autocast(cell.precision, split.device):
            predictions.append(backbone(batch).to(batch.labels.dtype))
        labels.append(batch.labels)
    return torch.cat(predictions), torch.cat(labels)


def task_loss(backbone: Backbone, predictions: Tensor, labels: Tensor) -> float:
    """Return the mean task criterion over a split. Shape: (N,), (N,) -> scalar."""
    return float(CRITERIA[backbone.settings.criterion](predictions, labels).double().mean())


def in_own_units(cell: Cell, predictions: Tensor, splits: Splits, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return predictions (N,) and labels (N,) in the labels' own units, in which the center need not be 0."""
    own = predictions.cpu().numpy()
    own = own + np.float32(cell.label_center) if cell.label_center else own
    return own, np.asarray(splits.resident[name].split.labels[: len(own)])


def score_test_curve(cell: Cell, backbone: Backbone, splits: Splits) -> dict[str, float]:
    """Return the scores of the test split as points of curves, ``test_mae``; none for infinite predictions.

    They are shown and nothing else: neither the best epoch nor the end of the training depends on them.
    """
    predictions, _ = predict(cell, backbone, splits, "test")
    if not predictions.isfinite().all():
        return {}
    scored = score(cell.metrics, *in_own_units(cell, predictions, splits, "test"))
    return {f"{CURVE}{metric}": value for metric, value in scored.values.items()}


def best_epochs(curves: Mapping[str, Sequence[float]], kind: str) -> dict[str, float]:
    """Return the best point of each curve of `score_test_curve`, each at an epoch of its own."""
    known = {metric: np.array(curves.get(f"{CURVE}{metric}", []), float) for metric in METRICS[kind]}
    finite = {metric: points[np.isfinite(points)] for metric, points in known.items()}
    return {
        metric: float(DIRECTION[metric] * (DIRECTION[metric] * points).max())
        for metric, points in finite.items()
        if len(points)
    }


def final_result(cell: Cell, training: TrainingState, splits: Splits) -> Result:
    """Score the best weights on the validation split, and on the test split at every occlusion ratio."""
    backbone, numbers = training.backbone, training.numbers()
    scores: dict[str, dict[str, float]] = {}
    undefined: dict[str, str] = {}
    values: dict[float, np.ndarray] = {}
    own_labels = np.empty(0)
    for name, ratio in [("valid", 0.0), *(("test", ratio) for ratio in cell.ratios)]:
        key = name if not ratio else f"{name}_r{ratio_text(ratio)}"
        predictions, labels = predict(cell, backbone, splits, name, ratio)
        if not predictions.isfinite().all():
            raise Diverged(
                f"a prediction of the {name} split at occlusion ratio {ratio} is not finite "
                f"(weights of epoch {training.best_epoch})"
            )
        own, own_labels = in_own_units(cell, predictions, splits, name)
        scored = score(cell.metrics, own, own_labels)
        scores[key] = {**scored.values, "loss": task_loss(backbone, predictions, labels)}
        undefined.update({f"{key}/{metric}": reason for metric, reason in scored.undefined.items()})
        if name == "test":
            values[ratio] = own
    if cell.test_curve:
        scores[BEST_EPOCH] = best_epochs(training.curves, cell.metrics)
    ids = splits.resident["test"].split.ids[: len(own_labels)]
    stored = Predictions(np.asarray(ids), own_labels, values)
    return Result("complete", scores, undefined, numbers, training.curves, {}, stored)

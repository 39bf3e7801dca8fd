"""Predictions, losses and scores of a network on whole splits."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from backbones.base import Backbone
from harness.data.occlusion import occlude
from harness.matrix import Cell, ratio_text
from harness.metrics import score
from harness.train.arithmetic import autocast
from harness.train.result import Diverged, Predictions, Result
from harness.train.splits import EVALUATION_BATCH, Splits
from harness.train.state import TrainingState
from harness.train.step import CRITERIA


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
        # Scores and stored predictions are in the labels' own units, in which the center need not be 0.
        own = predictions.cpu().numpy()
        own = own + np.float32(cell.label_center) if cell.label_center else own
        own_labels = np.asarray(splits.resident[name].split.labels[: len(labels)])
        scored = score(cell.metrics, own, own_labels)
        scores[key] = {**scored.values, "loss": task_loss(backbone, predictions, labels)}
        undefined.update({f"{key}/{metric}": reason for metric, reason in scored.undefined.items()})
        if name == "test":
            values[ratio] = own
    ids = splits.resident["test"].split.ids[: len(own_labels)]
    stored = Predictions(np.asarray(ids), own_labels, values)
    return Result("complete", scores, undefined, numbers, training.curves, {}, stored)

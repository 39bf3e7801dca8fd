"""Scores of a trained network: their clips and names."""

import math

import numpy as np
import pytest
import torch

from harness.data.occlusion import occlude
from harness.metrics import score
from harness.train import evaluate
from harness.train.evaluate import final_result, predict, task_loss
from harness.train.loop import start_or_resume
from harness.train.splits import load_splits
from tests.support.builders import make_dataset, make_sizes, small_cell

CPU = torch.device("cpu")
DATASET = make_dataset(make_sizes(), (5, 6, 7))


def trained(**fields):
    """A cell, its training after one epoch, and its splits."""
    cell = small_cell("tfn", "ms_mix", **fields)
    training = start_or_resume(cell, DATASET, CPU, None)
    training.record(1, {"epoch_s": 2.0, "valid_loss": 0.5})
    return cell, training, load_splits(cell, DATASET, CPU)


@pytest.mark.parametrize(("size", "most", "clips"), [(3, None, 7), (7, None, 7), (2, 2, 4), (3, 1, 3)])
def test_predictions_are_of_all_clips_in_order_or_of_the_first_batches(monkeypatch, size, most, clips):
    monkeypatch.setattr(evaluate, "EVALUATION_BATCH", size)
    cell, training, splits = trained(max_batches=most)
    training.backbone.train()
    found, labels = predict(cell, training.backbone, splits, "test")
    assert not training.backbone.training
    batch = splits.resident["test"].take(np.arange(clips))
    torch.testing.assert_close(found, training.backbone(batch).detach())
    assert torch.equal(labels, batch.labels)
    loss = (found - labels).abs() if training.backbone.settings.criterion == "l1" else (found - labels) ** 2
    assert task_loss(training.backbone, found, labels) == pytest.approx(float(loss.mean()))


@pytest.mark.parametrize("granularity", ["frame", "entry"])
def test_occluded_clips_have_the_masks_of_their_split(monkeypatch, granularity):
    monkeypatch.setattr(evaluate, "EVALUATION_BATCH", 4)
    cell, training, splits = trained(granularity=granularity)
    found, _ = predict(cell, training.backbone, splits, "test", 0.5)
    index = np.arange(7)
    batch = splits.resident["test"].take(index)
    batch = occlude(batch, 0.5, splits.fields["test"].of(batch, index, granularity))
    torch.testing.assert_close(found, training.backbone(batch).detach())


def test_a_result_has_scores_of_the_validation_split_and_of_each_ratio(monkeypatch):
    cell, training, splits = trained(ratios=(0.0, 0.25, 0.5), max_batches=1)
    monkeypatch.setattr(evaluate, "EVALUATION_BATCH", 6)
    result = final_result(cell, training, splits)
    assert list(result.scores) == ["valid", "test", "test_r0.25", "test_r0.50"]
    for key, ratio in zip(result.scores, (0.0, 0.0, 0.25, 0.5), strict=True):
        name = key.partition("_")[0]
        predictions, labels = predict(cell, training.backbone, splits, name, ratio)
        wanted = score("mosi", predictions.numpy(), labels.numpy()).values
        wanted["loss"] = task_loss(training.backbone, predictions, labels)
        assert result.scores[key] == wanted
        if name == "test":
            np.testing.assert_array_equal(result.predictions.values[ratio], predictions.numpy())
    assert list(result.predictions.values) == [0.0, 0.25, 0.5]
    assert result.predictions.ids.tolist() == [f"test{k}" for k in range(6)]
    np.testing.assert_array_equal(result.predictions.labels, DATASET.splits["test"].labels[:6])
    assert (result.status, result.environment, result.undefined) == ("complete", {}, {})
    assert result.curves == {"epoch_s": [2.0], "valid_loss": [0.5]}
    assert result.cell == training.numbers()
    assert result.cell.keys() == {
        "best_epoch", "train_s", "epoch_s", "parameter_count", "method_parameter_count"}  # fmt: skip
    assert result.cell["epoch_s"] == 2
    assert result.cell["method_parameter_count"] == sum(p.numel() for p in training.method.parameters())


def test_an_undefined_score_comes_with_its_place_and_reason(monkeypatch):
    cell, training, splits = trained(ratios=(0.5,), max_batches=1)
    monkeypatch.setattr(evaluate, "EVALUATION_BATCH", 1)
    result = final_result(cell, training, splits)
    reason = "A correlation needs at least two clips."
    assert result.undefined == {"valid/corr": reason, "test_r0.50/corr": reason}
    assert math.isnan(result.scores["valid"]["corr"])

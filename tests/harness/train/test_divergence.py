"""Messages about a training that diverges, and where it is detected."""

import numpy as np
import pytest
import torch

from harness.train import evaluate, loop
from harness.train.loop import check_weights, run_steps, start_or_resume, train, train_epoch
from harness.train.result import Diverged
from harness.train.splits import load_splits
from harness.train.step import Losses
from tests.support.builders import make_dataset, make_sizes, small_cell

CPU = torch.device("cpu")
DATASET = make_dataset(make_sizes(), (9, 5, 5))
CELL = small_cell("tfn", "ms_mix", rules={"batch_size": 3, "max_epochs": 2})


def parts(cell=CELL):
    """What `train_epoch` takes, but for the epoch."""
    training = start_or_resume(cell, DATASET, CPU, None)
    return cell, training.backbone, training.method, training.optimizer, load_splits(cell, DATASET, CPU)


@pytest.mark.parametrize(("step", "loss"), [(1, 0), (2, 3), (3, 4)])
def test_the_first_loss_that_is_not_finite_is_named(monkeypatch, step, loss):
    table = torch.zeros(3, 5)
    table[step - 1, loss] = torch.nan
    table[2, 2] = torch.inf
    monkeypatch.setattr(loop, "run_steps", lambda *given: list(table))
    with pytest.raises(Diverged, match=rf"^a training loss is not finite at epoch 7, step {step}$"):
        train_epoch(*parts(), 7)


def test_losses_are_means_by_name(monkeypatch):
    seen = []
    monkeypatch.setattr(loop, "check_weights", lambda *given: seen.append(given))
    given, steps = parts(), []
    monkeypatch.setattr(loop, "run_steps", lambda *all_given: steps.extend(run_steps(*all_given)) or steps)
    losses = train_epoch(*given, 2)
    means = np.mean([step.double().numpy() for step in steps], axis=0)
    for name, mean in zip(Losses._fields, means, strict=True):
        assert losses.pop(f"train_{name}_loss") == pytest.approx(mean, rel=1e-12)
    assert losses
    assert all(name.startswith("mix_") for name in losses)
    assert seen == [(given[1], given[2], 2, 3)]


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_the_first_weight_that_is_not_finite_is_named(number):
    _, backbone, method, _, _ = parts()
    check_weights(backbone, method, 2, 3)
    name, weight = list(method.named_parameters())[1]
    with torch.no_grad():
        weight.view(-1)[0] = number
    with pytest.raises(Diverged, match=rf"^the weight method.{name} is not finite after epoch 2, step 3$"):
        check_weights(backbone, method, 2, 3)
    name, weight = list(backbone.named_parameters())[2]
    with torch.no_grad():
        weight.view(-1)[-1] = number
    with pytest.raises(Diverged, match=rf"^the weight {name} is not finite after epoch 2, step 3$"):
        check_weights(backbone, method, 2, 3)


def test_weights_are_checked_after_each_epoch(monkeypatch):
    seen = []
    monkeypatch.setattr(loop, "check_weights", lambda *given: seen.append(given[2:]))
    train(CELL, DATASET, CPU)
    assert seen == [(1, 3), (2, 3)]


def test_a_validation_loss_that_is_not_finite_is_named(monkeypatch):
    monkeypatch.setattr(loop, "task_loss", lambda *given: float("inf"))
    with pytest.raises(Diverged, match=r"^the validation loss is inf after epoch 1$"):
        train(CELL, DATASET, CPU)


@pytest.mark.parametrize(("split", "ratio"), [("valid", 0.0), ("test", 0.0), ("test", 0.5)])
def test_a_prediction_that_is_not_finite_is_named(monkeypatch, split, ratio):
    predict = evaluate.predict

    def predicted(cell, backbone, splits, name, at=0.0):
        predictions, labels = predict(cell, backbone, splits, name, at)
        if (name, at) == (split, ratio):
            predictions = predictions.index_fill(0, torch.tensor([2]), torch.nan)
        return predictions, labels

    monkeypatch.setattr(evaluate, "predict", predicted)
    losses = iter([1.0, 2.0])
    monkeypatch.setattr(loop, "task_loss", lambda *given: next(losses))
    cell = small_cell("tfn", "none", rules={"batch_size": 3, "max_epochs": 2}, ratios=(0.0, 0.5))
    place = f"a prediction of the {split} split at occlusion ratio {ratio} is not finite"
    with pytest.raises(Diverged, match=rf"^{place} \(weights of epoch 1\)$"):
        train(cell, DATASET, CPU)

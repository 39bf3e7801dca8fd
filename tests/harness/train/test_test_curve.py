"""Scores of the test split after every epoch: they are shown, and nothing of the training reads them."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from harness.metrics import score
from harness.train import evaluate, loop
from harness.train.evaluate import BEST_EPOCH, best_epochs
from harness.train.loop import train
from tests.support.builders import make_dataset, make_sizes, same_bits, small_cell

CPU = torch.device("cpu")
RULES = {"max_epochs": 5, "early_stop": 2, "batch_size": 8}


def trained(monkeypatch=None, scores=None, **fields):
    """The result of a small cell, and the weights that it ended with; scores: instead of the test curve's."""
    cell = small_cell("tfn", "ms_mix", rules=RULES, **fields)
    kept = []
    with pytest.MonkeyPatch.context() as patch:
        if scores is not None:
            patch.setattr(loop, "score_test_curve", scores)

        def final(cell, training, splits):
            kept.append(training.network.state_dict() | {f"best {training.best_epoch}": 0})
            return evaluate.final_result(cell, training, splits)

        patch.setattr(loop, "final_result", final)
        result = train(cell, make_dataset(make_sizes(), (40, 16, 24)), CPU)
    return result, kept[0]


def without_curve(result):
    """All that a result holds but what the test curve adds, and durations."""
    curves = {n: c for n, c in result.curves.items() if not n.startswith("test_") and n != "epoch_s"}
    cell = {name: value for name, value in result.cell.items() if not name.endswith("_s")}
    scores = {name: dict(values) for name, values in result.scores.items() if name != BEST_EPOCH}
    return [curves, cell, scores, {r: torch.from_numpy(v) for r, v in result.predictions.values.items()}]


@pytest.fixture(scope="module")
def plain():
    return trained()


def test_the_training_has_the_same_bits_with_and_without(plain):
    (result, weights), (curved, same) = plain, trained(test_curve=True)
    assert same_bits(weights, same)
    assert repr(without_curve(curved)[:3]) == repr(without_curve(result)[:3])
    assert same_bits(without_curve(curved)[3], without_curve(result)[3])
    assert not any(name.startswith("test_") for name in result.curves)
    assert BEST_EPOCH not in result.scores
    assert len(curved.curves["test_mae"]) == len(curved.curves["valid_loss"])


def test_whatever_the_curve_says_nothing_follows(plain):
    """A misleading test curve changes neither the best epoch nor the end."""
    values = iter([0.0, 9.0, math.nan, 3.0, -5.0])
    cheated, weights = trained(scores=lambda *_: {"test_mae": next(values)}, test_curve=True)
    assert repr(without_curve(cheated)[:3]) == repr(without_curve(plain[0])[:3])
    assert same_bits(weights, plain[1])


def test_each_point_is_the_score_of_its_epoch():
    """A training that ends after its best epoch has the test scores of the test curve there."""
    curved, _ = trained(test_curve=True)
    best = int(curved.cell["best_epoch"])
    for metric, value in curved.scores["test"].items():
        if metric != "loss":
            assert repr(curved.curves[f"test_{metric}"][best - 1]) == repr(value)
    assert curved.scores[BEST_EPOCH]["mae"] == min(curved.curves["test_mae"])
    assert curved.scores[BEST_EPOCH]["acc7"] == max(curved.curves["test_acc7"])


def test_undefined_points_count_nothing():
    curves = {"test_mae": [math.nan, 0.5, 0.4], "test_corr": [math.nan] * 3}
    assert best_epochs(curves, "mosi") == {"mae": 0.4}
    assert best_epochs({}, "sims") == {}


def test_infinite_predictions_give_no_point(monkeypatch):
    monkeypatch.setattr(evaluate, "predict", lambda *_: (torch.tensor([math.inf]), torch.zeros(1)))
    assert evaluate.score_test_curve(small_cell(), None, None) == {}


def test_labels_keep_their_own_center():
    """As in the result at the end: predictions are moved by the center, the labels are in their own units."""
    cell = dataclasses.replace(small_cell("tfn", "none", rules=RULES), label_center=1.0, test_curve=True)
    result = train(cell, make_dataset(make_sizes(), (40, 16, 24)), CPU)
    [predictions] = result.predictions.values.values()
    best = int(result.cell["best_epoch"]) - 1
    assert (
        result.curves["test_mae"][best] == score("mosi", predictions, result.predictions.labels).values["mae"]
    )
    assert np.isfinite(result.curves["test_mae"]).all()

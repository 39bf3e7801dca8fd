"""The training loop's rules (accumulation, clipping, schedules, early stopping) against a slow plain loop."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backbones import BACKBONES
from backbones.base import Backbone, BackboneSettings
from harness.data.dataset import Dataset
from harness.matrix import Cell
from harness.train import evaluate, loop, networks
from harness.train.schedule import learning_rate
from harness.train.seeds import generator_for
from harness.train.splits import ResidentSplit, load_splits
from tests.support.builders import make_dataset, make_sizes, small_cell
from tests.support.toy import Toy, rules

CPU = torch.device("cpu")
SIZES = make_sizes(widths=(3, 2, 1), steps=(2, 1, 2))


class DoubleToy(Toy):
    """In double precision, as the slow loop."""

    def __init__(self, settings, sizes):
        super().__init__(settings, sizes)
        self.double()


@pytest.fixture(autouse=True)
def _with_toy(monkeypatch):
    monkeypatch.setitem(BACKBONES, "toy", DoubleToy)


def make_cell(made: BackboneSettings, method: str = "none", **options) -> Cell:
    return small_cell("toy", method, rules=made, **options)


def trained_by_the_loop(cell: Cell, dataset: Dataset, epochs: int):
    backbone, method = loop.build(cell, dataset, CPU)
    optimizer = loop.make_optimizer(backbone, method)
    for epoch in range(1, epochs + 1):
        loop.train_epoch(cell, backbone, method, optimizer, load_splits(cell, dataset, CPU), epoch)
    return backbone


def clipped(gradients: list[torch.Tensor], made: BackboneSettings) -> list[torch.Tensor]:
    """Each entry into its bound, then the whole to its greatest length."""
    if made.grad_clip:
        gradients = [g.clamp(-made.grad_clip, made.grad_clip) for g in gradients]
    if made.max_grad_norm:
        length = math.sqrt(sum(float((g**2).sum()) for g in gradients))
        gradients = [g * min(1.0, made.max_grad_norm / (length + 1e-6)) for g in gradients]
    return gradients


def trained_slowly(cell: Cell, dataset: Dataset, epochs: int):
    """Clip after clip, sums kept apart from the parameters, every rule written out."""
    made, (backbone, _) = cell.backbone_settings, loop.build(cell, dataset, CPU)
    groups = backbone.parameter_groups()
    optimizer = torch.optim.SGD(groups, lr=made.learning_rate)
    parameters = [p for group in groups for p in group["params"]]
    split = ResidentSplit(dataset.splits["train"], CPU)
    for epoch in range(1, epochs + 1):
        order = generator_for(cell.seed, "order", epoch).permutation(len(split))
        chunks = loop.batches(order, made.batch_size)[: cell.max_batches]
        while chunks:
            together, chunks = chunks[: made.gradient_accumulation], chunks[made.gradient_accumulation :]
            total = [torch.zeros_like(p) for p in parameters]
            for chunk in together:
                loss = sum((backbone(split.take(chunk[k : k + 1])) - float(split.labels[clip])).abs()
                           for k, clip in enumerate(chunk)) / len(chunk)  # fmt: skip
                for old, new in zip(total, torch.autograd.grad(loss.sum(), parameters), strict=True):
                    old += new
                total = clipped(total, made)
            for parameter, gradient in zip(parameters, total, strict=True):
                parameter.grad = gradient
            optimizer.step()
    return backbone


def weights_of(backbone: Backbone) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in backbone.parameters()])


@settings(deadline=None, max_examples=20)
@given(
    clips=st.integers(2, 14),
    accumulated=st.integers(1, 4),
    grad_clip=st.sampled_from([0.0, 0.05, 0.6]),
    max_grad_norm=st.sampled_from([0.0, 0.1, 0.7]),
    max_batches=st.sampled_from([None, 1, 2, 3]),
)
def test_accumulation_and_clipping_equal_a_slow_loop(
    clips, accumulated, grad_clip, max_grad_norm, max_batches
):
    bounds = {"grad_clip": grad_clip, "max_grad_norm": max_grad_norm}
    made = rules(batch_size=3, gradient_accumulation=accumulated, **bounds)
    cell, dataset = make_cell(made, max_batches=max_batches), make_dataset(SIZES, (clips, 5, 5))
    # Adam's first steps follow the sign of a gradient that sums up to nearly 0, which rounding decides.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(networks.OPTIMIZERS, "adam", torch.optim.SGD)
        by_loop, slowly = (train(cell, dataset, 2) for train in (trained_by_the_loop, trained_slowly))
    torch.testing.assert_close(weights_of(by_loop), weights_of(slowly))


@pytest.mark.parametrize("rule", [{"gradient_accumulation": 2}, {"grad_clip": 0.05}, {"max_grad_norm": 0.1}])
def test_each_rule_changes_the_training(rule):
    """If a rule changed nothing, the comparison above would not test it."""
    dataset = make_dataset(SIZES, (13, 5, 5))
    plain, other = (
        weights_of(trained_by_the_loop(make_cell(rules(batch_size=3, **given)), dataset, 2))
        for given in ({}, rule)
    )
    assert (plain - other).abs().max() > 1e-4


def test_clips_are_occluded_anew_in_every_epoch(monkeypatch):
    cell, dataset = make_cell(rules(), train_ratio=0.5, granularity="entry"), make_dataset(SIZES, (8, 5, 5))
    splits, seen, occlude = load_splits(cell, dataset, CPU), [], loop.occlude
    monkeypatch.setattr(loop, "occlude", lambda *given: seen.append(occlude(*given)) or seen[-1])
    trained_by_the_loop(cell, dataset, 2)
    wanted = []
    for epoch in (1, 2):
        order = generator_for(cell.seed, "order", epoch).permutation(8)
        for index in (order[:4], order[4:]):
            batch = splits.resident["train"].take(index)
            wanted.append(occlude(batch, 0.5, splits.fields["train"].of(batch, index, "entry", epoch)))
    for mine, theirs in zip(seen, wanted, strict=True):
        assert all(torch.equal(x, theirs.features[m]) for m, x in mine.features.items())


def test_a_training_takes_its_splits_where_they_fit(monkeypatch):
    asked = []
    monkeypatch.setattr(loop, "load_splits", lambda *given: asked.append(given) or load_splits(*given))
    cell, dataset = make_cell(rules(max_epochs=1)), make_dataset(SIZES, (8, 5, 5))
    loop.train(cell, dataset, CPU)
    loop.train(cell, dataset, CPU, "host")
    assert asked == [(cell, dataset, CPU, "auto"), (cell, dataset, CPU, "host")]


class RecordingAdam(torch.optim.Adam):
    """Remembers rates and gradients at each step."""

    made: list["RecordingAdam"] = []

    def __init__(self, *given, **options):
        super().__init__(*given, **options)
        self.rates, self.gradients = [], []
        self.made.append(self)

    def step(self, closure=None):
        self.rates.append([group["lr"] for group in self.param_groups])
        self.gradients.append([p.grad.clone() for group in self.param_groups for p in group["params"]])
        return super().step(closure)


@pytest.fixture
def recorded(monkeypatch):
    monkeypatch.setitem(networks.OPTIMIZERS, "adam", RecordingAdam)
    monkeypatch.setattr(RecordingAdam, "made", [])
    return RecordingAdam.made


@pytest.mark.parametrize(("method", "accumulated"), [("ms_mix", 1), ("ms_mix_released", 3), ("none", 3)])
def test_bounds_of_gradients_hold_for_all_that_is_trained(recorded, monkeypatch, method, accumulated):
    """A method's own parameters too, in single precision; a sum of batches is as bounded as one."""
    monkeypatch.setitem(BACKBONES, "toy", Toy)
    clip, norm = {"grad_clip": 0.004}, {"max_grad_norm": 0.02}
    for bounds in (clip, norm, clip | norm):
        made = rules(batch_size=3, gradient_accumulation=accumulated, **bounds)
        trained_by_the_loop(make_cell(made, method), make_dataset(SIZES, (12, 5, 5)), 2)
        for gradients in recorded[-1].gradients:
            flat = torch.cat([g.flatten().double() for g in gradients])
            assert len(gradients) == len([p for g in recorded[-1].param_groups for p in g["params"]])
            if "max_grad_norm" in bounds:
                assert flat.norm() <= 0.02 + 1e-6
            else:
                assert flat.abs().max() == pytest.approx(0.004)
            if "grad_clip" in bounds:
                assert flat.abs().max() <= 0.004 + 1e-9


def scripted(monkeypatch, losses: list[float]) -> None:
    """Validation losses as given, epoch by epoch; what is scored at the end is left alone."""
    epochs, task_loss = iter(losses), loop.task_loss
    monkeypatch.setattr(loop, "task_loss", lambda *given: next(epochs, None) or task_loss(*given))


@pytest.mark.parametrize("schedule", ["constant", "plateau", "warmup_cosine"])
def test_the_loop_follows_the_schedule(recorded, monkeypatch, schedule):
    """Every step of an epoch has its rate, in every group, from the validation losses before it."""
    losses = [5.0, 4.0, 4.0, 4.5, 4.2, 3.0, 3.0, 3.0, 3.0, 2.0]
    scripted(monkeypatch, losses)
    made = rules(schedule=schedule, plateau_patience=1, warmup=0.3, max_epochs=10, early_stop=10)
    result = loop.train(make_cell(made), make_dataset(SIZES, (8, 5, 5)), CPU)
    assert result.curves["valid_loss"] == losses
    assert result.cell["best_epoch"] == 10
    wanted = [learning_rate(made, 1.0, losses[:epoch]) for epoch in range(10)]
    assert (len(set(wanted)) > 1) == (schedule != "constant")
    for pair, rate in zip(recorded[0].rates, np.repeat(wanted, 2), strict=True):
        assert pair == pytest.approx([0.01 * rate, 0.03 * rate])


@pytest.mark.parametrize(
    ("losses", "patience", "best", "epochs"),
    [
        ([3.0, 2.0, 2.5, 2.4, 2.3, 1.0], 3, 2, 5),
        ([3.0, 2.0, 2.5, 2.4, 1.9, 2.0], 3, 5, 6),
        ([3.0, 3.0, 3.0, 3.0, 3.0, 3.0], 1, 1, 2),
        ([6.0, 5.0, 4.0, 3.0, 2.0, 1.0], 1, 6, 6),
    ],
)
def test_early_stopping_by_hand(monkeypatch, losses, patience, best, epochs):
    """An equal loss is no improvement; the weights of the best epoch are evaluated."""
    predicted, predict = [], loop.predict

    def remember(*given):
        predicted.append((given[3], predict(*given)[0]))
        return predict(*given)

    for module in (loop, evaluate):
        monkeypatch.setattr(module, "predict", remember)
    scripted(monkeypatch, losses[:epochs])
    made = rules(max_epochs=6, early_stop=patience)
    result = loop.train(make_cell(made), make_dataset(SIZES, (8, 5, 5)), CPU)
    assert result.cell["best_epoch"] == best
    assert len(result.curves["valid_loss"]) == epochs
    valid = [prediction for name, prediction in predicted if name == "valid"]
    assert len(valid) == epochs + 1
    assert torch.equal(valid[-1], valid[best - 1])
    assert all(not torch.equal(valid[-1], x) for k, x in enumerate(valid[:-1]) if k != best - 1)

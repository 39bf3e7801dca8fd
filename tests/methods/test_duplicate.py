"""Duplicate: bit-exact copies, and what they do to the loss."""

import dataclasses

import numpy as np
import pytest
import torch

from backbones.batch import MODALITIES, Latents
from harness.train.step import step_losses
from tests.support.builders import (
    KINDS,
    make_batch,
    make_labels,
    make_latents,
    make_method,
    make_sizes,
    small_backbone,
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 9, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_copies_bit_by_bit(kind, n, dtype):
    latents, labels = make_latents(kind, n, dtype=dtype), make_labels(n, 3.0)
    kept = {m: torch.rand(x.shape[:2]) < 0.5 for m, x in latents.values.items() if m in latents.lengths}
    latents = dataclasses.replace(latents, kept=kept)
    method = make_method("duplicate", kind)
    draw = method.draw(None, labels.numpy())  # no generator: nothing is drawn
    assert draw.layer == 1
    mixed = method(latents, labels, {key: torch.from_numpy(x) for key, x in draw.arrays.items()})
    assert torch.equal(mixed.labels, labels)
    assert mixed.penalty == 0
    assert mixed.counted is None
    for part in ("values", "lengths", "kept"):
        made, given = getattr(mixed.latents, part), getattr(latents, part)
        assert list(made) == list(given)
        assert all(torch.equal(made[m], x) for m, x in given.items())
    sum(x.sum() for x in mixed.latents.values.values()).backward()
    assert all((x.grad == 1).all() for x in latents.values.values())


@pytest.mark.parametrize("backbone_name", ["lmf", "almt", "tfn"])
@pytest.mark.parametrize("training", [True, False])
def test_the_loss_is_scaled_where_no_dropout_follows(backbone_name, training):
    sizes = make_sizes()
    backbone, batch = small_backbone(backbone_name, sizes).train(training), make_batch(sizes, 6)
    method = make_method("duplicate", xi1=0.3)
    torch.manual_seed(0)
    losses = step_losses(backbone, method, batch, method.draw(np.random.default_rng(0), batch.labels.numpy()))
    scaled = torch.isclose(losses.total, 1.3 * losses.task, rtol=1e-5)
    assert scaled == (backbone_name != "tfn" or not training)


def test_what_is_not_finite_is_copied_too():
    latents = Latents({m: torch.tensor([[1.0, torch.inf], [torch.nan, 2.0]]) for m in MODALITIES})
    method, labels = make_method("duplicate"), torch.zeros(2)
    draw = method.draw(None, labels.numpy())
    mixed = method(latents, labels, {key: torch.from_numpy(x) for key, x in draw.arrays.items()})
    for m in MODALITIES:
        np.testing.assert_array_equal(mixed.latents.values[m].numpy(), latents.values[m].numpy())

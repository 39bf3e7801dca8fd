"""Duplicate: bit-exact copies, and what they do to the loss."""

import dataclasses

import numpy as np
import pytest
import torch

from backbones.batch import MODALITIES, Latents
from harness.train.step import step_losses
from tests.support.builders import (
    KINDS,
    arrays_of,
    make_batch,
    make_labels,
    make_latents,
    make_method,
    make_sizes,
    small_backbone,
)


def copied(latents, labels):
    """What it makes of latents, without a generator: nothing is drawn."""
    method = make_method("duplicate")
    draw = method.draw(None, labels.numpy())
    assert draw.layer == 1
    return method(latents, labels, arrays_of(draw))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 9])
def test_copies_bit_by_bit(kind, n):
    latents, labels = make_latents(kind, n), make_labels(n, 3.0)
    kept = {m: torch.rand(x.shape[:2]) < 0.5 for m, x in latents.values.items() if m in latents.lengths}
    latents = dataclasses.replace(latents, kept=kept)
    mixed = copied(latents, labels)
    assert torch.equal(mixed.labels, labels)
    assert mixed.penalty == 0
    assert mixed.counted is None
    for part in ("values", "lengths", "kept"):
        made, before = getattr(mixed.latents, part), getattr(latents, part)
        assert list(made) == list(before)
        assert all(torch.equal(made[m], x) for m, x in before.items())


def test_what_is_not_finite_is_copied_too():
    latents = Latents({m: torch.tensor([[1.0, torch.inf], [torch.nan, 2.0]]) for m in MODALITIES})
    for m, values in copied(latents, torch.zeros(2)).latents.values.items():
        np.testing.assert_array_equal(values.numpy(), latents.values[m].numpy())


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

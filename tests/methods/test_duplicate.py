"""Duplicate: bit-exact copies."""

import dataclasses

import numpy as np
import pytest
import torch

from backbones.batch import MODALITIES, Latents
from tests.support.builders import MAKES, arrays_of, make_labels, make_latents, make_method


def copied(latents, labels):
    """Mix without a generator, as nothing is drawn."""
    method = make_method("duplicate")
    draw = method.draw(None, labels.numpy())
    assert draw.layer == 1
    return method(latents, labels, arrays_of(draw))


@pytest.mark.parametrize("kind", MAKES)
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

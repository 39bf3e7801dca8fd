"""AV-MC mixes audio alone or vision alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support.builders import arrays_of, make_labels, make_latents, make_method


def mixed_by(seed=0, **settings):
    """Return the draw and the mixed examples of a batch of 40."""
    method, labels = make_method("av_mc", **settings), make_labels(40, 3.0)
    draw = method.draw(np.random.default_rng(seed), labels.numpy())
    return draw, method(make_latents("vectors", 40, 0, torch.float32), labels, arrays_of(draw))


def test_one_modality_is_mixed_and_the_label_with_it():
    draw, mixed = mixed_by()
    audio = torch.from_numpy(draw.arrays["modality"] == 0)
    assert 0 < audio.sum() < 40
    own = torch.tensor([1.0, 0.0])
    assert (mixed.weights["text"] == own).all()
    for m, chosen in {"audio": audio, "vision": ~audio}.items():
        assert torch.equal(mixed.weights[m][chosen], mixed.label_weights[chosen])
        assert (mixed.weights[m][~chosen] == own).all()


def test_each_modality_has_its_own_lambda_and_partners():
    draw, _ = mixed_by()
    modality = draw.arrays["modality"]
    assert len(np.unique(draw.arrays["weights"][:, 0])) == 2
    for k in (0, 1):
        assert len(np.unique(draw.arrays["indices"][modality == k, 1])) == (modality == k).sum()


@pytest.mark.parametrize(("only", "k"), [(["audio"], 0), (["text", "vision"], 1)])
def test_a_single_modality_can_be_chosen(only, k):
    draw, _ = mixed_by(only=only)
    assert (draw.arrays["modality"] == k).all()

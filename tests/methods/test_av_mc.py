"""AV-MC against a slow loop: audio alone in the first rows, vision alone in the others."""

import numpy as np
import pytest
import torch

from tests.support.builders import array, arrays_of, make_labels, make_latents, make_method


@pytest.mark.parametrize(("only", "sets"), [(None, ["audio", "vision"]), (["text", "vision"], ["vision"])])
@pytest.mark.parametrize("kind", ["vectors", "sequences"])
def test_each_set_mixes_one_modality_with_its_own_partners(only, sets, kind):
    n, latents, labels = 5, make_latents(kind, 5), make_labels(5, 3.0)
    method = make_method("av_mc", kind, only=only)
    draw = method.draw(np.random.default_rng(3), labels.numpy())
    mixed = method(latents, labels, arrays_of(draw))
    assert len(mixed) == n * len(sets)
    rows = iter(range(len(mixed)))
    partners, lambdas = [], []
    for modality in sets:
        order, shares = [], set()
        for own in range(n):
            row = next(rows)
            first, other = draw.arrays["indices"][row]
            share = float(draw.arrays["weights"][row, 0])
            assert first == own
            order.append(int(other))
            shares.add(share)
            assert mixed.labels[row].item() == pytest.approx(
                share * labels[own].item() + (1 - share) * labels[other].item(), abs=1e-5
            )
            for m, values in latents.values.items():
                x = array(values)
                wanted = share * x[own] + (1 - share) * x[other] if m == modality else x[own]
                np.testing.assert_allclose(array(mixed.latents.values[m])[row], wanted, atol=1e-5)
                assert m == modality or torch.equal(mixed.latents.values[m][row], values[own])
        assert sorted(order) == list(range(n))
        assert len(shares) == 1
        partners.append(order)
        lambdas += shares
    assert len(set(lambdas)) == len(sets), "each set draws its own"
    assert len({tuple(order) for order in partners}) == len(sets)

"""Mixed examples of every method, from the indices and weights that it returns, against slow loops."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backbones.batch import Latents
from methods import METHODS
from tests.support.builders import (
    KINDS,
    arrays_of,
    check_mixed,
    make_labels,
    make_latents,
    make_method,
    plain_network,
)

# These mix with the weights that they draw; the others work them out from the latents.
AS_DRAWN = ("duplicate", "mixup", "manifold_mixup", "c_mixup", "multimix")

cases = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(list(KINDS)),
        "scale": st.sampled_from([1.0, 3.0, 0.5]),
        "dtype": st.sampled_from([torch.float32, torch.float64]),
        "seed": st.integers(0, 99),
    }
)


def occluded(latents: Latents, seed: int) -> Latents:
    """The same, with some valid steps of its sequences marked as dropped."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {m: latents.values[m].shape[:2] for m in latents.lengths}
    kept = {m: latents.valid(m) & (torch.rand(s, generator=generator) < 0.7) for m, s in shapes.items()}
    return dataclasses.replace(latents, kept=kept)


def check_case(name: str, n: int, case: dict, switches: dict) -> None:
    kind, seed = case["kind"], case["seed"]
    method = make_method(name, kind, case["scale"], seed, **switches).to(case["dtype"])
    latents = occluded(make_latents(kind, n, seed, case["dtype"]), seed)
    labels = make_labels(n, case["scale"], seed)
    draw = method.draw(np.random.default_rng(seed), labels.numpy())
    if draw is None:
        assert name == "none" or n == 1, "only a batch of one may go unmixed"
        return
    arrays = arrays_of(draw)
    mixed = method(latents, labels, arrays, plain_network())
    check_mixed(mixed, latents, labels)
    assert len(mixed) == n or (name == "powmix" and 1 <= len(mixed) <= n)
    if name in AS_DRAWN:
        assert torch.equal(mixed.indices, arrays["indices"])
        weights = (*mixed.weights.values(), mixed.label_weights)
        assert all(torch.equal(w, arrays["weights"]) for w in weights)


def switches_of(name: str) -> st.SearchStrategy[dict[str, bool]]:
    """Its components, each on or off."""
    return st.fixed_dictionaries(dict.fromkeys(METHODS[name].Settings.components, st.booleans()))


@pytest.mark.parametrize("name", METHODS)
@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), cases, st.data())
def test_mixed_examples_equal_a_loop(name, n, case, data):
    check_case(name, n, case, data.draw(switches_of(name)))


@pytest.mark.parametrize("name", METHODS)
@settings(deadline=None, max_examples=5)
@given(cases, st.data())
def test_mixed_examples_of_a_large_batch_equal_a_loop(name, case, data):
    check_case(name, 64, case, data.draw(switches_of(name)))

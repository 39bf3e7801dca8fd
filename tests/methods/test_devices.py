"""Methods create tensors only on the latents' device, and give no warnings.

The device is "meta", which has shapes and no numbers: an operation with a tensor of the CPU fails there, as
it would on a GPU, and so does reading a number.
"""

import warnings

import numpy as np
import pytest
import torch

from backbones.batch import MODALITIES, Latents
from methods.base import Network, mix
from tests.support.builders import (
    MAKES,
    MIXING,
    arrays_of,
    make_labels,
    make_latents,
    make_method,
    plain_network,
)

META = torch.device("meta")
SWITCHES = {"ms_mix": [{"sass": False}, {"sig": False}, {"sal": False}, {"similarity": "cosine"}]}
SWITCHES["ms_mix"] += [{"attention": "batch"}]
SWITCHES["powmix"] = [{"reweight": False}, {"anisotropic": False}, {"cross_modal_labels": False}]
CASES = [(name, options) for name in MIXING for options in ({}, *SWITCHES.get(name, []))]


def moved(tensors, device=META):
    return {name: x.to(device) for name, x in tensors.items()}


def on_meta(latents: Latents) -> Latents:
    return Latents(moved(latents.values), moved(latents.lengths), moved(latents.kept))


def devices(*parts) -> set[str]:
    """The kinds of device of tensors and of what dicts hold."""
    tensors = [x for part in parts for x in (part.values() if isinstance(part, dict) else [part])]
    return {x.device.type for x in tensors if x is not None}


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("kind", MAKES)
def test_mixed_examples_and_explanations_stay_on_the_device(name, options, kind):
    method, latents, labels = make_method(name, kind, **options), make_latents(kind, 6), make_labels(6, 3.0)
    with np.errstate(all="raise"), warnings.catch_warnings(action="error"):
        draw = arrays_of(method.draw(np.random.default_rng(0), labels.numpy()))
        method(latents, labels, draw, plain_network())
    method.to(META)
    plain = plain_network()
    network = Network(lambda z: plain.predict(z).to(META), plain.criterion)
    mixed = method(on_meta(latents), labels.to(META), moved(draw), network)
    parts = (mixed.latents.values, mixed.latents.lengths, mixed.weights, dict(mixed.diagnostics))
    assert devices(*parts, mixed.labels, mixed.indices, mixed.label_weights, mixed.penalty) == {"meta"}
    assert devices(mixed.counted) <= {"meta"}
    explained = method.explain(on_meta(latents), labels.to(META), moved(draw))
    assert devices(explained) == ({"meta"} if name == "ms_mix" else set())


LAYERS = {name: 1 for name in MIXING} | {"mixup": 0}


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_layer_of_a_draw(name, options):
    method = make_method(name, **options)
    assert method.draw(np.random.default_rng(0), make_labels(5, 3.0).numpy()).layer == LAYERS[name]


def test_weights_of_features_keep_lengths_and_steps_of_members_with_any_weight():
    latents = make_latents("sequences", 3)
    kept = {m: latents.valid(m) for m in latents.lengths}
    latents = Latents({m: x.detach() for m, x in latents.values.items()}, latents.lengths, kept)
    indices = torch.tensor([[0, 1], [1, 2]])
    weights = torch.tensor([[0.25, 0.75], [0.0, 1.0]])
    plain = mix(latents, torch.zeros(3), indices, weights)
    for shape in ((2, 2, 1), (2, 2, 1, 1), (2, 2, 1, 8), (2, 2, 7, 8)):
        many = {m: weights.view(2, 2, *[1] * (len(shape) - 2)).expand(shape) for m in MODALITIES}
        mixed = mix(latents, torch.zeros(3), indices, many, weights)
        for m in MODALITIES:
            assert torch.equal(mixed.latents.values[m], plain.latents.values[m])
            assert torch.equal(mixed.latents.lengths[m], plain.latents.lengths[m])
            assert torch.equal(mixed.latents.kept[m], plain.latents.kept[m])
    assert len(mix(latents, torch.zeros(3), indices[:0], weights[:0])) == 0


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ([1.5, -0.5], "a mixing weight lies outside [0, 1]"),
        ([1.1, 0.0], "a mixing weight lies outside [0, 1]"),
        ([0.5, 0.6], "mixing weights do not sum to 1"),
        ([0.2, 0.2], "mixing weights do not sum to 1"),
    ],
)
def test_what_is_wrong_with_weights(weights, sentence):
    latents, indices = make_latents("vectors", 2), torch.tensor([[0, 1]])
    with pytest.raises(AssertionError) as caught:
        mix(latents, torch.zeros(2), indices, torch.tensor([weights]))
    assert str(caught.value).split("\n")[0] == sentence
    with pytest.raises(AssertionError) as caught:
        mix(latents, torch.zeros(2), indices, dict.fromkeys(MODALITIES, torch.tensor([[0.5, 0.5]])))
    assert str(caught.value).split("\n")[0] == "weights per modality need weights for the label"

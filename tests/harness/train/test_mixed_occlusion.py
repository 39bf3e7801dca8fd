"""Mixed inputs keep the steps that occlusion left of their members, and are pooled over these."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backbones.base import Backbone
from backbones.batch import MODALITIES, Batch
from harness.data.occlusion import MaskField, occlude
from harness.train.step import mix_batch, step_losses
from methods import METHODS
from methods.base import Draw, Mixed
from tests.support.builders import array, check_mixed, make_batch, make_sizes, small_backbone

SIZES = make_sizes()
# At alpha 0 one member has no weight and adds no step; MultiMix has more members than two.
over_mixtures = pytest.mark.parametrize(
    ("name", "options"),
    [("mixup", {}), ("mixup", {"alpha": 0.0}), ("multimix", {"examples_per_mixture": 3})],
)


def occluded_batch(n: int, seed: int) -> Batch:
    """Random clips of which half of the valid steps are dropped."""
    batch, ids = make_batch(SIZES, n, seed), np.array([f"clip{k}" for k in range(n)])
    return occlude(batch, 0.5, MaskField("toy", "train", 1, ids).of(batch, np.arange(n), epoch=seed))


def at_inputs(name: str, backbone: Backbone, batch: Batch, seed: int = 0, **options):
    """A method and its draw, made to mix at layer 0."""
    method = METHODS[name](METHODS[name].Settings(**options), backbone.latent_widths, 3.0)
    draw = method.draw(np.random.default_rng(seed), batch.labels.numpy())
    return method, Draw(0, draw.arrays)


def slow_kept(batch: Batch, mixed: Mixed, modality: str) -> list[list[bool]]:
    """A step is kept if a member with positive weight is valid there and not dropped."""
    lengths, dropped = batch.lengths[modality].tolist(), batch.dropped[modality].tolist()
    rows = []
    for members, weights in zip(mixed.indices.tolist(), mixed.weights[modality].tolist(), strict=True):
        present = [i for i, weight in zip(members, weights, strict=True) if weight > 0]
        steps = range(SIZES.steps[modality])
        rows.append([any(t < lengths[i] and not dropped[i][t] for i in present) for t in steps])
    return rows


@over_mixtures
@settings(deadline=None, max_examples=20)
@given(st.integers(1, 9), st.integers(0, 99))
def test_kept_steps_equal_a_loop(name, options, n, seed):
    backbone, batch = small_backbone("lmf", SIZES), occluded_batch(n, seed)
    inputs = backbone.embed(batch)
    method, draw = at_inputs(name, backbone, batch, seed, **options)
    mixed = mix_batch(backbone, method, inputs, batch.labels, draw)
    check_mixed(mixed, inputs, batch.labels)
    for m in MODALITIES:
        assert mixed.latents.kept[m].tolist() == slow_kept(batch, mixed, m)


@over_mixtures
@pytest.mark.parametrize("backbone_name", ["tfn", "lmf"])
def test_mixed_inputs_are_pooled_over_their_kept_steps(backbone_name, name, options):
    backbone = small_backbone(backbone_name, SIZES, pool="kept_mean").train()
    batch = occluded_batch(8, 1)
    method, draw = at_inputs(name, backbone, batch, **options)
    pooled, made = {"audio": [], "vision": []}, []
    for m, seen in pooled.items():
        subnet = getattr(backbone.subnets, m)
        subnet.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(given[0]))
    step_losses(backbone, method, batch, draw, lambda mixed, *_: made.append(mixed))
    for m, (_, of_mixed) in pooled.items():
        kept, weights = slow_kept(batch, made[0], m), array(made[0].weights[m])
        for row, members in enumerate(made[0].indices.tolist()):
            total = np.zeros(SIZES.widths[m])
            for member, i in enumerate(members):
                for step in range(int(batch.lengths[m][i])):
                    total += weights[row, member] * array(batch.features[m][i, step])
            np.testing.assert_allclose(array(of_mixed[row]), total / max(sum(kept[row]), 1), atol=1e-5)


def test_what_was_not_occluded_has_no_kept_steps():
    backbone, batch = small_backbone("lmf", SIZES), make_batch(SIZES, 4)
    method, draw = at_inputs("mixup", backbone, batch)
    assert not mix_batch(backbone, method, backbone.embed(batch), batch.labels, draw).latents.kept

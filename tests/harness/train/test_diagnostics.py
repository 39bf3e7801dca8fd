"""What mixing did in an epoch, against slow loops over the same mixed examples."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

from backbones.batch import Latents
from harness.train.diagnostics import QUANTILES, Diagnostics, opposite_share, relative_distance
from tests.support.builders import (
    MAKES,
    MIXING,
    arrays_of,
    make_labels,
    make_latents,
    make_method,
    plain_network,
)


def mixed_steps(name, kind, n=7):
    """Some steps of a method: (mixed, latents, labels)."""
    method, steps = make_method(name, kind), []
    for seed in range(3):
        latents, labels = make_latents(kind, n, seed), make_labels(n, 3.0, seed)
        draw = method.draw(np.random.default_rng(seed), labels.numpy())
        steps.append((method(latents, labels, arrays_of(draw), plain_network()), latents, labels))
    return steps


def slow_values(steps):
    """The same numbers, row by row."""
    opposite, lambdas, mixed_labels, clean_labels, own = [], {}, [], [], {}
    for mixed, _, labels in steps:
        clean_labels += labels.tolist()
        for name, value in mixed.diagnostics.items():
            own.setdefault(f"mix_{name}", []).append(float(value))
        for row, members in enumerate(mixed.indices.tolist()):
            if mixed.counted is not None and not mixed.counted[row]:
                continue
            present = [i for i, w in zip(members, mixed.label_weights[row].tolist(), strict=True) if w != 0]
            pairs = list(itertools.combinations(present, 2))
            opposite.append(sum(float(labels[i] * labels[j]) < 0 for i, j in pairs) / max(len(pairs), 1))
            mixed_labels.append(float(mixed.labels[row]))
            weights = {**mixed.weights, "label": mixed.label_weights}
            for m, w in weights.items():
                lambdas.setdefault(m, []).append(float(w[row, 0].detach().double().mean()))
    found = {"mix_opposite_rate": np.mean(opposite)}
    found["mix_label_spread"] = np.std(mixed_labels) / np.std(clean_labels)
    for m, values in lambdas.items():
        found |= {f"mix_lambda_{m}_{key}": np.quantile(values, q) for key, q in QUANTILES.items()}
    return found | {name: np.mean(values) for name, values in own.items()}


def slow_distance(mixed, clean, rows):
    """Divide each row's nearest clean distance by the median among clean rows; average over modalities."""
    ratios = []
    for m, x in mixed.vectors().items():
        x, z = x.detach().double().numpy(), clean.vectors()[m].detach().double().numpy()
        nearest = np.mean([min(np.linalg.norm(x[row] - other) for other in z) for row in rows])
        between = sorted(
            min(np.linalg.norm(a - b) for j, b in enumerate(z) if j != i) for i, a in enumerate(z)
        )
        ratios.append(nearest / between[(len(between) - 1) // 2])
    return np.mean(ratios)


@pytest.mark.parametrize("name", MIXING)
@pytest.mark.parametrize("kind", MAKES)
def test_against_the_slow_implementation(name, kind):
    steps, diagnostics = mixed_steps(name, kind), Diagnostics()
    tensors = [x for mixed, *_ in steps for x in (mixed.labels, *mixed.latents.values.values())]
    before, state = [x.clone() for x in tensors], torch.get_rng_state()
    for step in steps:
        diagnostics.watch(*step)
    found, wanted = diagnostics.values(), slow_values(steps)
    assert torch.equal(state, torch.get_rng_state())
    assert all(map(torch.equal, tensors, before)), "watching changes nothing"
    distance = found.pop("mix_distance")
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert found[key] == pytest.approx(value, abs=1e-4), key
    first, latents, _ = steps[0]
    rows = range(len(first)) if first.counted is None else first.counted.nonzero()[:, 0].tolist()
    assert distance == pytest.approx(slow_distance(first.latents, latents, rows), rel=1e-4, abs=1e-6)


def test_rows_that_do_not_count_are_left_out():
    [(mixed, latents, labels), *_] = mixed_steps("mixup", "vectors")
    half = dataclasses.replace(mixed, counted=torch.tensor([True, False] * 3 + [True]))
    diagnostics = Diagnostics()
    diagnostics.watch(half, latents, labels)
    found, wanted = diagnostics.values(), slow_values([(half, latents, labels)])
    assert all(found[key] == pytest.approx(value, abs=1e-5) for key, value in wanted.items())
    assert found["mix_label_spread"] != pytest.approx(
        slow_values([(mixed, latents, labels)])["mix_label_spread"]
    )


def test_nothing_mixed_is_nothing_said():
    assert Diagnostics().values() == {}
    [(mixed, latents, labels), *_] = mixed_steps("ms_mix", "vectors")
    none = dataclasses.replace(mixed, counted=torch.zeros(7, dtype=torch.bool))
    diagnostics = Diagnostics()
    diagnostics.watch(none, latents, labels)
    found = diagnostics.values()
    assert set(found) == {"mix_passed_pairs", "mix_distance"}
    assert math.isnan(found["mix_distance"])


def test_opposite_signs_by_hand():
    """A zero has no sign; members without weight and single ones form no pairs."""
    labels = torch.tensor([[1.0, -1.0, 3.0], [0.0, -2.0, 1.0], [-1.0, -0.5, 0.0], [1.0, 9.0, 9.0]])
    present = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 1, 1], [1, 0, 0]], dtype=torch.bool)
    assert opposite_share(labels, present).tolist() == [1, pytest.approx(1 / 3), 0, 0]


@pytest.mark.parametrize("clips", [1, 3])
def test_equal_or_single_clips_give_no_distance(clips):
    equal = Latents({"text": torch.ones(clips, 2)})
    elsewhere = Latents({"text": torch.zeros(clips, 2)})
    assert math.isnan(float(relative_distance(elsewhere, equal, torch.ones(clips, dtype=torch.bool))))


def test_copies_far_from_zero_are_at_no_distance():
    clean = Latents({"text": torch.randn(64, 16, generator=torch.Generator().manual_seed(0)) + 100})
    assert float(relative_distance(clean, clean, torch.ones(64, dtype=torch.bool))) == 0


@pytest.mark.parametrize("scale", [1e-3, 1.0, 3.0])
def test_labels_of_any_scale_have_a_spread_and_equal_ones_none(scale):
    method, latents, labels = make_method("mixup"), make_latents("vectors", 7), make_labels(7, scale)
    draw = arrays_of(method.draw(np.random.default_rng(0), labels.numpy()))
    for given in (labels, torch.full((7,), scale)):
        diagnostics = Diagnostics()
        mixed = method(latents, given, draw)
        diagnostics.watch(mixed, latents, given)
        spread = diagnostics.values()["mix_label_spread"]
        if given is labels:
            assert spread == pytest.approx(float(mixed.labels.std(correction=0) / given.std(correction=0)))
        else:
            assert math.isnan(spread)

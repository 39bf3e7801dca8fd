"""PowMix: each of its five components against slow loops, and MultiMix without them."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backbones.batch import MODALITIES, Latents
from harness.train.diagnostics import Diagnostics
from harness.train.step import step_losses
from methods.powmix import PowMixSettings
from tests.support.builders import (
    MAKES,
    array,
    arrays_of,
    check_mixed,
    make_batch,
    make_labels,
    make_latents,
    make_method,
    make_sizes,
    slow_mix,
    small_backbone,
)

OFF = dict.fromkeys(PowMixSettings.components, False)


def draws_of(size: int, seeds: int, **options) -> list[dict[str, np.ndarray]]:
    method, labels = make_method("powmix", **options), make_labels(size, 3.0).numpy()
    drawn = [method.draw(np.random.default_rng(seed), labels) for seed in range(seeds)]
    assert all(draw.layer == 1 for draw in drawn)
    return [dict(draw.arrays) for draw in drawn]


@pytest.mark.parametrize(("kind", "n"), list(zip(MAKES, (1, 2, 9), strict=True)))
@pytest.mark.parametrize("options", [{}, {"alpha": 1.0}, {"alpha": 0.0}, {"examples_per_mixture": 3}])
def test_without_its_parts_it_is_multimix(kind, n, options):
    latents, labels = make_latents(kind, n), make_labels(n, 3.0)
    powmix, multimix = make_method("powmix", kind, **OFF, **options), make_method("multimix", kind, **options)
    for seed in range(2):
        generators = [np.random.default_rng(seed) for _ in range(2)]
        ours, theirs = (
            m.draw(g, labels.numpy()) for m, g in zip((powmix, multimix), generators, strict=True)
        )
        assert generators[0].bit_generator.state == generators[1].bit_generator.state
        assert ours.layer == theirs.layer
        assert list(ours.arrays) == list(theirs.arrays)
        assert all(np.array_equal(x, theirs.arrays[key]) for key, x in ours.arrays.items())
        first, second = (m(latents, labels, arrays_of(ours)) for m in (powmix, multimix))
        assert torch.equal(first.labels, second.labels)
        assert all(torch.equal(x, second.latents.values[m]) for m, x in first.latents.values.items())
        assert all(torch.equal(x, second.latents.lengths[m]) for m, x in first.latents.lengths.items())


@pytest.mark.parametrize(("size", "n_ratio", "most"), [(6, 1.0, 6), (6, 1.5, 9), (9, 0.5, 4), (3, 0.01, 1)])
def test_the_number_of_mixed_examples(size, n_ratio, most):
    fixed = [len(draw["indices"]) for draw in draws_of(size, 20, n_ratio=n_ratio, random_n=False)]
    assert set(fixed) == {most}
    varying = [len(draw["indices"]) for draw in draws_of(size, 600, n_ratio=n_ratio)]
    assert set(varying) == set(range(1, most + 1))
    share = 600 / most
    assert all(abs(varying.count(n) - share) < 5 * share**0.5 for n in range(1, most + 1))


@pytest.mark.parametrize("n_ratio", [0.3, 2.0])
def test_a_step_with_fewer_or_more_mixed_than_clean_examples(n_ratio):
    sizes = make_sizes()
    backbone, batch = small_backbone("lmf", sizes).train(), make_batch(sizes, 7)
    method, diagnostics = make_method("powmix", n_ratio=n_ratio, random_n=False), Diagnostics()
    draw = method.draw(np.random.default_rng(0), batch.labels.numpy())
    assert step_losses(backbone, method, batch, draw, diagnostics.watch).total.isfinite()
    assert all(np.isfinite(value) for value in diagnostics.values().values())


@pytest.mark.parametrize(("size", "max_subset"), [(1, 2), (2, 8), (3, 8), (9, 2), (9, 3), (9, 8)])
@pytest.mark.parametrize("anisotropic", [True, False])
def test_sizes_of_mixtures(size, max_subset, anisotropic):
    low, high = min(2, size), min(max_subset, size)
    draws = draws_of(size, 60, max_subset=max_subset, anisotropic=anisotropic, random_n=False)
    sizes = []
    for draw in draws:
        matrices = [draw[m] for m in MODALITIES] if anisotropic else [draw["weights"]]
        present = matrices[0] > 0
        assert all(np.array_equal(x > 0, present) for x in matrices), "the modalities share their members"
        assert all(len(set(row)) == len(row) for row in draw["indices"].tolist())
        sizes += present.sum(1).tolist()
    assert set(sizes) <= set(range(low, high + 1))
    share = len(sizes) / (high - low + 1)
    assert all(abs(sizes.count(k) - share) < 5 * share**0.5 for k in range(low, high + 1))


def test_each_modality_has_weights_of_its_own():
    pairs = {pair: [] for pair in itertools.combinations(MODALITIES, 2)}
    for draw in draws_of(5, 400, dynamic=False, alpha=1.0):
        assert "weights" not in draw
        for a, b in pairs:
            pairs[a, b].append((draw[a][0, 0], draw[b][0, 0]))
    for drawn in pairs.values():
        assert abs(np.corrcoef(np.transpose(drawn))[0, 1]) < 0.2


def slow_agreement(latents: Latents, modality: str) -> list[float]:
    """c of each example, from pooled steps and an explicit cosine."""
    pooled = []
    for row, values in enumerate(array(latents.values[modality])):
        if modality in latents.lengths:
            values = values[: latents.lengths[modality][row]].mean(0)
        pooled.append(values.ravel())
    mean = sum(pooled) / len(pooled)
    return [max(0.0, z @ mean / (np.linalg.norm(z) * np.linalg.norm(mean))) + 1e-3 for z in pooled]


def slow_weights(given_weights: np.ndarray, indices: np.ndarray, c: list[float]) -> np.ndarray:
    made = np.zeros(given_weights.shape)
    for row, members in enumerate(indices):
        scaled = [given_weights[row, k] * c[member] for k, member in enumerate(members)]
        made[row] = np.array(scaled) / sum(scaled)
    return made


@given(
    st.sampled_from(MAKES),
    st.sampled_from([1, 2, 3, 9]),
    st.fixed_dictionaries({name: st.booleans() for name in OFF}),
    st.sampled_from([1.0, 3.0]),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(0, 99),
)
def test_mixed_examples_equal_a_loop(kind, n, switches, scale, dtype, seed):
    latents, labels = make_latents(kind, n, seed, dtype), make_labels(n, scale, seed)
    method = make_method("powmix", kind, scale, **switches)
    draw = method.draw(np.random.default_rng(seed), labels.numpy())
    mixed = method(latents, labels, arrays_of(draw))
    check_mixed(mixed, latents, labels)
    assert mixed.counted is None
    assert mixed.penalty == 0
    weights = {}
    for m in MODALITIES:
        weights[m] = draw.arrays[m if switches["anisotropic"] else "weights"].astype(float)
        if switches["reweight"]:
            weights[m] = slow_weights(weights[m], draw.arrays["indices"], slow_agreement(latents, m))
        np.testing.assert_allclose(array(mixed.weights[m]), weights[m], atol=1e-5)
        assert mixed.weights[m].dtype == torch.float32
    wanted = sum(weights.values()) / 3 if switches["cross_modal_labels"] else weights["text"]
    np.testing.assert_allclose(array(mixed.label_weights), wanted, atol=1e-5)
    made = slow_mix(array(labels), draw.arrays["indices"], wanted)
    np.testing.assert_allclose(array(mixed.labels), made, atol=3e-5)

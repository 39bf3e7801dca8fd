"""MS-Mix as released, against loops over pairs."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backbones.batch import MODALITIES, Latents
from harness.train.step import CRITERIA, mixed_loss
from methods.base import Draw
from methods.ms_mix_released import choose_ordered_pairs, signed_weights
from tests.methods.test_ms_mix import scaled, slow_similarities
from tests.support.builders import (
    MAKES,
    array,
    arrays_of,
    check_mixed,
    make_labels,
    make_latents,
    make_method,
    run_method,
)
from tests.support.slow_layers import parameters_of, slow_attend, slow_linear, slow_norm, split_three

# Against loops


def slow_pool(latents: Latents) -> dict[str, np.ndarray]:
    pooled = {}
    for m, values in latents.values.items():
        rows = []
        for row, x in enumerate(array(values)):
            length = int(latents.lengths[m][row]) if m in latents.lengths else len(x)
            rows.append(x if x.ndim == 1 else sum(x[step] for step in range(length)) / length)
        pooled[m] = np.stack(rows)
    return pooled


def slow_candidates(similarity: dict[tuple[int, int], float], delta: float, n: int) -> set[tuple[int, int]]:
    """As a list of ordered pairs, or the most similar pairs i < j."""
    both = {pair for (i, j), s in similarity.items() if s > delta for pair in ((i, j), (j, i))}
    if len(both) >= n:
        return both
    return set(sorted(similarity, key=lambda pair: -similarity[pair])[: 2 * n])


@given(
    st.integers(2, 9),
    st.integers(1, 12),
    st.floats(0, 1) | st.sampled_from([0.0, 0.5, 1.0]),
    st.integers(0, 999),
)
def test_pairs_equal_a_loop(size, n, delta, seed):
    generator = np.random.default_rng(seed)
    every = list(itertools.combinations(range(size), 2))
    values = generator.permutation(len(every)) / max(len(every) - 1, 1)
    keys = generator.random(2 * len(every), np.float32)
    made = choose_ordered_pairs(torch.from_numpy(values), torch.from_numpy(keys), delta, n)
    key_of = dict(zip([*every, *((j, i) for i, j in every)], keys, strict=True))
    candidates = slow_candidates(dict(zip(every, values, strict=True)), delta, n)
    order = sorted(candidates, key=lambda pair: -key_of[pair])
    wanted = order[:n] + [order[-1]] * (n - len(order))
    assert [tuple(pair) for pair in made.tolist()] == wanted


def similarity_of(pooled: dict[str, np.ndarray]) -> dict[tuple[int, int], float]:
    return scaled(slow_similarities(Latents({m: torch.from_numpy(x) for m, x in pooled.items()})), "minmax")


def slow_pairs(vectors: dict[str, np.ndarray], draw: Draw, delta: float, n: int) -> list[tuple[int, int]]:
    """The pairs drawn, from one vector per example and modality."""
    candidates = slow_candidates(similarity_of(vectors), delta, n)
    every = np.stack(np.triu_indices(n, 1), 1).tolist()
    numbers = {(i, j): k for k, (i, j) in enumerate([*every, *(pair[::-1] for pair in every)])}
    order = sorted(candidates, key=lambda pair: -draw.arrays["keys"][numbers[pair]])
    return (order + order[-1:])[:n]


def slow_kl(intensity: np.ndarray, labels: np.ndarray) -> float:
    def shares(x):
        e = [math.exp(abs(v) / 3) for v in x]
        return [v / sum(e) + 1e-8 for v in e]

    return sum(p * math.log(p / q) for p, q in zip(shares(labels), shares(intensity), strict=True))


@given(
    st.sampled_from(MAKES),
    st.sampled_from([2, 3, 4, 9]),
    st.sampled_from([0.0, 0.4, 0.7, 0.97]),
    st.sampled_from([1.0, 3.0]),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_2d_mixed_examples_equal_a_loop(kind, n, delta, scale, dtype):
    latents, labels = make_latents(kind, n, seed=n, dtype=dtype), make_labels(n, scale, seed=n)
    method = make_method("ms_mix_released", kind, scale, form="2d", delta=delta).to(dtype)
    draw = method.draw(np.random.default_rng(n), labels.numpy())
    mixed = method(latents, labels, arrays_of(draw))
    check_mixed(mixed, latents, labels)
    assert mixed.counted is None
    pooled = slow_pool(latents)
    assert [tuple(pair) for pair in mixed.indices.tolist()] == slow_pairs(pooled, draw, delta, n)
    lams, penalty = [], 0.0
    for m in MODALITIES:
        intensity = array(method.predictors[m](torch.from_numpy(pooled[m]).to(dtype), None))
        np.testing.assert_allclose(array(method.intensities(latents)[m]), intensity, atol=1e-5)
        low, high = abs(intensity).min(), abs(intensity).max()
        w = [(abs(v) - low) / (high - low + 1e-8) for v in intensity]
        base = draw.arrays["weights"][:, 0]
        pairs = enumerate(mixed.indices.tolist())
        lam = [(base[k] + (w[i] + 1e-8) / (w[i] + w[j] + 2e-8)) / 2 for k, (i, j) in pairs]
        np.testing.assert_allclose(array(mixed.weights[m])[:, 0], lam, atol=1e-4)
        lams.append(lam)
        penalty += 0.5 * 1000 / n * slow_kl(intensity, array(labels))
    np.testing.assert_allclose(array(mixed.label_weights)[:, 0], np.mean(lams, 0), atol=1e-4)
    np.testing.assert_allclose(mixed.penalty.item(), penalty, atol=1e-4, rtol=1e-3)


def released_intensity(p: dict[str, np.ndarray], heads: int, x: torch.Tensor) -> np.ndarray:
    """The release's arithmetic for a batch of equally long sequences, (B, T, D) -> (B,)."""
    size, steps, _ = x.shape
    width = len(p["norm.weight"])
    x = np.concatenate([array(x), np.zeros((size, steps, width - x.shape[2]))], 2)
    attended = []
    for example in x:
        q, k, v = split_three(p["qkv.weight"], p["qkv.bias"], list(example))
        attended.append(slow_attend(q, k, v, heads))
    largest = []
    for own in x:
        by_step = []
        for t in range(steps):
            sums = [slow_norm(p, "norm", others[t] + own[t]) for others in attended]
            by_step.append(3 * math.tanh(slow_linear(p, "output", np.mean(sums, 0)).item()))
        largest.append(max(by_step))
    return np.array(largest)


@pytest.mark.parametrize(("kind", "form"), [("fixed tokens", "auto"), ("odd vectors", "3d")])
@pytest.mark.parametrize("n", [2, 5, 9])
@pytest.mark.parametrize("most", [1, 2**24], ids=["in parts", "at once"])
def test_3d_mixed_examples_equal_a_loop(kind, form, n, most, monkeypatch):
    monkeypatch.setattr("methods.ms_mix_released.MOST_NUMBERS", most)
    latents, labels = make_latents(kind, n, seed=n, dtype=torch.float64), make_labels(n, 3.0, seed=n)
    method = make_method("ms_mix_released", kind, form=form).double()
    draw = method.draw(np.random.default_rng(n), labels.numpy())
    mixed = method(latents, labels, arrays_of(draw))
    flat = {m: array(x).reshape(n, -1) for m, x in latents.values.items()}
    pairs = slow_pairs(flat, draw, 0.4, n)
    assert [tuple(pair) for pair in mixed.indices.tolist()] == pairs
    lams, penalty, labels = [], 0.0, array(labels)
    for m, x in latents.values.items():
        w = released_intensity(parameters_of(method.predictors[m]), 4, x if x.ndim == 3 else x[:, None])
        np.testing.assert_allclose(array(method.intensities(latents)[m]), w, atol=1e-6)
        base = draw.arrays["weights"][:, 0]
        lam = [(base[k] + (w[i] + 1e-8) / (w[i] + w[j] + 2e-8)) / 2 for k, (i, j) in enumerate(pairs)]
        np.testing.assert_allclose(array(mixed.weights[m])[:, 0], lam, rtol=1e-3)
        made = [a * array(x)[i] + (1 - a) * array(x)[j] for a, (i, j) in zip(lam, pairs, strict=True)]
        np.testing.assert_allclose(array(mixed.latents.values[m]), made, rtol=1e-3, atol=1e-3)
        lams.append(lam)
        penalty += 0.5 * 1000 / n * slow_kl(w, labels)
    lam = np.mean(lams, 0)
    np.testing.assert_allclose(array(mixed.label_weights), np.stack([lam, 1 - lam], 1), rtol=1e-3)
    np.testing.assert_allclose(mixed.penalty.item(), penalty, rtol=1e-4)


def test_the_3d_weights_are_those_of_signed_intensities():
    made = signed_weights(
        torch.tensor([0.5, 0.5]), torch.tensor([2.0, -1.0, 1.0]), torch.tensor([[0, 1], [2, 0]])
    )
    torch.testing.assert_close(made, torch.tensor([[1.25, -0.25], [5 / 12, 7 / 12]]))


def test_each_form_is_used_where_the_release_has_it():
    """By default vectors are read as in the 2-D function and sequences as in the 3-D one."""
    labels = make_labels(6, 3.0)
    for kind, auto, other in (
        ("vectors", "2d", "3d"),
        ("sequences", "3d", "2d"),
        ("fixed tokens", "3d", "2d"),
    ):
        mixed = {
            form: run_method(make_method("ms_mix_released", kind, form=form), make_latents(kind, 6), labels)
            for form in ("auto", auto, other)
        }
        assert torch.equal(mixed["auto"].label_weights, mixed[auto].label_weights), kind
        assert not torch.equal(mixed["auto"].label_weights, mixed[other].label_weights), kind


def test_the_3d_form_does_not_read_padding():
    latents, method = make_latents("odd sequences", 5), make_method("ms_mix_released", "odd sequences")
    noise = {m: x + 100 * (~latents.valid(m))[..., None] for m, x in latents.values.items()}
    for m, intensity in method.intensities(Latents(noise, latents.lengths)).items():
        torch.testing.assert_close(intensity, method.intensities(latents)[m])
        # The step that only one example has depends on that example alone.
        alone = Latents(
            {k: x[:1] for k, x in latents.values.items()}, {k: x[:1] for k, x in latents.lengths.items()}
        )
        assert method.intensities(alone)[m].isfinite().all()


@pytest.mark.parametrize("delta", [0.4, 0.97])
def test_every_candidate_is_equally_likely(delta):
    similarity, labels = similarity_of(slow_pool(make_latents("vectors", 6))), make_labels(6, 3.0).numpy()
    candidates, values = slow_candidates(similarity, delta, 6), torch.tensor(list(similarity.values()))
    method, drawn = make_method("ms_mix_released", delta=delta), []
    for seed in range(300):
        draw = arrays_of(method.draw(np.random.default_rng(seed), labels))
        drawn += map(tuple, choose_ordered_pairs(values, draw["keys"], delta, 6).tolist())
    assert set(drawn) == candidates
    share = len(drawn) / len(candidates)
    assert all(abs(drawn.count(pair) - share) < 5 * math.sqrt(share) for pair in candidates)
    exchanged = {(j, i) for i, j in candidates}
    assert exchanged == candidates if delta == 0.4 else not exchanged & candidates


def test_small_batches():
    method = make_method("ms_mix_released", delta=0.6)
    assert method.draw(np.random.default_rng(0), np.zeros(1, np.float32)) is None
    mixed = run_method(method, make_latents("vectors", 2), make_labels(2, 3.0))
    assert mixed.indices.tolist() == [[0, 1], [0, 1]], "the one pair, twice"
    assert mixed.label_weights[0, 0] != mixed.label_weights[1, 0], "each with a ratio of its own"


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_intensities_reach_3_whatever_the_dataset(scale):
    method, latents = make_method("ms_mix_released", scale=scale), make_latents("vectors", 9)
    with torch.no_grad():
        for predictor in method.predictors.values():
            predictor.output.weight.mul_(1000)
    for m, predictor in method.predictors.items():
        assert predictor(latents.values[m], None).abs().max() > 2.99


@pytest.mark.parametrize("kind", MAKES)
def test_nothing_but_the_choice_of_pairs_is_detached(kind):
    latents, labels = make_latents(kind, 6), make_labels(6, 3.0)
    method = make_method("ms_mix_released", kind)
    mixed = run_method(method, latents, labels)
    prediction = make_labels(6, 3.0, seed=1)
    loss = mixed_loss(prediction, mixed, labels, "split_mse", CRITERIA["l1"])
    text = mixed.latents.values["text"].square().sum()
    for part, reached in ((loss, MODALITIES), (mixed.penalty, MODALITIES), (text, ["text"])):
        method.zero_grad()
        for values in latents.values.values():
            values.grad = None
        part.backward(retain_graph=True)
        for m in reached:
            assert method.predictors[m].output.weight.grad.any()
            assert latents.values[m].grad.any()
    assert not mixed.labels.requires_grad

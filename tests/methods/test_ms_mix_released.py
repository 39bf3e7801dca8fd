"""MS-Mix as released, against numbers worked out by hand and loops over pairs."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backbones.batch import MODALITIES, Latents
from harness.train.step import CRITERIA, mixed_loss
from methods.ms_mix import intensity_weights, mean_cosine, min_max
from methods.ms_mix_released import (
    choose_ordered_pairs,
    relative_intensity,
    released_penalty,
)
from tests.support.builders import (
    KINDS,
    array,
    arrays_of,
    check_mixed,
    make_labels,
    make_latents,
    make_method,
    run_method,
)

over_kinds = pytest.mark.parametrize("kind", KINDS)


# By hand


def test_similarity_by_hand():
    """Cosines of the pairs (0,1), (0,2), (1,2): text 0, 1, 0; audio 1, -1, -1; vision 0.6, 0.8, 0.96."""
    vectors = {
        "text": torch.tensor([[1.0, 0], [0, 2], [3, 0]]),
        "audio": torch.tensor([[1.0, 0], [5, 0], [-1, 0]]),
        "vision": torch.tensor([[1.0, 0], [3, 4], [4, 3]]),
    }
    s = mean_cosine(vectors)[[0, 0, 1], [1, 2, 2]]
    by_hand = torch.tensor([1.6, 0.8, -0.04]) / 3
    torch.testing.assert_close(s.float(), by_hand)
    torch.testing.assert_close(min_max(s).float(), torch.tensor([1.0, 0.84 / 1.64, 0.0]))


# Of four examples, the pairs (0,1), (0,2), (0,3), (1,2), (1,3), (2,3).
SIMILARITY = torch.tensor([0.9, 0.1, 0.5, 0.0, 1.0, 0.3])


def pairs_for(delta: float, n: int, keys: list[float]) -> list[tuple[int, int]]:
    made = choose_ordered_pairs(SIMILARITY, torch.tensor(keys), delta, n)
    return [tuple(pair) for pair in made.tolist()]


def test_candidates_by_hand():
    """Above 0.4: (0,1), (0,3), (1,3) and these exchanged, six; the largest keys come first."""
    keys = [0.1, 0.99, 0.2, 0.98, 0.3, 0.97, 0.4, 0.96, 0.5, 0.95, 0.6, 0.94]
    order = [(3, 1), (3, 0), (1, 0), (1, 3), (0, 3), (0, 1)]
    for n in range(1, 7):
        assert pairs_for(0.4, n, keys) == order[:n]
    # 0.5 is not above 0.5: four are left, enough for four.
    assert pairs_for(0.5, 4, keys) == [(3, 1), (1, 0), (1, 3), (0, 1)]


def test_the_fallback_by_hand():
    """Two candidates for n = 3: both dropped for the six most similar pairs i < j, here all."""
    keys = [0.1, 0.9, 0.2, 0.8, 0.3, 0.7, *[0.99] * 6]
    order = [(0, 2), (1, 2), (2, 3), (1, 3), (0, 3), (0, 1)]
    for n in (3, 4, 5, 6):
        assert pairs_for(0.95, n, keys) == order[:n]
    # For n = 2 the two candidates (1,3) and (3,1) are enough; at 1.0 there is none: the four most similar.
    assert sorted(pairs_for(0.95, 2, keys)) == [(1, 3), (3, 1)]
    assert pairs_for(1.0, 2, keys) == [(2, 3), (1, 3)]
    assert pairs_for(1.0, 1, keys) == [(1, 3)]


def test_weights_by_hand():
    torch.testing.assert_close(
        relative_intensity(torch.tensor([-1.0, 3.0, 2.0, -2.5])), torch.tensor([0.0, 1.0, 0.5, 0.75])
    )
    assert not relative_intensity(torch.full((3,), -2.0)).any()
    w, base = torch.tensor([0.0, 1.0, 0.5, 0.75]), torch.tensor([0.2, 0.6, 0.5])
    made = intensity_weights(base, w, torch.tensor([[1, 0], [2, 1], [3, 3]]))
    lams = torch.tensor([(0.2 + 1) / 2, (0.6 + 1 / 3) / 2, 0.5])
    torch.testing.assert_close(made, torch.stack([lams, 1 - lams], 1))


def test_the_penalty_by_hand():
    """Labels 3 ln 2 and 0: shares 2/3, 1/3; intensities -3 ln 3 and 0: 3/4, 1/4; both equal: 1/2, 1/2."""
    labels = torch.tensor([-3 * math.log(2), 0.0])
    intensities = {
        "text": torch.tensor([-3 * math.log(3), 0.0]),
        "audio": torch.tensor([1.0, -1.0]),
        "vision": labels,
    }
    text = 2 / 3 * math.log(8 / 9) + 1 / 3 * math.log(4 / 3)
    audio = 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)
    torch.testing.assert_close(released_penalty(intensities, labels), torch.tensor((text + audio) / 2))


def test_the_split_loss_by_hand():
    """lambda^L of 0.7 on labels 2 and -1: at p = 1, 0.7 * 1 + 0.3 * 4 = 1.9, and p is drawn to 1.1."""
    method, latents = make_method("ms_mix_released"), make_latents("vectors", 2)
    assert method.settings.mix_loss == "split_mse"
    labels = torch.tensor([2.0, -1.0])
    mixed = run_method(method, latents, labels)
    weights = torch.tensor([[0.7, 0.3]], requires_grad=True)
    mixed = dataclasses.replace(mixed.first(1), indices=torch.tensor([[0, 1]]), label_weights=weights)
    prediction = torch.tensor([1.0], requires_grad=True)
    loss = mixed_loss(prediction, mixed, labels, "split_mse", CRITERIA["l1"])
    loss.backward()
    torch.testing.assert_close(loss, torch.tensor(1.9))
    torch.testing.assert_close(prediction.grad, torch.tensor([2 * (0.7 * -1 + 0.3 * 2)]))
    torch.testing.assert_close(weights.grad, torch.tensor([[1.0, 4.0]]))


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


@settings(deadline=None, max_examples=150)
@given(st.integers(2, 9), st.integers(1, 12), st.floats(0, 1), st.integers(0, 999))
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


def slow_cosines(pooled: dict[str, np.ndarray]) -> dict[tuple[int, int], float]:
    out = {}
    for i, j in itertools.combinations(range(len(pooled["text"])), 2):
        cosines = [x[i] @ x[j] / (np.linalg.norm(x[i]) * np.linalg.norm(x[j])) for x in pooled.values()]
        out[i, j] = sum(cosines) / 3
    low, high = min(out.values()), max(out.values())
    return {p: 0.5 if high - low < 1e-8 else (s - low) / (high - low) for p, s in out.items()}


def slow_kl(intensity: np.ndarray, labels: np.ndarray) -> float:
    def shares(x):
        e = [math.exp(abs(v) / 3) for v in x]
        return [v / sum(e) + 1e-8 for v in e]

    return sum(p * math.log(p / q) for p, q in zip(shares(labels), shares(intensity), strict=True))


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(list(KINDS)),
    st.sampled_from([2, 3, 4, 5, 6, 7, 8, 9, 64]),
    st.sampled_from([0.0, 0.4, 0.7, 0.97]),
    st.sampled_from([1.0, 3.0]),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_mixed_examples_equal_a_loop(kind, n, delta, scale, dtype):
    latents, labels = make_latents(kind, n, seed=n, dtype=dtype), make_labels(n, scale, seed=n)
    method = make_method("ms_mix_released", kind, scale, delta=delta).to(dtype)
    draw = method.draw(np.random.default_rng(n), labels.numpy())
    mixed = method(latents, labels, arrays_of(draw))
    check_mixed(mixed, latents, labels)
    assert mixed.counted is None
    pooled = slow_pool(latents)
    assert {tuple(p) for p in mixed.indices.tolist()} <= slow_candidates(slow_cosines(pooled), delta, n)
    if n > 2:
        assert len({tuple(p) for p in mixed.indices.tolist()}) == n, "without replacement"
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


# Draws, sizes, gradients


@pytest.mark.parametrize("delta", [0.4, 0.97])
def test_every_candidate_is_equally_likely(delta):
    latents, labels = make_latents("vectors", 6), make_labels(6, 3.0)
    method = make_method("ms_mix_released", delta=delta)
    candidates = slow_candidates(slow_cosines(slow_pool(latents)), delta, 6)
    drawn = [
        tuple(pair)
        for seed in range(300)
        for pair in run_method(method, latents, labels, seed).indices.tolist()
    ]
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


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_few_examples_at_the_released_threshold(n):
    """Enough ordered pairs above 0.4 in some batches, the most similar pairs i < j in others.

    One pair has no range, so S' = 0.5 > 0.4: both of its orders are candidates, and both are taken.
    """
    fell_back, first = set(), set()
    every = list(itertools.combinations(range(n), 2))
    for seed in range(60 if n > 2 else 12):
        latents, labels = make_latents("vectors", n, seed), make_labels(n, 3.0)
        method = make_method("ms_mix_released")
        draw = method.draw(np.random.default_rng(seed), labels.numpy())
        mixed = method(latents, labels, arrays_of(draw))
        key_of = dict(zip([*every, *((j, i) for i, j in every)], draw.arrays["keys"], strict=True))
        candidates = slow_candidates(slow_cosines(slow_pool(latents)), 0.4, n)
        chosen = [tuple(pair) for pair in mixed.indices.tolist()]
        assert chosen == sorted(candidates, key=lambda pair: -key_of[pair])[:n]
        assert len(set(chosen)) == n, "without replacement"
        fell_back.add(all(i < j for i, j in candidates))
        first.add(chosen[0])
    assert fell_back == ({True, False} if n > 2 else {False})
    assert len(first) > 1, "in either order"


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_intensities_reach_3_whatever_the_dataset(scale):
    method, latents = make_method("ms_mix_released", scale=scale), make_latents("vectors", 9)
    with torch.no_grad():
        for predictor in method.predictors.values():
            predictor.output.weight.mul_(1000)
    for m, predictor in method.predictors.items():
        assert predictor(latents.values[m], None).abs().max() > 2.99


@over_kinds
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

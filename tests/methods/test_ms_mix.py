"""MS-Mix, part by part, against slow loops: which pairs, which ratio, the penalty."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.stats import entropy

from backbones.batch import MODALITIES, Latents
from methods.ms_mix import IntensityPredictor, alignment_penalty, choose_pairs, mean_cosine, min_max
from tests.support.builders import (
    KINDS,
    MAKES,
    array,
    arrays_of,
    check_mixed,
    make_labels,
    make_latents,
    make_method,
    run_method,
)

over_kinds = pytest.mark.parametrize("kind", MAKES)


def slow_similarities(latents: Latents) -> dict[tuple[int, int], float]:
    """Mean over modalities of the cosine of each unordered pair, on masked means or flattened tokens."""
    out = {}
    for i, j in itertools.combinations(range(len(latents)), 2):
        cosines = []
        for m, values in latents.values.items():
            pair = [array(values[k]) for k in (i, j)]
            if m in latents.lengths:
                pair = [x[: latents.lengths[m][k]].mean(0) for x, k in zip(pair, (i, j), strict=True)]
            a, b = (x.ravel() for x in pair)
            norms = np.linalg.norm(a) * np.linalg.norm(b)
            cosines.append(a @ b / norms if norms > 0 else 0.0)
        out[i, j] = sum(cosines) / len(cosines)
    return out


def scaled(pairs: dict[tuple[int, int], float], similarity: str) -> dict[tuple[int, int], float]:
    """What the threshold is compared with."""
    if similarity == "cosine":
        return pairs
    low, high = min(pairs.values()), max(pairs.values())
    return {p: 0.5 if high - low < 1e-8 else (s - low) / (high - low) for p, s in pairs.items()}


def slow_candidates(latents: Latents, delta: float, similarity: str) -> set[tuple[int, int]]:
    return {pair for pair, s in scaled(slow_similarities(latents), similarity).items() if s > delta}


@pytest.mark.parametrize(("kind", "n"), list(zip(MAKES, (2, 5, 16), strict=True)))
@pytest.mark.parametrize("similarity", ["minmax", "cosine"])
@pytest.mark.parametrize("delta", [-0.3, 0.0, 0.2, 0.45, 0.7, 0.99])
def test_sass_pairs(kind, similarity, delta, n):
    latents, labels = make_latents(kind, n, seed=n, dtype=torch.float64), make_labels(n, 3.0)
    method = make_method("ms_mix", kind, delta=delta, similarity=similarity, sig=False, sal=False)
    candidates = slow_candidates(latents, delta, similarity)
    for seed in range(2):
        mixed = run_method(method, latents, labels, seed)
        assert mixed.counted.shape == (n,)
        assert mixed.diagnostics["passed_pairs"] == len(candidates)
        assert mixed.counted.all() == mixed.counted.any() == bool(candidates)
        pairs = [tuple(sorted(pair)) for pair in mixed.indices.tolist()]
        if candidates:
            assert len(pairs) == n
            assert set(pairs) <= candidates
        if len(candidates) >= n:
            assert len(set(pairs)) == n


# What a generator gives in float32: 0 and the largest number below 1 are the extremes.
LARGEST = 1 - 2.0**-24
fractions = st.one_of(st.sampled_from([0.0, LARGEST]), st.floats(0, LARGEST, width=32))


@given(st.integers(2, 6), st.data())
def test_chosen_pairs_are_candidates(size, data):
    """Take candidates in the order of their keys or, if they are too few, each by its drawn fraction."""
    every = list(itertools.combinations(range(size), 2))
    candidate = data.draw(arrays.arrays(bool, len(every)))
    seed = data.draw(st.integers(0, 1000))
    n = data.draw(st.integers(1, 2 * size))
    generator = np.random.default_rng(seed)
    draw = {
        "keys": torch.from_numpy(generator.random(len(every), np.float32)),
        "fallback": torch.from_numpy(data.draw(arrays.arrays(np.float32, n, elements=fractions))),
        "flip": torch.from_numpy(generator.random(n) < 0.5),
    }
    indices, passed = choose_pairs(torch.from_numpy(candidate), draw)
    allowed = {pair for pair, use in zip(every, candidate, strict=True) if use}
    chosen = [tuple(sorted(pair)) for pair in indices.tolist()]
    assert indices.shape == (n, 2)
    assert int(passed) == len(allowed)
    assert all(i != j for i, j in chosen)
    if allowed:
        ranked = sorted(sorted(allowed), key=lambda pair: -float(draw["keys"][every.index(pair)]))
        positions = [math.floor(np.float32(f) * np.float32(len(ranked))) for f in draw["fallback"].numpy()]
        assert chosen == [ranked[k] for k in (range(n) if len(ranked) >= n else positions)]
    np.testing.assert_array_equal(indices[:, 0].numpy() > indices[:, 1].numpy(), draw["flip"].numpy())


@pytest.mark.parametrize("options", [{"delta": 0.0}, {"delta": 0.4}, {"delta": 0.8}, {"sass": False}])
def test_every_candidate_is_equally_likely_in_both_orientations(options):
    method, labels = make_method("ms_mix", sig=False, sal=False, **options), make_labels(6, 3.0).numpy()
    candidates = slow_candidates(make_latents("vectors", 6), options.get("delta", -1.0), "minmax")
    mask = torch.tensor([pair in candidates for pair in itertools.combinations(range(6), 2)])
    batches = []
    for seed in range(400):
        draw = arrays_of(method.draw(np.random.default_rng(seed), labels))
        batches.append((choose_pairs(mask, draw)[0] if method.settings.sass else draw["indices"]).tolist())
    if len(candidates) >= 6:
        assert all(len({frozenset(pair) for pair in batch}) == 6 for batch in batches), "no replacement"
    ordered = [pair for batch in batches for pair in batch]
    share = len(ordered) / len(candidates)
    assert {tuple(sorted(pair)) for pair in ordered} == candidates
    for i, j in candidates:
        assert abs(ordered.count([i, j]) + ordered.count([j, i]) - share) < 5 * math.sqrt(share)
        assert abs(ordered.count([i, j]) - ordered.count([j, i])) < 5 * math.sqrt(share)


@pytest.mark.parametrize(("n", "width"), [(3, 1), (17, 3), (5, 128), (64, 33)])
def test_latents_of_one_direction_have_no_similarity_range(n, width):
    torch.manual_seed(0)
    vectors = {"text": torch.randn(1, width) * (torch.rand(n, 1) + 0.1)}
    i, j = torch.triu_indices(n, n, 1)
    assert (min_max(mean_cosine(vectors)[i, j]) == 0.5).all(), "rounding was taken for a range"


def slow_intensity(predictor: IntensityPredictor, x: np.ndarray, length: int) -> float:
    """The intensity of one sample (T, D): attention head by head, query by query."""
    p, weights = predictor.width, {k: array(v) for k, v in predictor.state_dict().items()}
    tokens = np.zeros((length, p))
    tokens[:, : x.shape[1]] = x[:length]
    q, k, v = np.split(tokens @ weights["qkv.weight"].T + weights["qkv.bias"], 3, axis=1)
    attended, size = np.zeros((length, p)), p // predictor.heads
    for head in range(predictor.heads):
        part = slice(head * size, (head + 1) * size)
        for query in range(length):
            scores = np.array([q[query, part] @ k[key, part] / math.sqrt(size) for key in range(length)])
            share = np.exp(scores - scores.max())
            attended[query, part] = (share / share.sum()) @ v[:, part]
    states = attended + tokens
    states = (states - states.mean(1, keepdims=True)) / np.sqrt(states.var(1, keepdims=True) + 1e-5)
    mean = (states * weights["norm.weight"] + weights["norm.bias"]).mean(0)
    return predictor.scale * math.tanh((weights["output.weight"] @ mean + weights["output.bias"]).item())


def perturbed(predictor: IntensityPredictor) -> IntensityPredictor:
    """Add noise to all weights, so that no layer is close to the identity."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in predictor.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return predictor


@over_kinds
@pytest.mark.parametrize(("heads", "scale"), [(1, 1.0), (4, 3.0)])
def test_intensity_equals_a_loop(kind, heads, scale):
    latents = make_latents(kind, 5, dtype=torch.float64)
    for m, values in latents.values.items():
        predictor = perturbed(IntensityPredictor(KINDS[kind][0][m], heads, "tokens", scale)).double()
        made = predictor(values, latents.valid(m))
        assert made.shape == (5,)
        assert (made.abs() <= scale).all()
        for row in range(5):
            sample = array(values[row]).reshape(-1, values.shape[-1])
            length = int(latents.lengths[m][row]) if m in latents.lengths else len(sample)
            assert abs(made[row].item() - slow_intensity(predictor, sample, length)) < 1e-9


@over_kinds
def test_attention_over_the_batch_mixes_samples(kind):
    latents, labels = make_latents(kind, 6), make_labels(6, 3.0)
    values, valid = latents.values["audio"], latents.valid("audio")
    predictor = perturbed(IntensityPredictor(values.shape[-1], 4, "batch", 3.0))
    intensity = predictor(values, valid)
    assert intensity.isfinite().all()
    first = predictor(values[:3], None if valid is None else valid[:3])
    assert not torch.allclose(first, intensity[:3], atol=1e-4)
    mixed = run_method(make_method("ms_mix", kind, attention="batch"), latents, labels)
    check_mixed(mixed, latents, labels)


def test_attention_over_the_batch_ignores_padding():
    predictor = perturbed(IntensityPredictor(8, 4, "batch", 3.0))
    latents = make_latents("sequences", 6)
    values, valid = latents.values["text"].detach(), latents.valid("text")
    longer = torch.nn.functional.pad(values, (0, 0, 0, 4))
    with_padding = predictor(longer, torch.nn.functional.pad(valid, (0, 4)))
    torch.testing.assert_close(with_padding, predictor(values, valid), atol=1e-5, rtol=1e-5)


def test_heads_do_not_change_the_parameters():
    for width, count in ((128, 49_921), (1, 241), (9, 865)):
        for heads in (1, 2, 4, 8):
            predictor = IntensityPredictor(width, heads, "tokens", 3.0)
            assert sum(p.numel() for p in predictor.parameters()) == count


def test_with_one_token_the_heads_cannot_matter():
    outputs, x = [], make_latents("odd vectors", 6).values["vision"]
    for heads in (1, 2, 4, 8):
        torch.manual_seed(0)
        predictor = perturbed(IntensityPredictor(13, heads, "tokens", 3.0))
        outputs.append(predictor(x, None))
        predictor.zero_grad()
        outputs[-1].sum().backward()
        assert not predictor.qkv.weight.grad[:32].any(), "query and key weights have no gradient"
        assert predictor.qkv.weight.grad[32:].any()
    assert all(torch.equal(out, outputs[0]) for out in outputs)


@over_kinds
@pytest.mark.parametrize(
    ("n", "scale", "dtype"), [(1, 3.0, torch.float32), (2, 1.0, torch.float64), (9, 3.0, torch.float32)]
)
def test_sig_in_the_whole(kind, n, scale, dtype):
    latents, labels = make_latents(kind, n, seed=n, dtype=dtype), make_labels(n, scale)
    method = make_method("ms_mix", kind, scale).to(dtype)
    draw = method.draw(np.random.default_rng(n), labels.numpy())
    if n == 1:
        assert draw is None
        return
    base = draw.arrays["weights"][:, 0]
    assert len(np.unique(base)) == n, "lambda_base is drawn per pair"
    mixed = method(latents, labels, arrays_of(draw))
    made = []
    for m in MODALITIES:
        w = [abs(i) for i in method.predictors[m](latents.values[m], latents.valid(m)).tolist()]
        pairs = enumerate(mixed.indices.tolist())
        lam = [(base[k] + (w[i] + 1e-8) / (w[i] + w[j] + 2e-8)) / 2 for k, (i, j) in pairs]
        np.testing.assert_allclose(array(mixed.weights[m]), [[x, 1 - x] for x in lam], atol=1e-5)
        assert mixed.weights[m].requires_grad
        made.append(lam)
    means = [sum(lams) / 3 for lams in zip(*made, strict=True)]
    np.testing.assert_allclose(array(mixed.label_weights), [[x, 1 - x] for x in means], atol=1e-5)
    assert not mixed.label_weights.requires_grad
    mixed.latents.values["text"].square().sum().backward()
    assert all(p.grad.any() for p in method.predictors["text"].output.parameters())
    assert all(p.grad is None for p in method.predictors["audio"].parameters())


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("n", [1, 2, 9])
def test_alignment_penalty_is_the_kl_divergence(scale, n):
    labels = make_labels(n, scale)
    intensities = {m: make_labels(n, scale, seed=k + 1) for k, m in enumerate(MODALITIES)}

    def share(x):
        e = np.exp(np.abs(array(x)) / scale)
        return e / e.sum()

    wanted = sum(entropy(share(i), share(labels)) for i in intensities.values())
    made = alignment_penalty(intensities, labels, scale)
    assert abs(made.item() - wanted) < 1e-6


def test_the_penalty_is_weighed_and_switched():
    latents, labels = make_latents("vectors", 6), make_labels(6, 3.0)
    method = make_method("ms_mix", xi2=0.25, beta=3.0)
    intensities = {m: p(latents.values[m], None) for m, p in method.predictors.items()}
    wanted = 0.25 * 3.0 * alignment_penalty(intensities, labels, 3.0)
    torch.testing.assert_close(run_method(method, latents, labels).penalty, wanted)
    assert wanted > 0
    assert run_method(make_method("ms_mix", sal=False), latents, labels).penalty == 0


@pytest.mark.parametrize("sig", [True, False])
@over_kinds
def test_the_penalty_trains_predictors_and_encoders(kind, sig):
    latents, labels = make_latents(kind, 6), make_labels(6, 3.0)
    method = make_method("ms_mix", kind, sig=sig)
    run_method(method, latents, labels).penalty.backward()
    for m in MODALITIES:
        assert latents.values[m].grad.any()
        assert method.predictors[m].output.weight.grad.any()
        assert method.predictors[m].qkv.weight.grad.any()


@pytest.mark.parametrize("switches", list(itertools.product([True, False], repeat=3)))
@pytest.mark.parametrize("n", [2, 5])
def test_the_eight_variants(switches, n):
    latents, labels = make_latents("sequences", n), make_labels(n, 1.0)
    sass, sig, sal = switches
    method = make_method("ms_mix", "sequences", 1.0, sass=sass, sig=sig, sal=sal)
    mixed = run_method(method, latents, labels)
    assert (mixed.counted is not None) == sass
    assert bool(mixed.penalty > 0) == sal
    assert any(w.requires_grad for w in mixed.weights.values()) == sig
    assert bool(list(method.parameters())) == (sig or sal)
    same = [torch.equal(mixed.weights[m], mixed.weights["text"]) for m in MODALITIES]
    assert all(same) != sig


@pytest.mark.parametrize("kind", MAKES)
@pytest.mark.parametrize("similarity", ["minmax", "cosine"])
def test_an_explanation_has_what_was_mixed(kind, similarity):
    latents, labels = make_latents(kind, 5, dtype=torch.float64), make_labels(5, 3.0)
    method = make_method("ms_mix", kind, similarity=similarity).double()
    draw = arrays_of(method.draw(np.random.default_rng(0), labels.numpy()))
    mixed, explained = method(latents, labels, draw), method.explain(latents, labels, draw)
    wanted = np.eye(5)
    for (i, j), s in scaled(slow_similarities(latents), similarity).items():
        wanted[i, j] = wanted[j, i] = s
    np.testing.assert_allclose(array(explained.pop("similarity")), wanted, atol=1e-9)
    parts = {"indices": mixed.indices, "labels": labels, "lambda_label": mixed.label_weights[:, 0]}
    for m in MODALITIES:
        parts[f"lambda_{m}"] = mixed.weights[m][:, 0]
        parts[f"intensity_{m}"] = method.predictors[m](latents.values[m], latents.valid(m))
    assert explained.keys() == parts.keys()
    assert all(torch.equal(explained[name], part) for name, part in parts.items())

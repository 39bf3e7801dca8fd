"""Every method of the registry against the contract and slow loops; then draws and reductions."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backbones.batch import MODALITIES, Latents, concatenate
from methods import METHODS
from methods.base import Method, draw_beta, interpolate, mix
from tests.support.builders import (
    MAKES,
    MIXING,
    WithoutSamplers,
    array,
    arrays_of,
    check_mixed,
    extrapolates,
    make_labels,
    make_latents,
    make_method,
    plain_network,
    run_method,
    slow_mix,
)

over_methods = pytest.mark.parametrize("name", MIXING)
# Duplicate draws nothing and mixes nothing: tests/methods/test_duplicate.py.
over_random = pytest.mark.parametrize("name", [name for name in MIXING if name != "duplicate"])
over_kinds = pytest.mark.parametrize("kind", MAKES)
over_sizes = pytest.mark.parametrize(("kind", "n"), list(zip(MAKES, (2, 3, 9), strict=True)))


# Sets of mixed examples per batch
SETS = {"av_mc": 2}

# The contract, over the registry


def occluded(latents: Latents, seed: int) -> Latents:
    """Return the latents with some valid steps of their sequences marked as dropped."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {m: latents.values[m].shape[:2] for m in latents.lengths}
    kept = {m: latents.valid(m) & (torch.rand(s, generator=generator) < 0.7) for m, s in shapes.items()}
    return dataclasses.replace(latents, kept=kept)


@over_methods
@given(
    st.sampled_from(MAKES),
    st.sampled_from([1, 2, 3, 4, 9]),
    st.sampled_from([1.0, 3.0]),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(0, 99),
    st.data(),
)
def test_contract(name, kind, n, scale, dtype, seed, data):
    """Mixed examples equal a loop with the returned indices and weights; gradients are finite."""
    components = METHODS[name].Settings.components
    switches = data.draw(st.fixed_dictionaries(dict.fromkeys(components, st.booleans())))
    method = make_method(name, kind, scale, seed, **switches).to(dtype)
    latents, labels = occluded(make_latents(kind, n, seed, dtype), seed), make_labels(n, scale, seed)
    draw = method.draw(np.random.default_rng(seed), labels.numpy())
    if draw is None:
        assert n == 1, "only a batch of one may go unmixed"
        return
    arrays = arrays_of(draw)
    mixed = method(latents, labels, arrays, plain_network())
    check_mixed(mixed, latents, labels, not extrapolates(name, latents))
    assert len(mixed) == SETS.get(name, 1) * n or (name == "powmix" and 1 <= len(mixed) <= n)
    assert not mixed.labels.requires_grad
    if type(method).forward is Method.forward:
        assert torch.equal(mixed.indices, arrays["indices"])
        weights = (*mixed.weights.values(), mixed.label_weights)
        assert all(torch.equal(w, arrays["weights"]) for w in weights)
    loss = sum((x.square()).sum() for x in mixed.latents.values.values()) + mixed.penalty
    loss.backward()
    for m, values in latents.values.items():
        assert values.grad.isfinite().all()
        assert values.grad.any(), m
    for parameter in method.parameters():
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in MIXING if METHODS[name].forward is Method.forward),
        ("advmixup", {}),
        ("multimix", {"examples_per_mixture": 2}),
        ("powmix", {"n_ratio": 2.0, "random_n": False}),
        ("ms_mix", {"sig": False, "sal": False}),
    ],
)
@over_kinds
def test_gradients_are_the_weights_where_they_are_not_learned(name, options, kind):
    latents, labels = make_latents(kind, 6), make_labels(6, 3.0)
    mixed = run_method(make_method(name, kind, **options), latents, labels)
    assert not any(w.requires_grad for w in (*mixed.weights.values(), mixed.label_weights))
    assert all(values.grad is None for values in latents.values.values())
    sum(x.sum() for x in mixed.latents.values.values()).backward()
    for m, values in latents.values.items():
        wanted = np.zeros((6, values.shape[-1]))
        for members, weights in zip(mixed.indices.tolist(), array(mixed.weights[m]), strict=True):
            for member, weight in zip(members, weights, strict=True):
                wanted[member] += weight.ravel()
        steps = array(values.grad).reshape(6, -1, values.shape[-1])
        np.testing.assert_allclose(steps, np.tile(wanted[:, None], (1, steps.shape[1], 1)), atol=1e-5)


@over_methods
@over_sizes
@pytest.mark.parametrize("content", ["zero", "constant", "same direction", "label 0"])
def test_degenerate_latents_and_labels_give_no_nan(name, kind, n, content):
    method = make_method(name, kind)
    latents = make_latents(kind, n)
    with torch.no_grad():
        for values in latents.values.values():
            if content == "zero":
                values.zero_()
            elif content == "constant":
                values.copy_(values[:1].expand_as(values))
            elif content == "same direction":
                values.copy_(values[:1] * torch.arange(1.0, n + 1).view(-1, *[1] * (values.ndim - 1)))
    latents = Latents(latents.values, {m: torch.full_like(x, x.max()) for m, x in latents.lengths.items()})
    labels = torch.zeros(n) if content == "label 0" else make_labels(n, 3.0)
    mixed = run_method(method, latents, labels)
    check_mixed(mixed, latents, labels, not extrapolates(name, latents))
    total = sum((x + 1).square().sum() for x in mixed.latents.values.values()) + mixed.penalty
    total.backward()
    assert total.isfinite()
    tensors = [*latents.values.values(), *method.parameters()]
    assert all(x.grad.isfinite().all() for x in tensors)


@over_random
def test_a_draw_depends_on_its_generator_alone(name):
    method, labels = make_method(name), make_labels(9, 3.0).numpy()
    first, again, other = (method.draw(np.random.default_rng(seed), labels) for seed in (1, 1, 2))
    torch.manual_seed(1)
    assert first.layer == again.layer
    assert list(first.arrays) == list(again.arrays)
    for key, drawn in first.arrays.items():
        np.testing.assert_array_equal(drawn, again.arrays[key])
    assert any(not np.array_equal(drawn, other.arrays[key]) for key, drawn in first.arrays.items())


@over_methods
def test_mixing_is_a_function_of_its_arguments(name):
    latents, labels = make_latents("odd sequences", 6), make_labels(6, 3.0)
    method = make_method(name, "odd sequences")
    draw = arrays_of(method.draw(np.random.default_rng(0), labels.numpy()))
    before = {m: x.detach().clone() for m, x in latents.values.items()}
    torch.manual_seed(0)
    first = method(latents, labels, draw, plain_network())
    torch.manual_seed(1)
    second = method(latents, labels, draw, plain_network())
    for m in MODALITIES:
        assert torch.equal(first.latents.values[m], second.latents.values[m])
        assert torch.equal(latents.values[m], before[m])
    assert torch.equal(first.labels, second.labels)


@over_methods
@over_kinds
@pytest.mark.parametrize("only", [["audio"], ["vision", "text"], ["audio", "vision"]])
def test_modalities_that_are_not_mixed_stay_the_first_members(name, kind, only):
    """Bit for bit; mixed modalities, label and penalty are those without the setting."""
    latents, labels = occluded(make_latents(kind, 6), 0), make_labels(6, 3.0)
    whole = run_method(make_method(name, kind), latents, labels)
    mixed = run_method(make_method(name, kind, only=only), latents, labels)
    check_mixed(mixed, latents, labels, not extrapolates(name, latents))
    first = mixed.indices[:, 0]
    for m in MODALITIES:
        if m not in only:
            assert torch.equal(mixed.latents.values[m], latents.values[m][first])
            assert (mixed.weights[m][:, 0] == 1).all()
            assert not mixed.weights[m][:, 1:].any()
        elif name not in SETS:
            assert torch.equal(mixed.latents.values[m], whole.latents.values[m])
    if name not in SETS:
        assert torch.equal(mixed.labels, whole.labels)
        assert torch.equal(mixed.penalty, whole.penalty)


@over_methods
def test_the_first_mixed_examples(name):
    latents, labels = make_latents("sequences", 9), make_labels(9, 3.0)
    mixed = run_method(make_method(name, "sequences"), latents, labels)
    n = min(4, len(mixed))
    first = mixed.first(n)
    assert len(first) == n
    check_mixed(first, latents, labels, not extrapolates(name, latents))
    assert torch.equal(first.penalty, mixed.penalty)
    assert first.counted is None or len(first.counted) == n


def test_none_mixes_nothing():
    method = make_method("none")
    assert method.draw(np.random.default_rng(0), make_labels(5, 3.0).numpy()) is None
    assert not list(method.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_settings_refuse_what_cannot_be_used(name):
    kind = METHODS[name].Settings
    wrong = {float: (math.nan, math.inf, -2.0), str: ("nonsense",), int: (-1, 0), list: ([], [-1])}
    for field in dataclasses.fields(kind):
        default = getattr(kind(), field.name)
        for value in wrong.get(type(default), ()):
            with pytest.raises(ValueError, match=field.name):
                kind(**{field.name: value})
    with pytest.raises(dataclasses.FrozenInstanceError):
        kind().xi1 = 0.1
    loss = "split_mse" if name == "ms_mix_released" else "backbone"
    assert (kind().xi1, kind().mode, kind().mix_loss) == (0.7, "append", loss)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        *(("c_mixup", "sigma", value) for value in (-1.0, math.nan)),
        *((name, "alpha", value) for name in ("multimix", "powmix") for value in (-1.0, math.nan)),
        *((name, "alpha_high", 0.4) for name in ("multimix", "powmix")),
        *((name, "examples_per_mixture", value) for name in ("multimix", "powmix") for value in (0, 1)),
        ("powmix", "n_ratio", 0.0),
        ("powmix", "max_subset", 1),
    ],
)
def test_settings_out_of_range_are_refused(name, field, value):
    with pytest.raises(ValueError, match=f"{field} must be .*, got {value}"):
        make_method(name, **{field: value})


DIRICHLET = {"alpha": None, "alpha_low": 0.5, "alpha_high": 2, "examples_per_mixture": None}
DEFAULTS = {
    "mixup": {"alpha": 1, "per_sample": False},
    "manifold_mixup": {"alpha": 2, "layers": [1]},
    "c_mixup": {"alpha": 2, "sigma": None},
    "multimix": DIRICHLET,
    "advmixup": {"alpha": 1, "margin": 0.05, "eta": 0.5, "eps": 0.5},
    "powmix": {**DIRICHLET, "n_ratio": 1, "max_subset": 8},
    "ms_mix": {"delta": 0.2, "similarity": "minmax", "alpha": 2, "heads": 4, "attention": "tokens"}
    | {"xi2": 0.5, "beta": 16},
    "ms_mix_released": {"delta": 0.4, "alpha": 2, "heads": 4, "xi2": 0.5, "beta": 1000},
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_default_settings_are_the_published_ones(name):
    made = METHODS[name].Settings()
    assert {field: getattr(made, field) for field in DEFAULTS[name]} == DEFAULTS[name]
    assert all(getattr(made, component) for component in made.components)


@given(st.integers(1, 5), st.integers(0, 6), st.integers(1, 5), st.integers(0, 2), st.integers(0, 99))
def test_interpolate_equals_a_loop(batch, n, members, extra, seed):
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(batch, *(3, 2)[:extra]))
    indices = generator.integers(0, batch, (n, members))
    weights = generator.dirichlet(np.ones(members), n).reshape(n, members)
    if extra == 2 and seed % 2:  # features with weights of their own
        weights = generator.dirichlet(np.ones(members), (n, 1, 2)).transpose(0, 3, 1, 2)
    made = interpolate(*(torch.from_numpy(x) for x in (values, indices, weights)))
    np.testing.assert_allclose(made.numpy(), slow_mix(values, indices, weights), atol=1e-12)


@pytest.mark.parametrize("weights", [[1.5, -0.5], [0.5, 0.6], [0.2, 0.2]])
def test_weights_that_are_no_convex_combination_are_an_error(weights):
    with pytest.raises(AssertionError):
        mix(make_latents("vectors", 2), torch.zeros(2), torch.tensor([[0, 1]]), torch.tensor([weights]))


def test_stacked_latents_keep_the_first_ones_auxiliary_loss():
    first, second = make_latents("sequences", 3), make_latents("sequences", 2, seed=1)
    both = concatenate(dataclasses.replace(first, auxiliary=torch.tensor(1.0)), second)
    assert len(both) == 5
    assert both.auxiliary == 1
    for m in MODALITIES:
        assert torch.equal(both.values[m][3:], second.values[m])
        assert torch.equal(both.lengths[m], torch.cat([first.lengths[m], second.lengths[m]]))


@pytest.mark.parametrize("alpha", [1e-300, 1e-5, 0.1, 1.0, 2.0, 1e5])
def test_beta_draws_have_the_right_mean_and_variance(alpha):
    drawn = draw_beta(np.random.default_rng(0), alpha, 20_000)
    assert ((drawn >= 0) & (drawn <= 1)).all()
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(drawn.mean() - 0.5) < 4 * math.sqrt(variance / 20_000)
    assert abs(drawn.var() / variance - 1) < 0.05


@pytest.mark.parametrize(("alpha", "limits"), [(1e308, {0.5}), (5e-324, {0.0, 1.0})])
def test_beta_draws_at_the_ends_of_alpha(alpha, limits):
    drawn = draw_beta(np.random.default_rng(0), alpha, 1000)
    nearest = [min(limits, key=lambda limit: abs(limit - x)) for x in drawn]
    np.testing.assert_allclose(drawn, nearest, rtol=0, atol=1e-6)
    assert all(abs(nearest.count(limit) - 1000 / len(limits)) < 80 for limit in limits)


@pytest.mark.parametrize("name", ["mixup", "manifold_mixup"])
def test_one_lambda_and_one_permutation_for_the_batch(name):
    method, labels = make_method(name), make_labels(40, 3.0).numpy()
    fixed_points, lams = 0, set()
    for seed in range(50):
        draw = method.draw(np.random.default_rng(seed), labels)
        indices, weights = draw.arrays["indices"], draw.arrays["weights"]
        np.testing.assert_array_equal(indices[:, 0], np.arange(40))
        np.testing.assert_array_equal(np.sort(indices[:, 1]), np.arange(40))
        fixed_points += (indices[:, 1] == np.arange(40)).sum()
        assert len(np.unique(weights[:, 0])) == 1
        lams.add(float(weights[0, 0]))
    assert len(lams) == 50
    assert fixed_points > 20, "a permutation has one fixed point on average"


def test_one_lambda_per_sample():
    method = make_method("mixup", per_sample=True)
    draw = method.draw(np.random.default_rng(0), make_labels(40, 3.0).numpy())
    assert len(np.unique(draw.arrays["weights"][:, 0])) == 40


@pytest.mark.parametrize("layers", [[0], [1], [2], [0, 2], [0, 1, 2]])
def test_manifold_mixup_draws_its_layers_uniformly(layers):
    method, labels = make_method("manifold_mixup", layers=layers), make_labels(3, 3.0).numpy()
    drawn = [method.draw(np.random.default_rng(seed), labels).layer for seed in range(900)]
    assert set(drawn) == set(layers)
    assert all(abs(drawn.count(layer) - 900 / len(layers)) < 60 for layer in layers)
    assert make_method("mixup").draw(np.random.default_rng(0), labels).layer == 0
    assert make_method("ms_mix").draw(np.random.default_rng(0), labels).layer == 1


@pytest.mark.parametrize("name", [name for name in MIXING if hasattr(METHODS[name].Settings(), "alpha")])
def test_alpha_zero_never_calls_a_sampler(name):
    method = make_method(name, alpha=0.0)
    for n in (1, 2, 9):
        method.draw(WithoutSamplers(n), make_labels(n, 3.0).numpy())
    for component in method.settings.components:
        switched = make_method(name, alpha=0.0, **{component: False})
        switched.draw(WithoutSamplers(0), make_labels(9, 3.0).numpy())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mixup", {}),
        ("mixup", {"per_sample": True}),
        ("manifold_mixup", {}),
        ("ms_mix", {"sig": False}),
        ("ms_mix", {"sig": False, "sal": False, "sass": False}),
        ("c_mixup", {}),
        ("multimix", {}),
        ("multimix", {"examples_per_mixture": 2}),
        ("advmixup", {"margin": 0.0}),
        ("powmix", {"anisotropic": False}),
        ("powmix", {"anisotropic": False, "dynamic": False, "cross_modal_labels": False}),
    ],
)
@over_kinds
def test_alpha_zero_copies_bit_by_bit(name, options, kind):
    latents, labels = make_latents(kind, 7), make_labels(7, 3.0)
    method = make_method(name, kind, alpha=0.0, **options)
    seen = set()
    for seed in range(6):
        mixed = run_method(method, latents, labels, seed)
        chosen = mixed.label_weights.argmax(1)
        source = mixed.indices[torch.arange(len(mixed)), chosen]
        seen |= set(chosen.tolist())
        assert torch.equal(mixed.labels, labels[source])
        for m in MODALITIES:
            assert torch.equal(mixed.latents.values[m], latents.values[m][source])
            if m in latents.lengths:
                assert torch.equal(mixed.latents.lengths[m], latents.lengths[m][source])
    assert seen >= {0, 1}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ms_mix", {"sass": False, "sig": False, "sal": False}),
        ("c_mixup", {}),
        ("advmixup", {"eps": 0.0}),
        ("advmixup", {"eta": 0.0}),
        ("multimix", {"examples_per_mixture": 2}),
        ("powmix", dict.fromkeys(METHODS["powmix"].Settings.components, False) | {"examples_per_mixture": 2}),
    ],
)
@over_sizes
def test_methods_without_their_parts_are_manifold_mixup(name, options, kind, n):
    """They mix the same rows with the same indices and weights, whichever of the two draws them."""
    latents, labels = make_latents(kind, n), make_labels(n, 3.0)
    method = make_method(name, kind, **options)
    assert not list(method.parameters())
    manifold = make_method("manifold_mixup", kind)
    for seed, drawing in enumerate((method, manifold)):
        draw = arrays_of(drawing.draw(np.random.default_rng(seed), labels.numpy()))
        made, wanted = (each(latents, labels, draw, plain_network()) for each in (method, manifold))
        for part in ("values", "lengths"):
            ours, theirs = (getattr(mixed.latents, part) for mixed in (made, wanted))
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
        torch.testing.assert_close(made.labels, wanted.labels, atol=1e-6, rtol=0)
        assert made.penalty == 0
        assert made.counted is None

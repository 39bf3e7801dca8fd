"""MISA against slow loops, its losses against hand-worked examples, its options and published settings."""

import copy
import math
from itertools import combinations

import numpy as np
import pytest
import torch

from backbones.batch import MODALITIES, Batch, Latents, concatenate
from backbones.misa import MISA, Discriminator, MISASettings, reversal, reverse, soft_orthogonality
from tests.support.builders import array, make_backbone, make_batch, make_sizes
from tests.support.slow_layers import (
    below,
    in_double,
    moved,
    parameters_of,
    sigmoid,
    slow_linear,
    slow_lstm,
    slow_norm,
    slow_post_norm_layer,
)

SIZES = make_sizes()


def small(seed: int = 0, **settings) -> MISA:
    """A narrow MISA whose biases and norms are not at their initial values."""
    widths = {"latent_dim": 6, "transformer_hidden": 7} | settings
    return moved(make_backbone("misa", SIZES, seed, **widths), 0.2)


def random_latents(n: int, d: int = 6, seed: int = 0, dtype: torch.dtype = torch.float64) -> Latents:
    generator = torch.Generator().manual_seed(seed)
    return Latents({m: torch.randn(n, d, generator=generator, dtype=dtype) for m in MODALITIES})


# A slow second implementation


def slow_recurrent(p, key, steps):
    """Two LSTMs in both directions; final states: forward's last, backward's first in time, of each."""
    final = []
    for layer in ("first", "second"):
        ahead = slow_lstm(p, f"{key}.{layer}.ahead", steps)
        back = slow_lstm(p, f"{key}.{layer}.back", steps[::-1])[::-1]
        final += [ahead[-1], back[0]]
        joined = [np.concatenate(pair) for pair in zip(ahead, back, strict=True)]
        steps = [slow_norm(p, f"{key}.norm", state) for state in joined] if layer == "first" else []
    return np.concatenate(final)


def slow_encode(backbone: MISA, batch: Batch, row: int) -> dict[str, np.ndarray]:
    """The projected vectors of one clip, read up to its lengths."""
    p, latents = parameters_of(backbone), {}
    text_length = int(batch.lengths["text"][row])
    for m in MODALITIES:
        length = int(batch.lengths[m][row])
        if backbone.settings.padding == "reference":
            length = min(text_length, batch.features[m].shape[1])
        steps = list(array(batch.features[m])[row, :length])
        pooled = sum(steps) / length if m == "text" else slow_recurrent(p, f"recurrent.{m}", steps)
        latents[m] = slow_norm(p, f"project.{m}.2", np.maximum(slow_linear(p, f"project.{m}.0", pooled), 0))
    return latents


def slow_spaces(p, latents):
    """Private and shared vectors of one clip."""
    private = {m: sigmoid(slow_linear(p, f"private.{m}.0", latents[m])) for m in MODALITIES}
    shared = {m: sigmoid(slow_linear(p, "shared.0", latents[m])) for m in MODALITIES}
    return private, shared


def slow_fuse(backbone: MISA, latents: dict[str, np.ndarray]) -> np.ndarray:
    """The representation of one clip in eval mode."""
    p, heads = parameters_of(backbone), backbone.settings.transformer_heads
    private, shared = slow_spaces(p, latents)
    tokens = [*private.values(), *shared.values()]
    out = slow_post_norm_layer(below(p, "transformer"), tokens, heads)
    return np.maximum(slow_linear(p, "fusion.0", np.concatenate(out)), 0)


def slow_difference(x, y):
    """Mean squared entry of X^T Y, entry by entry."""
    x, y = ([row - np.mean(z, 0) for row in z] for z in (x, y))
    x, y = ([row / (np.linalg.norm(row) + 1e-6) for row in z] for z in (x, y))
    n, d = len(x), len(x[0])
    products = [sum(x[i][a] * y[i][b] for i in range(n)) for a in range(d) for b in range(d)]
    return sum(product**2 for product in products) / d**2


def slow_discrepancy(x, y):
    total = 0.0
    for moment in range(1, 6):
        squares = 1e-12
        for feature in range(x.shape[1]):
            means = [z[:, feature].mean() for z in (x, y)]
            if moment > 1:
                means = [((z[:, feature] - c) ** moment).mean() for z, c in zip((x, y), means, strict=True)]
            squares += (means[0] - means[1]) ** 2
        total += math.sqrt(squares)
    return total


def slow_naming(p, shared):
    """Mean cross-entropy of the discriminator over clips and modalities."""
    total = []
    for label, m in enumerate(MODALITIES):
        for row in shared[m]:
            hidden = np.maximum(slow_linear(p, "discriminator.layers.0", row), 0)
            logits = slow_linear(p, "discriminator.layers.3", hidden)
            total.append(math.log(sum(math.exp(x) for x in logits)) - logits[label])
    return sum(total) / len(total)


def slow_auxiliary(backbone: MISA, latents: Latents, n: int) -> float:
    """The weighted losses of the first n rows."""
    p, s = parameters_of(backbone), backbone.settings
    rows = [{m: array(latents.values[m])[row] for m in MODALITIES} for row in range(n)]
    spaces = [slow_spaces(p, row) for row in rows]
    private, shared = ({m: np.array([space[k][m] for space in spaces]) for m in MODALITIES} for k in (0, 1))
    difference = sum(slow_difference(private[m], shared[m]) for m in MODALITIES)
    difference += sum(slow_difference(private[a], private[b]) for a, b in combinations(MODALITIES, 2))
    errors = []
    for row, (own, common) in zip(rows, spaces, strict=True):
        for m in MODALITIES:
            errors += list((slow_linear(p, f"reconstruct.{m}", own[m] + common[m]) - row[m]) ** 2)
    if s.use_cmd_sim:
        similarity = sum(slow_discrepancy(shared[a], shared[b]) for a, b in combinations(MODALITIES, 2)) / 3
    else:
        similarity = slow_naming(p, shared)
    return s.diff_weight * difference + s.sim_weight * similarity + s.recon_weight * sum(errors) / len(errors)


@pytest.mark.parametrize("padding", ["valid", "reference"])
@pytest.mark.parametrize("heads", [2, 3])
def test_predictions_equal_loops(padding, heads):
    backbone = small(padding=padding, transformer_heads=heads).double().eval()
    batch = in_double(make_batch(SIZES, 5))
    latents = backbone.encode(backbone.embed(batch))
    fused, predictions = backbone.fuse(latents, 5).representation, array(backbone(batch))
    for row in range(5):
        vectors = slow_encode(backbone, batch, row)
        for m in MODALITIES:
            np.testing.assert_allclose(array(latents.values[m])[row], vectors[m], atol=1e-9)
        wanted = slow_fuse(backbone, vectors)
        np.testing.assert_allclose(array(fused)[row], wanted, atol=1e-9)
        output = array(backbone.output.weight)[0] @ wanted + backbone.output.bias.item()
        np.testing.assert_allclose(predictions[row], output, atol=1e-9)
    assert np.ptp(predictions) > 0.05, "the predictions differ, or the comparison says little"


@pytest.mark.parametrize("use_cmd_sim", [True, False])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_auxiliary_losses_equal_loops_over_the_clean_rows(use_cmd_sim, n):
    weights = {"diff_weight": 0.7, "sim_weight": 1.3, "recon_weight": 0.4}
    backbone = small(use_cmd_sim=use_cmd_sim, **weights).double().eval()
    clean, mixed = random_latents(n), random_latents(3, seed=1)
    alone, together = backbone.fuse(clean, n), backbone.fuse(concatenate(clean, mixed), n)
    assert together.auxiliary.shape == ()
    np.testing.assert_allclose(together.auxiliary.item(), slow_auxiliary(backbone, clean, n), rtol=1e-9)
    torch.testing.assert_close(alone.auxiliary, together.auxiliary)
    torch.testing.assert_close(alone.representation, together.representation[:n])
    unweighted = small(use_cmd_sim=use_cmd_sim, **dict.fromkeys(weights, 0.0)).double()
    assert unweighted.fuse(clean, n).auxiliary == 0


def test_lengths_of_rows_carry_no_gradient():
    """With one feature a row's direction is its sign, so that only a held length leaves a gradient."""
    x = torch.tensor([[0.0], [10.0]], requires_grad=True)
    soft_orthogonality(x, torch.tensor([[3.0], [1.0]])).backward()
    # product = (-x_0 + x_1) (-1) / 5 of the centred x = -2; d product^2 = 2 * (-2) * (1/5, -1/5).
    torch.testing.assert_close(x.grad, torch.tensor([[-0.8], [0.8]]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("use_cmd_sim", [True, False])
@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("kind", ["random", "constant", "equal modalities", "zeros", "huge"])
def test_auxiliary_losses_and_their_gradients_are_finite(use_cmd_sim, n, kind):
    backbone = small(use_cmd_sim=use_cmd_sim).train()
    z = random_latents(n + 2, dtype=torch.float32).values
    if kind == "constant":
        z = {m: x[:1].expand_as(x) for m, x in z.items()}
    elif kind == "equal modalities":
        z = dict.fromkeys(MODALITIES, z["text"])
        for m in ("audio", "vision"):
            backbone.private[m].load_state_dict(backbone.private["text"].state_dict())
    elif kind != "random":
        z = {m: x * {"zeros": 0.0, "huge": 1e4}[kind] for m, x in z.items()}
    z = {m: x.clone().requires_grad_() for m, x in z.items()}
    auxiliary = backbone.fuse(Latents(z), n).auxiliary
    auxiliary.backward()
    assert auxiliary.isfinite()
    own = [backbone.private, backbone.shared, backbone.reconstruct]
    own += [] if use_cmd_sim else [backbone.discriminator]
    gradients = [p.grad for part in own for p in part.parameters()] + [x.grad for x in z.values()]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert all(not x.grad[n:].any() for x in z.values()), "mixed rows have no part in it"


def test_the_discriminator_exists_with_its_option_only():
    with_cmd, without = (make_backbone("misa", SIZES, use_cmd_sim=flag) for flag in (True, False))
    own, more = with_cmd.state_dict(), without.state_dict()
    assert all(torch.equal(more[key], x) for key, x in own.items()), "the rest starts from the same weights"
    d = with_cmd.settings.latent_dim
    added = sum(x.numel() for key, x in more.items() if key not in own)
    assert added == d * d + d + 3 * d + 3


@pytest.mark.parametrize("weight", [0.0, 0.8])
def test_the_gradient_is_reversed_below_the_discriminator(weight):
    torch.manual_seed(0)
    reversing = Discriminator(4, 0.0, weight)
    plain, labels = copy.deepcopy(reversing.layers), torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
    x = {m: torch.randn(3, 4, requires_grad=True) for m in MODALITIES}
    y = torch.cat(list(x.values())).detach().requires_grad_()
    first, second = reversing(x), torch.nn.functional.cross_entropy(plain(y), labels)
    first.backward()
    second.backward()
    torch.testing.assert_close(first, second)
    assert y.grad.any()
    torch.testing.assert_close(torch.cat([z.grad for z in x.values()]), -weight * y.grad)
    for a, b in zip(reversing.layers.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_dropout():
    """Nothing drops out before the mix point; each of the fusion's two dropouts can be turned off."""
    batch = make_batch(SIZES, 5)
    off = {"transformer_dropout": 0.0, "fusion_dropout": 0.0}
    for settings in ({}, {"transformer_dropout": 0.5}, {"fusion_dropout": 0.5}):
        backbone = small(**off | settings).train()
        first, second = (backbone.encode(backbone.embed(batch)) for _ in range(2))
        assert all(torch.equal(first.values[m], second.values[m]) for m in MODALITIES)
        a, b = (backbone.fuse(first, 5) for _ in range(2))
        assert torch.equal(a.representation, b.representation) == (not settings)
        assert torch.equal(a.auxiliary, b.auxiliary)
        assert a.representation.shape == (5, 3 * backbone.settings.latent_dim)
        assert (a.representation >= 0).all()


def test_the_width_is_divided_among_the_heads():
    with pytest.raises(ValueError, match="latent_dim must be a multiple of transformer_heads=2, got 7"):
        MISASettings(latent_dim=7)
    assert MISASettings(latent_dim=9, transformer_heads=3).latent_dim == 9


def test_a_reversal_is_its_own_inverse_and_so_is_its_gradient():
    lengths = torch.tensor([1, 3, 5, 2])
    index = reversal(lengths, 5)[..., None]
    x = torch.randn(4, 5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.equal(reverse(reverse(x, index), index), x)
    weights = torch.randn(4, 5, 3, dtype=torch.float64)
    [found] = torch.autograd.grad((weights * reverse(x, index)).sum(), x)
    [wanted] = torch.autograd.grad((weights * torch.take_along_dim(x, index, 1)).sum(), x)
    assert torch.equal(found, wanted)
    assert torch.autograd.gradgradcheck(lambda y: reverse(y, index).square(), x)

"""The Transformer encoder that MulT and GLoMo share: loops, hand-worked masks, positions, dropouts."""

import math

import numpy as np
import pytest
import torch

from backbones.cpu.attention import PaddedLayout, make_layout
from backbones.transformer import Attention, Dropouts, TransformerEncoder, sinusoids
from tests.support.builders import array
from tests.support.slow_layers import check_halved, moved, parameters_of, slow_encoder

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("layout")


# Against loops


@pytest.mark.parametrize(("target_steps", "source_steps"), [(5, None), (5, 3), (3, 5), (1, 4), (4, 1)])
@pytest.mark.parametrize("band", [False, True])
def test_an_encoder_equals_loops(target_steps, source_steps, band):
    """Heads of 5 and of 1, with and without the band, no step of padding."""
    torch.manual_seed(0)
    for n_heads in (1, 2, 10):
        encoder = moved(TransformerEncoder(10, n_heads, 2, Dropouts(), band=band)).double().eval()
        p = parameters_of(encoder)
        target = torch.randn(1, target_steps, 10).double()
        source = None if source_steps is None else torch.randn(1, source_steps, 10).double()
        reach = (0 if source is None else abs(target_steps - source_steps)) if band else 99
        slow = slow_encoder(p, array(target[0]), None if source is None else array(source[0]), n_heads, reach)
        np.testing.assert_allclose(array(encoder(target, source=source)[0]), slow, atol=1e-10)


# Masks and positions


def attend(attention, x, source, lengths=None, reach=None, padded=False):
    """An attention of padded sequences as an encoder calls it, in either layout."""
    layout = make_layout(x, lengths, x if source is None else source, lengths, reach, attention.n_heads)
    if padded:
        layout = PaddedLayout(None, attention.n_heads)
    keys = None if source is None else layout.sources.pack(source)
    return layout.targets.unpack(attention(layout.targets.pack(x), keys, layout))


def test_a_banded_average_by_hand():
    """Equal scores and identity projections: each query gets the mean of the keys that it may see."""
    attention = Attention(1, 1, dropout=0.0)
    with torch.no_grad():
        attention.projection.weight.copy_(torch.tensor([[0.0], [0.0], [1.0]]))
        attention.output.weight.fill_(1.0)
    source = torch.tensor([[[1.0], [2.0], [6.0], [7.0]]])
    query = torch.zeros(1, 2, 1)
    made = attend(attention, query, source, None, 2)
    assert made.flatten().tolist() == [3.0, 4.0]  # (1 + 2 + 6) / 3, (1 + 2 + 6 + 7) / 4
    made = attend(attention, source, None, torch.tensor([3]), 0)
    assert made.flatten().tolist()[:3] == [1.0, 1.5, 3.0]


@pytest.mark.parametrize("band", [False, True])
@pytest.mark.parametrize("positions", [False, True])
def test_padding_reaches_no_valid_step(band, positions):
    torch.manual_seed(0)
    encoder = TransformerEncoder(8, 2, 2, Dropouts(), positions, band).eval()
    target, source = torch.randn(3, 6, 8), torch.randn(3, 5, 8)
    target_lengths, source_lengths = torch.tensor([1, 4, 6]), torch.tensor([5, 2, 1])

    def noisy(x, lengths):
        padded = torch.arange(x.shape[1]) >= lengths[:, None]
        return torch.where(padded[..., None], torch.randn_like(x), x)

    other_target, other_source = noisy(target, target_lengths), noisy(source, source_lengths)
    first = encoder(target, target_lengths, source, source_lengths)
    second = encoder(other_target, target_lengths, other_source, source_lengths)
    alone, other_alone = (encoder(x, target_lengths) for x in (target, other_target))
    for row, length in enumerate(target_lengths.tolist()):
        torch.testing.assert_close(first[row, :length], second[row, :length])
        torch.testing.assert_close(alone[row, :length], other_alone[row, :length])
    unmasked, changed = (encoder(target, None, x) for x in (source, other_source))
    assert not torch.allclose(unmasked[2], changed[2], atol=1e-3)


def test_the_first_layer_norm_reads_the_embedded_source_in_every_layer():
    encoder = TransformerEncoder(4, 1, 3, Dropouts()).eval()
    inputs = [[] for _ in encoder.layers]
    for layer, seen in zip(encoder.layers, inputs, strict=True):
        layer.norm_1.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
    source = torch.randn(1, 3, 4)
    encoder(torch.randn(1, 2, 4), source=source)
    for seen in inputs:
        assert len(seen) == 2
        assert any(torch.equal(x.reshape(-1, 4), 2 * source[0]) for x in seen)


def test_positions_by_hand():
    table = sinusoids(2, 4, CPU)
    by_hand = [[math.sin(t), math.sin(t / 1e4), math.cos(t), math.cos(t / 1e4)] for t in (1, 2)]
    np.testing.assert_allclose(array(table), by_hand, atol=1e-6)
    np.testing.assert_allclose(array(sinusoids(1, 3, CPU)), [[math.sin(1), math.cos(1), 0]], atol=1e-6)
    assert sinusoids(2, 1, CPU).tolist() == [[0], [0]]
    encoder = TransformerEncoder(4, 1, 1, Dropouts(), positions=True)
    embedded = encoder.embed(torch.ones(2, 3, 4), torch.tensor([1, 3]))
    np.testing.assert_allclose(array(embedded[0, 0]), 2 + np.array(by_hand[0]), atol=1e-6)
    assert (embedded[0, 1:] == 2).all()
    assert (embedded[1] != 2).any(1).all()


def test_the_encoder_starts_as_published():
    encoder = TransformerEncoder(30, 3, 2, Dropouts())
    for name, parameter in encoder.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        elif parameter.ndim == 2:
            bound = math.sqrt(6 / sum(parameter.shape))  # queries, keys and values are one matrix
            assert 0.97 * bound < parameter.abs().max() <= bound
    assert sum(p.numel() for p in encoder.parameters()) == 2 * (12 * 30**2 + 13 * 30) + 2 * 30


# Dropouts


def test_the_input_is_dropped_out():
    encoder = TransformerEncoder(16, 1, 1, Dropouts(embed=0.5))
    x, seen = torch.randn(4, 5, 16), []
    encoder.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for training in (True, False):
        encoder.train(training)(x)
    check_halved(*seen)


def test_attention_weights_are_dropped_out():
    """Equal scores, identity projections and the identity as the source: the output is the weights."""
    attention = Attention(8, 1, dropout=0.5)
    with torch.no_grad():
        attention.projection.weight.copy_(torch.cat([torch.zeros(16, 8), torch.eye(8)]))
        attention.output.weight.copy_(torch.eye(8))
    x, source = torch.randn(5, 3, 8), torch.eye(8).expand(5, 8, 8)
    for padded in (False, True):
        whole = attend(attention.eval(), x, source, padded=padded)
        torch.testing.assert_close(whole, torch.full((5, 3, 8), 1 / 8))
        check_halved(attend(attention.train(), x, source, padded=padded), whole)


def seen_by(layer, x, parts):
    """Inputs and outputs of some parts of a layer, and its output."""
    seen = {"layer": (x, None)}
    hooks = [
        layer.get_submodule(part).register_forward_hook(
            lambda _, args, output, part=part: seen.update({part: (args[0], output)})
        )
        for part in parts
    ]
    seen["layer"] = (x, layer(x, None, PaddedLayout(None, 2)))
    for hook in hooks:
        hook.remove()
    return seen


def test_hidden_units_are_dropped_out():
    layer = TransformerEncoder(8, 2, 1, Dropouts(relu=0.5)).layers[0].train()
    seen = seen_by(layer, torch.randn(4, 5, 8), ("widen", "narrow"))
    check_halved(seen["narrow"][0], seen["widen"][1].relu())


def test_residuals_are_dropped_out():
    """Both of a layer's; without positions of zero in them, x + dropout(f(x)) - x is dropout(f(x))."""
    layer = TransformerEncoder(8, 2, 1, Dropouts(residual=0.5)).double().layers[0].train()
    x = torch.randn(4, 5, 8).double()
    seen = seen_by(layer, x, ("attention", "norm_2", "narrow"))
    middle = seen["norm_2"][0]
    check_halved(torch.where(middle == x, 0, middle - x), seen["attention"][1])
    end = seen["layer"][1]
    check_halved(torch.where(end == middle, 0, end - middle), seen["narrow"][1])

"""The Transformer encoder that MulT and GLoMo share: loops, positions, dropouts."""

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


@pytest.mark.parametrize(("target_steps", "source_steps"), [(5, None), (5, 3), (3, 5), (1, 4), (4, 1)])
@pytest.mark.parametrize("band", [False, True])
def test_an_encoder_equals_loops(target_steps, source_steps, band):
    """Test heads of width 5 and 1, with and without the band, without padding."""
    torch.manual_seed(0)
    for n_heads in (1, 2, 10):
        encoder = moved(TransformerEncoder(10, n_heads, 2, Dropouts(), band=band)).double().eval()
        p = parameters_of(encoder)
        target = torch.randn(1, target_steps, 10).double()
        source = None if source_steps is None else torch.randn(1, source_steps, 10).double()
        reach = (0 if source is None else abs(target_steps - source_steps)) if band else 99
        slow = slow_encoder(p, array(target[0]), None if source is None else array(source[0]), n_heads, reach)
        np.testing.assert_allclose(array(encoder(target, source=source)[0]), slow, atol=1e-10)


def test_positions_of_odd_widths():
    np.testing.assert_allclose(array(sinusoids(1, 3, CPU)), [[math.sin(1), math.cos(1), 0]], atol=1e-6)
    assert sinusoids(2, 1, CPU).tolist() == [[0], [0]]


def test_the_encoder_starts_as_published():
    encoder = TransformerEncoder(30, 3, 2, Dropouts())
    for name, parameter in encoder.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        elif parameter.ndim == 2:
            bound = math.sqrt(6 / sum(parameter.shape))  # queries, keys and values are one matrix
            assert 0.97 * bound < parameter.abs().max() <= bound
    assert sum(p.numel() for p in encoder.parameters()) == 2 * (12 * 30**2 + 13 * 30) + 2 * 30


def test_attention_weights_are_dropped_out():
    """Equal scores, identity projections and the identity as the source: the output is the weights."""
    attention = Attention(8, 1, dropout=0.5)
    with torch.no_grad():
        attention.projection.weight.copy_(torch.cat([torch.zeros(16, 8), torch.eye(8)]))
        attention.output.weight.copy_(torch.eye(8))
    x, source = torch.randn(5, 3, 8), torch.eye(8).expand(5, 8, 8)
    for layout in (make_layout(x, None, source, None, None, 1), PaddedLayout(None, 1)):
        parts = layout.targets.pack(x), layout.sources.pack(source), layout
        whole, dropped = (layout.targets.unpack(attention.train(mode)(*parts)) for mode in (False, True))
        torch.testing.assert_close(whole, torch.full((5, 3, 8), 1 / 8))
        check_halved(dropped, whole)


def test_input_hidden_units_and_residuals_are_dropped_out():
    """Subtracting x from x + dropout(f(x)) leaves dropout(f(x)), as no position is zero."""
    encoder = TransformerEncoder(8, 2, 1, Dropouts(relu=0.5, residual=0.5, embed=0.5)).double()
    layer, seen = encoder.layers[0], {}
    for part in ("attention", "norm_2", "widen", "narrow", ""):
        layer.get_submodule(part).register_forward_hook(
            lambda _, args, output, part=part: seen.update({part: (args[0], output)})
        )
    x = torch.randn(4, 5, 8).double()
    encoder.eval()(x)
    whole = seen[""][0]
    encoder.train()(x)
    (start, end), middle = seen[""], seen["norm_2"][0]
    check_halved(start, whole)
    check_halved(seen["narrow"][0], seen["widen"][1].relu())
    check_halved(torch.where(middle == start, 0, middle - start), seen["attention"][1])
    check_halved(torch.where(end == middle, 0, end - middle), seen["narrow"][1])

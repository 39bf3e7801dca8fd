"""ALMT against loops that compute every row of the published model."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from backbones.almt import ALMTSettings
from backbones.batch import MODALITIES
from tests.support.builders import array, make_backbone, make_batch, make_sizes, small_backbone
from tests.support.slow_layers import (
    below,
    in_double,
    moved,
    parameters_of,
    slow_attend,
    slow_linear,
    slow_norm,
)

# No two sizes are equal, so that none can stand for another.
SMALL = {"token_dim": 6, "tokens": 4, "head_dim": 5, "embedding_hidden": 7, "fusion_hidden": 9}
SMALL |= {"embedding_heads": 2, "text_heads": 1, "hyper_heads": 3, "fusion_heads": 4}


# The second implementation: one clip, row by row, no masks, nothing left out


def slow_layer(p, target, source, heads):
    """Let every row of the target attend to the source, then apply the MLP with its exact GELU."""
    asked, keys, values = (
        [slow_linear(p, f"attention.{part}", slow_norm(p, f"attention.{part}_norm", row)) for row in rows]
        for part, rows in (("query", target), ("key", source), ("value", source))
    )
    out = []
    for row, answer in zip(target, slow_attend(asked, keys, values, heads), strict=True):
        row = row + slow_linear(p, "attention.output", answer)
        hidden = slow_linear(p, "mlp.1", slow_norm(p, "mlp.0", row))
        hidden = np.array([x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in hidden])
        out.append(row + slow_linear(p, "mlp.3", hidden))
    return out


def slow_embedding(p, steps, heads):
    """Pass tokens and steps through one layer; return the first tokens of the output."""
    rows = [*p["tokens"], *(slow_linear(p, "linear", step) for step in steps)]
    rows = [row + position for row, position in zip(rows, p["positions"], strict=False)]
    return slow_layer(below(p, "layer"), rows, rows, heads)[: len(p["tokens"])]


def slow_hyper(p, hyper, text, audio, vision, heads):
    asked = [slow_linear(p, "query", slow_norm(p, "norms.text", row)) for row in text]
    total = np.zeros_like(hyper)
    for m, rows in {"audio": audio, "vision": vision}.items():
        normed = [slow_norm(p, f"norms.{m}", row) for row in rows]
        keys, values = ([slow_linear(p, f"{part}.{m}", x) for x in normed] for part in ("keys", "values"))
        total = total + slow_attend(asked, keys, values, heads)
    pairs = zip(hyper, total, strict=True)
    return [slow_norm(p, "hyper_norm", row) + slow_linear(p, "output", answer) for row, answer in pairs]


def slow_fuse(p, s: ALMTSettings, text, audio, vision):
    """Text states, hyper-modality, and the last text state behind the token as the target of the fusion."""
    states, hyper, token = [np.array(text) + p["text_positions"]], p["hyper"], p["fusion.token"]
    for k in range(s.hyper_layers - 1):
        states.append(slow_layer(below(p, f"text_stack.{k}"), states[-1], states[-1], s.text_heads))
    for k in range(s.hyper_layers):
        hyper = slow_hyper(below(p, f"hyper_layers.{k}"), hyper, states[k], audio, vision, s.hyper_heads)
    target, source = (
        np.concatenate([token, rows]) + p[f"fusion.{side}_positions"]
        for rows, side in ((states[-1], "target"), (hyper, "source"))
    )
    for k in range(s.fusion_layers):
        target = slow_layer(below(p, f"fusion.layers.{k}"), target, source, s.fusion_heads)
    return target[0]


@pytest.mark.parametrize(
    ("steps", "depths"),
    [
        ((4, 3, 5), {}),
        ((1, 1, 1), {"hyper_layers": 1, "fusion_layers": 1}),
        ((2, 6, 1), {"hyper_layers": 2, "fusion_layers": 3}),
    ],
)
@pytest.mark.parametrize("padding", ["valid", "reference"])
def test_predictions_equal_loops(steps, depths, padding):
    sizes = make_sizes(widths=(5, 1, 3), steps=steps)
    backbone = moved(make_backbone("almt", sizes, padding=padding, **SMALL, **depths), 0.6).double().eval()
    s, p, batch = backbone.settings, parameters_of(backbone), in_double(make_batch(sizes, 4))
    latents = backbone.encode(backbone.embed(batch))
    fused = backbone.fuse(latents, 4).representation
    prediction, wanted = backbone(batch), []
    for row in range(4):
        tokens = {}
        for m in MODALITIES:
            length = int(batch.lengths[m][row]) if padding == "valid" else sizes.steps[m]
            read = array(batch.features[m])[row, :length]
            tokens[m] = slow_embedding(below(p, f"embeddings.{m}"), read, s.embedding_heads)
            np.testing.assert_allclose(array(latents.values[m][row]), tokens[m], atol=1e-10)
        token = slow_fuse(p, s, *tokens.values())
        np.testing.assert_allclose(array(fused[row]), token, atol=1e-9)
        wanted.append(slow_linear(p, "output", token)[0])
    np.testing.assert_allclose(array(prediction), wanted, atol=1e-9)
    assert np.ptp(wanted) > 0.01, "the predictions differ, or the comparison says little"


def test_where_it_starts():
    torch.manual_seed(0)
    backbone = make_backbone("almt", make_sizes(steps=(50, 40, 30)))
    tokens = [backbone.embeddings[m].tokens for m in MODALITIES] + [backbone.fusion.token]
    assert [tuple(x.shape) for x in tokens] == [(8, 128)] * 3 + [(1, 128)]
    assert not any(x.any() for x in tokens)
    assert torch.equal(backbone.hyper, torch.ones(8, 128))
    positions = {
        **{m: backbone.embeddings[m].positions for m in MODALITIES},
        "text again": backbone.text_positions,
        "target": backbone.fusion.target_positions,
        "source": backbone.fusion.source_positions,
    }
    assert [len(x) for x in positions.values()] == [58, 48, 38, 8, 9, 9]
    for table in positions.values():
        assert abs(table.mean()) < 0.15
        assert abs(table.std() - 1) < 0.1
        assert table.abs().max() > 2.5, "normal, not uniform"


def test_gradients_where_it_starts():
    """LayerNorm divides the gradients of constant rows by sqrt(1e-5)."""
    sizes = make_sizes()
    backbone = make_backbone("almt", sizes)
    batch = make_batch(sizes, 6)
    features = {m: torch.zeros_like(x) for m, x in batch.features.items()}
    for given in (batch, dataclasses.replace(batch, features=features)):
        backbone.zero_grad()
        (backbone(given) - given.labels).square().mean().backward()
        for name, parameter in backbone.named_parameters():
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() < 1e3, name
        assert all(backbone.embeddings[m].tokens.grad.any() for m in MODALITIES)
        assert backbone.hyper.grad.any()
        read, unread = backbone.fusion.target_positions.grad.split([1, 8])
        assert read.any()
        assert not unread.any()


def test_there_is_no_dropout():
    sizes = make_sizes()
    backbone, batch = small_backbone("almt", sizes), make_batch(sizes, 5)
    state = torch.get_rng_state()
    assert torch.equal(backbone.train()(batch), backbone.eval()(batch))
    assert torch.equal(state, torch.get_rng_state())


def test_heads_divide_the_width():
    with pytest.raises(ValueError, match=r"token_dim must be a multiple of hyper_heads \(8\), got 20"):
        ALMTSettings(token_dim=20)
    assert ALMTSettings(token_dim=20, hyper_heads=5).token_dim == 20

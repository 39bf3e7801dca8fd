"""ALMT against loops that compute every row of the published model, and hand-worked attention."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from backbones.almt import ALMT, ALMTSettings, Embedding, HyperLayer, attend
from backbones.base import Sizes, resolve_settings
from backbones.batch import MODALITIES, Batch
from harness.train.loop import make_optimizer
from methods import METHODS
from tests.support.builders import array, make_backbone, make_batch, make_sizes, small_backbone
from tests.support.paths import SHARED

FACTS = SHARED / "facts" / "hyperparameters.json"

# No two sizes are equal, so that none can stand for another.
SMALL = {
    "token_dim": 6,
    "tokens": 4,
    "head_dim": 5,
    "embedding_heads": 2,
    "text_heads": 1,
    "hyper_heads": 3,
    "fusion_heads": 4,
    "embedding_hidden": 7,
    "fusion_hidden": 9,
}


def scattered(backbone, seed: int = 3):
    """The backbone in double precision and eval mode, every parameter moved away from where it starts."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in backbone.double().parameters():
            parameter.add_(0.6 * torch.randn_like(parameter))
    return backbone.eval()


def in_double(batch: Batch) -> Batch:
    return dataclasses.replace(batch, features={m: x.double() for m, x in batch.features.items()})


# The second implementation: one clip, row by row, no masks, nothing left out


def parameters(backbone) -> dict[str, np.ndarray]:
    return {name: array(x) for name, x in backbone.state_dict().items()}


def under(p: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {key.removeprefix(f"{prefix}."): x for key, x in p.items() if key.startswith(f"{prefix}.")}


def slow_matrix(p, name, row):
    assert f"{name}.bias" not in p
    return [sum(w * x for w, x in zip(weights, row, strict=True)) for weights in p[f"{name}.weight"]]


def slow_linear(p, name, row):
    pairs = zip(p[f"{name}.weight"], p[f"{name}.bias"], strict=True)
    return [sum(w * x for w, x in zip(weights, row, strict=True)) + bias for weights, bias in pairs]


def slow_norm(p, name, row):
    mean = sum(row) / len(row)
    variance = sum((x - mean) ** 2 for x in row) / len(row)
    return [
        (x - mean) / math.sqrt(variance + 1e-5) * weight + bias
        for x, weight, bias in zip(row, p[f"{name}.weight"], p[f"{name}.bias"], strict=True)
    ]


def slow_answer(query, keys, values, heads):
    """One query's answer, head after head."""
    size, answer = len(query) // heads, []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = [
            sum(a * b for a, b in zip(query[part], key[part], strict=True)) / math.sqrt(size) for key in keys
        ]
        total = sum(math.exp(score) for score in scores)
        for column in range(part.start, part.stop):
            pairs = zip(scores, values, strict=True)
            answer.append(sum(math.exp(score) / total * value[column] for score, value in pairs))
    return answer


def plus(a, b):
    return [x + y for x, y in zip(a, b, strict=True)]


def slow_layer(p, target, source, heads):
    """Every row of the target asks the source; then the MLP with its exact GELU."""
    keys = [slow_matrix(p, "attention.key", slow_norm(p, "attention.key_norm", row)) for row in source]
    values = [slow_matrix(p, "attention.value", slow_norm(p, "attention.value_norm", row)) for row in source]
    out = []
    for row in target:
        query = slow_matrix(p, "attention.query", slow_norm(p, "attention.query_norm", row))
        row = plus(row, slow_linear(p, "attention.output", slow_answer(query, keys, values, heads)))
        hidden = slow_linear(p, "mlp.1", slow_norm(p, "mlp.0", row))
        hidden = [x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in hidden]
        out.append(plus(row, slow_linear(p, "mlp.3", hidden)))
    return out


def slow_embedding(p, steps, heads):
    """The tokens and the given steps through one layer; the first tokens of what comes out."""
    rows = [list(token) for token in p["tokens"]] + [slow_linear(p, "linear", step) for step in steps]
    rows = [plus(row, position) for row, position in zip(rows, p["positions"][: len(rows)], strict=True)]
    return slow_layer(under(p, "layer"), rows, rows, heads)[: len(p["tokens"])]


def slow_hyper(p, hyper, text, audio, vision, heads):
    text = [slow_norm(p, "norms.text", row) for row in text]
    sources = {"audio": audio, "vision": vision}
    sources = {m: [slow_norm(p, f"norms.{m}", row) for row in rows] for m, rows in sources.items()}
    out = []
    for row, asking in zip(hyper, text, strict=True):
        query, total = slow_matrix(p, "query", asking), [0.0] * len(row)
        for m, rows in sources.items():
            keys = [slow_matrix(p, f"keys.{m}", x) for x in rows]
            values = [slow_matrix(p, f"values.{m}", x) for x in rows]
            total = plus(total, slow_answer(query, keys, values, heads))
        out.append(plus(slow_norm(p, "hyper_norm", row), slow_linear(p, "output", total)))
    return out


def slow_fuse(p, s: ALMTSettings, text, audio, vision):
    """Text states, hyper-modality, and the last text state behind the token as the target of the fusion."""
    states = [[plus(row, position) for row, position in zip(text, p["text_positions"], strict=True)]]
    for k in range(s.hyper_layers - 1):
        states.append(slow_layer(under(p, f"text_stack.{k}"), states[-1], states[-1], s.text_heads))
    hyper = [list(row) for row in p["hyper"]]
    for k in range(s.hyper_layers):
        hyper = slow_hyper(under(p, f"hyper_layers.{k}"), hyper, states[k], audio, vision, s.hyper_heads)
    token = list(p["fusion.token"][0])
    target, source = (
        [plus(row, position) for row, position in zip([token, *rows], p[f"fusion.{side}"], strict=True)]
        for rows, side in ((states[-1], "target_positions"), (hyper, "source_positions"))
    )
    for k in range(s.fusion_layers):
        target = slow_layer(under(p, f"fusion.layers.{k}"), target, source, s.fusion_heads)
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
    backbone = scattered(make_backbone("almt", sizes, padding=padding, **SMALL, **depths))
    s, p, batch = backbone.settings, parameters(backbone), in_double(make_batch(sizes, 4))
    latents = backbone.encode(backbone.embed(batch))
    fused = backbone.fuse(latents, 4).representation
    prediction, wanted = backbone(batch), []
    for row in range(4):
        tokens = {}
        for m in MODALITIES:
            length = int(batch.lengths[m][row]) if padding == "valid" else sizes.steps[m]
            read = array(batch.features[m])[row, :length]
            tokens[m] = slow_embedding(under(p, f"embeddings.{m}"), read, s.embedding_heads)
            np.testing.assert_allclose(array(latents.values[m][row]), tokens[m], atol=1e-10)
        token = slow_fuse(p, s, *tokens.values())
        np.testing.assert_allclose(array(fused[row]), token, atol=1e-9)
        wanted.append(slow_linear(p, "output", token)[0])
    np.testing.assert_allclose(array(prediction), wanted, atol=1e-9)
    assert np.ptp(wanted) > 0.01, "the predictions differ, or the comparison says little"


# Hand-worked


def test_attention_in_two_heads_by_hand():
    """Scores ln 1 and ln 3 give weights 1/4 and 3/4; a head of four divides its scores by 2."""
    keys = torch.tensor([[[0.0, 0, 0, 0, 0, 0, 0, 0], [math.log(3), 0, 0, 0, 0, math.log(9), 0, 0]]])
    values = torch.tensor([[[0.0, 0, 0, 0, 8, 0, 0, 1], [4, 8, 0, 0, 0, 0, 0, 1]]])
    query = torch.tensor([[[2.0, 5, 5, 5, 7, 1, 7, 7]]])
    made = attend(query, keys, values, heads=2)
    torch.testing.assert_close(made, torch.tensor([[[3.0, 6, 0, 0, 2, 0, 0, 1]]]))
    first_only = attend(query, keys, values, 2, torch.tensor([[True, False]]))
    torch.testing.assert_close(first_only, values[:, :1])
    alike = attend(torch.zeros_like(query), keys, values, heads=2)
    torch.testing.assert_close(alike, values.mean(1, keepdim=True))


def test_a_hyper_update_by_hand():
    """Identity matrices, one head, one token: two normalised answers are summed."""
    layer = HyperLayer(2, 1)
    with torch.no_grad():
        for linear in (layer.query, *layer.keys.values(), *layer.values.values(), layer.output):
            linear.weight.copy_(torch.eye(2))
        layer.output.bias.copy_(torch.tensor([0.5, 0.0]))
        layer.hyper_norm.bias.copy_(torch.tensor([0.0, 10.0]))
    text, audio, vision = (torch.tensor([[row]]) for row in ([4.0, 1.0], [100.0, 300.0], [700.0, 300.0]))
    made = layer(torch.ones(1, 1, 2), text, audio, vision)
    torch.testing.assert_close(made, torch.tensor([[[0.5, 10.0]]]), atol=1e-4, rtol=0)
    made = layer(torch.tensor([[[100.0, 500.0]]]), text, audio, -vision)
    torch.testing.assert_close(made, torch.tensor([[[-2.5, 13.0]]]), atol=1e-4, rtol=0)


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
    """LayerNorm of a constant row: the gradient less its mean, over sqrt(1e-5)."""
    torch.manual_seed(0)
    layer, hyper = HyperLayer(4, 2), torch.ones(1, 3, 4, requires_grad=True)
    text, audio, vision = torch.zeros(3, 1, 3, 4)
    weight = torch.tensor([1.0, 2.0, 4.0, 5.0])
    made = layer(hyper, text, audio, vision)
    torch.testing.assert_close(made, layer.output.bias.expand(1, 3, 4))
    (made * weight).sum().backward()
    wanted = (weight - 3) / math.sqrt(1e-5)
    torch.testing.assert_close(hyper.grad, wanted.expand(1, 3, 4))

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


# Padding, mix point, dropout


@pytest.mark.parametrize("padding", ["valid", "reference"])
def test_what_padding_changes(padding):
    """Neither more padding nor what stands in it changes anything, unless it is read as in the reference."""
    sizes, longer = make_sizes(), make_sizes(steps=(12, 12, 12))
    backbone = small_backbone("almt", sizes, padding=padding).eval()
    other = small_backbone("almt", longer, padding=padding).eval()
    state = backbone.state_dict()
    for m in MODALITIES:
        table = other.state_dict()[f"embeddings.{m}.positions"]
        table[: len(state[f"embeddings.{m}.positions"])] = state[f"embeddings.{m}.positions"]
        state[f"embeddings.{m}.positions"] = table
    other.load_state_dict(state)
    batch = make_batch(sizes, 6, seed=3)
    features = {
        m: torch.nn.functional.pad(x, (0, 0, 0, longer.steps[m] - sizes.steps[m]))
        for m, x in batch.features.items()
    }
    padded = Batch(features, batch.lengths, batch.labels)
    noise = {
        m: x + ~(torch.arange(x.shape[1]) < batch.lengths[m][:, None])[..., None]
        for m, x in batch.features.items()
    }
    noisy = dataclasses.replace(batch, features=noise)
    wanted = backbone.encode(backbone.embed(batch)).values
    for model, given in ((other, padded), (backbone, noisy)):
        made = model.encode(model.embed(given)).values
        for m in MODALITIES:
            assert torch.allclose(made[m], wanted[m], atol=1e-5) == (padding == "valid")


def test_positions_tell_steps_apart():
    torch.manual_seed(0)
    embedding = Embedding(3, 5, ALMTSettings(**SMALL)).eval()
    x = torch.randn(1, 5, 3)
    assert not torch.allclose(embedding(x, None), embedding(x.flip(1), None), atol=1e-4)


def test_mix_point():
    sizes = make_sizes()
    backbone = make_backbone("almt", sizes)
    latents = backbone.encode(backbone.embed(make_batch(sizes, 5)))
    assert {m: tuple(x.shape) for m, x in latents.values.items()} == dict.fromkeys(MODALITIES, (5, 8, 128))
    assert not latents.lengths
    assert latents.auxiliary is None
    fused = backbone.fuse(latents, 3)
    assert fused.representation.shape == (5, 128)
    assert fused.auxiliary is None
    assert backbone.max_mixed_per_batch(8) is None


def test_there_is_no_dropout():
    sizes = make_sizes()
    backbone, batch = small_backbone("almt", sizes), make_batch(sizes, 5)
    state = torch.get_rng_state()
    assert torch.equal(backbone.train()(batch), backbone.eval()(batch))
    assert torch.equal(state, torch.get_rng_state())


# Settings


@pytest.mark.parametrize("like", ["mosi", "mosei", "sims"])
def test_published_settings_are_the_collected_ones(like):
    if not FACTS.exists():
        pytest.skip("the collected facts (../shared/facts) are not here")
    facts = json.loads(FACTS.read_text())
    wanted, common = facts["backbones"]["almt"][like], facts["backbones"]["almt"]["common"]
    made = resolve_settings(ALMT, ALMTSettings(), like)
    for ours, theirs in {
        "batch_size": "batch_size",
        "learning_rate": "learning_rate",
        "weight_decay": "weight_decay",
        "token_dim": "dst_feature_dims",
        "tokens": "dst_embedding_length",
        "embedding_hidden": "dst_feature_hidden_dims",
        "text_heads": "l_encoder_heads",
        "hyper_layers": "AHL_depth",
        "hyper_heads": "h_hyper_layer_heads",
        "fusion_hidden": "fusion_hidden_d",
        "fusion_heads": "fusion_heads",
        "fusion_layers": "fusion_layer_depth",
    }.items():
        assert getattr(made, ours) == wanted[theirs], ours
    assert [made.embedding_heads] * 3 == wanted["embedding_heads"]
    assert wanted["embedding_depth"] == [1, 1, 1]
    assert (made.early_stop, made.max_epochs) == (common["early_stop"], common["max_epochs"])
    assert made.criterion == facts["training_rules"]["loss"]["almt"].lower()
    assert facts["training_rules"]["optimizer"]["almt"].startswith("AdamW; 10% linear warm-up then cosine")


def test_training_rules():
    made = resolve_settings(ALMT, ALMTSettings(), "mosi")
    assert (made.criterion, made.optimizer, made.early_stop) == ("mse", "adamw", 32)
    assert (made.schedule, made.warmup, made.max_epochs) == ("warmup_cosine", 0.1, 200)
    assert (made.grad_clip, made.max_grad_norm, made.gradient_accumulation) == (0, 0, 1)
    backbone = make_backbone("almt", make_sizes())
    optimizer = make_optimizer(
        backbone, METHODS["none"](METHODS["none"].Settings(), backbone.latent_widths, 3.0)
    )
    assert type(optimizer) is torch.optim.AdamW
    [group] = optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (1e-4, 1e-4)
    assert len(group["params"]) == len(list(backbone.parameters()))


def test_every_setting_has_its_place():
    backbone = make_backbone("almt", make_sizes(), **SMALL, hyper_layers=3, fusion_layers=2)
    s, n, d = backbone.settings, SMALL["tokens"], SMALL["token_dim"]
    layers = {
        (s.embedding_heads, s.embedding_hidden): [e.layer for e in backbone.embeddings.values()],
        (s.text_heads, s.embedding_hidden): list(backbone.text_stack),
        (s.fusion_heads, s.fusion_hidden): list(backbone.fusion.layers),
    }
    assert [len(x) for x in layers.values()] == [3, 2, 2]
    for (heads, hidden), made in layers.items():
        for layer in made:
            assert layer.attention.query.weight.shape == (heads * s.head_dim, d)
            assert layer.mlp[1].weight.shape == (hidden, d)
    assert len(backbone.hyper_layers) == 3
    assert backbone.hyper.shape == backbone.text_positions.shape == (n, d)


def test_position_tables_take_their_lengths_from_the_dataset():
    sizes = Sizes({"text": 3, "audio": 2, "vision": 1}, {"text": 2, "audio": 11, "vision": 5}, 1.0)
    backbone = small_backbone("almt", sizes)
    n = backbone.settings.tokens
    assert {m: len(e.positions) - n for m, e in backbone.embeddings.items()} == sizes.steps


def test_heads_divide_the_width():
    with pytest.raises(
        ValueError, match=r"token_dim must be a multiple of hyper_heads \(8\), however: .*=20"
    ):
        ALMTSettings(token_dim=20)
    assert ALMTSettings(token_dim=20, hyper_heads=5).token_dim == 20

"""GLoMo against a slow second implementation; its experts and pooling against loops and worked examples."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from backbones import experts
from backbones.batch import MODALITIES
from backbones.experts import SparseExperts, combine, noisy_top_k, squared_variation
from backbones.glomo import GLoMo, GLoMoSettings, max_pool
from harness.train.step import step_losses
from methods import METHODS
from tests.support.builders import array, make_backbone, make_batch, make_sizes
from tests.support.slow_layers import (
    below,
    in_double,
    moved,
    parameters_of,
    slow_encoder,
    slow_linear,
    slow_post_norm_layer,
    softmax,
)

SMALL = {"model_dim": 8, "n_heads": 2, "feedforward_dim": 12}
DROPOUTS = [f.name for f in dataclasses.fields(GLoMoSettings) if f.name.endswith("dropout")]


def make_glomo(sizes, **settings) -> GLoMo:
    """Return a small GLoMo with no weight at its initial value, including the gates' zeros."""
    return moved(make_backbone("glomo", sizes, **SMALL | settings), 0.2).eval()


# The second implementation: one clip at a time, vector by vector


def slow_convolution(weight, steps):
    """Kernel 3, a zero on either side, no bias. Shape: weight (d, D, 3), steps (T, D) -> (T, d)."""
    zero = np.zeros(weight.shape[1])
    framed = [zero, *steps, zero]
    return [sum(weight[:, :, k] @ framed[t + k] for k in range(3)) for t in range(len(steps))]


def slow_experts(p, x, top_k):
    """The best experts' outputs, weighted: log of the weighted mean of exponentials."""
    logits, total = x @ p["gate"], 0.0
    best = sorted(range(len(logits)), key=lambda e: -logits[e])[:top_k]
    for gate, e in zip(softmax([logits[e] for e in best]), best, strict=True):
        hidden = np.maximum(x @ p["hidden.weight"][e] + p["hidden.bias"][e], 0)
        total = total + gate * np.exp(hidden @ p["output.weight"][e] + p["output.bias"][e])
    return np.log(total)


def slow_modality(backbone, m, steps, length):
    """Return the coarse vector and the experts' vectors of the fine map. steps: the valid steps."""
    s, p = backbone.settings, below(parameters_of(backbone), f"branches.{m}")
    if m == "text":
        width = p["coarse.weight"].shape[1]
        last, before = [x[-width:] for x in steps], [x[:width] for x in steps]
        coarse = slow_linear(p, "coarse", last[0])
        states = slow_convolution(p["convolution.weight"], last + before)
    else:
        convolved = slow_convolution(p["convolution.weight"], steps)
        # The reference gives a position to each step whose first channel is not 0, and the kernel reaches one
        # step beyond the clip.
        placed = length + (s.padding == "reference")
        states = slow_encoder(below(p, "encoder"), convolved, None, s.n_heads, math.inf, placed)
        coarse = np.max(states, 0)
    fine = [np.max(states[a:b], 0) for a, b in bins(len(states), s.granularity)]
    own = below(parameters_of(backbone), f"experts.{m}")
    return coarse, slow_experts(own, np.concatenate(fine), s.top_k)


def slow_fuse(backbone, coarse, fine):
    """Six vectors through post-norm layers, weighted and joined."""
    s, p, states = backbone.settings, parameters_of(backbone), coarse + fine
    for layer in range(s.fusion_layers):
        states = slow_post_norm_layer(below(p, f"fusion.{layer}"), states, s.n_heads)
    coarse, fine = states[:3], states[3:]
    sums, shares = [], {}
    for kind, three in [("coarse", coarse), ("fine", fine)]:
        hidden = np.maximum(slow_linear(p, f"{kind}_weights.hidden", np.concatenate(three)), 0)
        shares[kind] = softmax(slow_linear(p, f"{kind}_weights.output", hidden) / math.sqrt(len(three[0])))
        sums.append(sum(a * x for a, x in zip(shares[kind], three, strict=True)))
    f_all = slow_linear(p, "join_all", np.concatenate(sums))
    pairs = zip(MODALITIES, coarse, fine, strict=True)
    f_each = [slow_linear(p, f"join.{m}", np.concatenate([c, f])) for m, c, f in pairs]
    return np.concatenate([f_all, sum(a * f for a, f in zip(shares["coarse"], f_each, strict=True))])


def bins(length, n):
    """First step and end of each bin of an adaptive pool."""
    return [(math.floor(i * length / n), math.ceil((i + 1) * length / n)) for i in range(n)]


@pytest.mark.usefixtures("layout")
@pytest.mark.parametrize(
    ("padding", "text_layers", "granularity", "top_k"),
    [("valid", 1, 3, 2), ("reference", 2, 2, 1), ("valid", 2, 3, 3)],
)
def test_predictions_equal_loops(padding, text_layers, granularity, top_k):
    sizes = make_sizes()
    backbone = make_glomo(sizes, padding=padding, granularity=granularity, top_k=top_k).double()
    inputs = backbone.embed(in_double(make_batch(sizes, 5)))
    if text_layers == 2:
        other = inputs.values["text"].flip(-1).sin()
        values = {**inputs.values, "text": torch.cat([inputs.values["text"], other], -1)}
        inputs = dataclasses.replace(inputs, values=values)
    latents = backbone.encode(inputs)
    fused = backbone.fuse(latents, 5)
    predictions = []
    for row in range(5):
        coarse, fine = [], []
        for m in MODALITIES:
            length = int(inputs.lengths[m][row])
            steps = list(array(inputs.values[m][row, : length if padding == "valid" else None]))
            vectors = slow_modality(backbone, m, steps, length)
            # The positions are in single precision.
            np.testing.assert_allclose(array(latents.values[m][row]), np.concatenate(vectors), atol=1e-6)
            coarse.append(vectors[0])
            fine.append(vectors[1])
        representation = slow_fuse(backbone, coarse, fine)
        np.testing.assert_allclose(array(fused.representation[row]), representation, atol=1e-6)
        predictions.append(slow_linear(parameters_of(backbone), "output", representation).item())
    np.testing.assert_allclose(array(backbone.head(fused.representation)), predictions, atol=1e-6)
    assert np.ptp(predictions) > 0.05, "the predictions differ, or the comparison says little"
    assert fused.auxiliary is None


@pytest.mark.parametrize("n_bins", [1, 2, 3, 5])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 11])
def test_pooling_equals_loops(n_bins, steps):
    torch.manual_seed(steps)
    lengths = torch.arange(1, steps + 1)
    x = torch.randn(steps, steps, 4) - 5
    x[torch.arange(steps) >= lengths[:, None]] = 100.0  # padding must not be seen
    made = max_pool(x, lengths, n_bins)
    for row, length in enumerate(lengths.tolist()):
        alone = nn.AdaptiveMaxPool1d(n_bins)(x[row : row + 1, :length].transpose(1, 2))
        assert torch.equal(made[row], alone[0].T)


def gates_of(clean, deviation, noise, k):
    made = noisy_top_k(*(torch.tensor(x, dtype=torch.float64) for x in (clean, deviation, noise)), k)
    return made, made.log.exp().numpy()


def test_gates_worked_by_hand():
    """The noise, scaled by its deviation, changes the choice of experts."""
    _, gates = gates_of([[math.log(9), 0.0, -50.0]], [[1.0, 0.5, 25.0]], [[0.0, -2.0, 2.0]], 2)
    np.testing.assert_allclose(gates, [[0.9, 0, 0.1]], atol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_the_load_is_the_chance_of_being_kept(k):
    """Redraw one expert's noise many times, the others' fixed, and count."""
    generator = np.random.default_rng(k)
    clean, deviation, noise = generator.normal(size=(3, 1, 4))
    deviation = np.abs(deviation) + 0.3
    made, _ = gates_of(clean, deviation, noise, k)
    for e in range(4):
        redrawn = np.repeat(clean + noise * deviation, 20_000, 0)
        redrawn[:, e] = clean[0, e] + deviation[0, e] * generator.normal(size=20_000)
        kept = (redrawn > redrawn[:, e : e + 1]).sum(1) < k
        assert abs(made.load[e].item() - kept.mean()) < 0.015


def test_ties_go_to_the_first_experts():
    made, gates = gates_of(np.zeros((3, 4)), np.ones((3, 4)), np.zeros((3, 4)), 2)
    assert gates.tolist() == [[0.5, 0.5, 0, 0]] * 3
    assert made.load.tolist() == [1.5] * 4
    assert made.balance_loss().item() == pytest.approx(4 / 3), "importance 1.5, 1.5, 0, 0; equal loads"


def test_squared_variations():
    assert squared_variation(torch.tensor([0.5, 0.5, 0])).item() == pytest.approx(0.75), "a batch of one"
    assert squared_variation(torch.tensor([5.0])) == 0


def test_combining_overflows_nowhere():
    logits = torch.tensor([[0.0, -300.0, -400.0]] * 3, requires_grad=True)
    outputs = torch.tensor([[500.0, -900.0, 3.0], [800.0, -500.0, 4.0], [9e4, 9e4, 9e4]])[..., None]
    outputs = outputs.double().requires_grad_()
    made = combine(noisy_top_k(logits.double(), torch.ones(3, 3), torch.zeros(3, 3), 2).log, outputs)
    wanted = torch.tensor([500 + math.log(2), -800.0, 3.0], dtype=torch.float64)  # two equal terms, then one
    torch.testing.assert_close(made[:, 0], wanted)
    made.sum().backward()
    assert logits.grad.isfinite().all()
    assert outputs.grad.isfinite().all()
    assert not outputs.grad[2].any()


def test_experts_start_at_zero_gates_and_draw_in_training_only():
    torch.manual_seed(0)
    mixture, x = SparseExperts(6, 4, 3, 2), torch.randn(400, 6)
    assert not mixture.gate.any()
    assert not mixture.noise.any()
    state = torch.get_rng_state()
    assert (mixture.eval()(x)[1].log.exp() == torch.tensor([0.5, 0.5, 0])).all()
    assert torch.equal(state, torch.get_rng_state())
    gates = mixture.train()(x)[1].log.exp()
    assert ((gates > 0).sum(1) == 2).all()
    # Equal logits: each expert is kept by two thirds of the examples, whatever its number.
    torch.testing.assert_close((gates > 0).float().mean(0), torch.full((3,), 2 / 3), atol=0.08, rtol=0)


def test_the_noise_of_a_mixture_by_hand(monkeypatch):
    """Logits 3 and 2; deviations softplus(0) + 0.01 and softplus(1) + 0.01."""
    mixture = SparseExperts(1, 1, 2, 1).double().train()
    with torch.no_grad():
        mixture.gate.copy_(torch.tensor([[3.0, 2.0]]))
        mixture.noise.copy_(torch.tensor([[0.0, 1.0]]))
    draw = torch.tensor([[-1.0, 1.0]], dtype=torch.float64)
    monkeypatch.setattr(experts.torch, "randn_like", lambda x: draw.expand_as(x))
    deviations = math.log(2) + 0.01, math.log(1 + math.e) + 0.01
    logits = 3 - deviations[0], 2 + deviations[1]
    gates = mixture.gates(torch.ones(1, 1, dtype=torch.float64))
    assert gates.log.exp().tolist() == [[0, 1]]

    def phi(x):
        return (1 + math.erf(x / math.sqrt(2))) / 2

    wanted = [phi((3 - logits[1]) / deviations[0]), phi((2 - logits[0]) / deviations[1])]
    np.testing.assert_allclose(gates.load.detach(), wanted, atol=1e-12)


def test_the_weights_start_as_in_bert():
    backbone = make_backbone("glomo", make_sizes())
    for name, p in backbone.named_parameters():
        if name.endswith("bias") or ".gate" in name or ".noise" in name:
            assert not p.any(), name
        elif "norm" in name:
            assert (p == 1).all(), name
        elif "attention.projection" in name or "in_proj" in name:
            assert p.abs().max().item() == pytest.approx(math.sqrt(6 / (4 * 96)), rel=0.01), name
        elif "convolution" not in name:
            assert p.std().item() == pytest.approx(0.02, rel=0.15), name


def test_gates_are_in_single_precision_under_autocast():
    torch.manual_seed(0)
    mixture, x = SparseExperts(6, 4, 3, 2).train(), torch.randn(5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        made, gates = mixture(x)
        assert mixture.hidden(x.expand(3, -1, -1)).dtype == torch.bfloat16
    assert made.dtype == gates.log.dtype == gates.load.dtype == torch.float32


def test_the_balance_loss_of_a_training_step():
    sizes = make_sizes()
    backbone, batch = make_glomo(sizes, balance_weight=0.02).train(), make_batch(sizes, 6)
    seen = []
    for m in MODALITIES:
        backbone.experts[m].register_forward_hook(lambda module, given, made: seen.append(made[1]))
    latents = backbone.encode(backbone.embed(batch))
    wanted = 0.0
    for gates in seen:
        for use in (gates.log.exp().sum(0), gates.load):
            wanted += 0.02 * use.var().item() / use.mean().item() ** 2
    assert len(seen) == 3
    assert wanted > 1e-4
    assert latents.auxiliary.item() == pytest.approx(wanted, rel=1e-5)
    assert backbone.fuse(latents, 6).auxiliary is latents.auxiliary
    latents.auxiliary.backward()
    assert all(backbone.experts[m].noise.grad.any() for m in MODALITIES), "the noise learns its size"
    assert backbone.eval().encode(backbone.embed(batch)).auxiliary is None


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_balance_loss_counts_the_clean_rows_once(layer):
    sizes = make_sizes()
    backbone, batch = make_glomo(sizes).train(), make_batch(sizes, 6)
    kind = METHODS["manifold_mixup"]
    method = kind(kind.Settings(layers=[layer]), backbone.latent_widths, 3.0).train()
    torch.manual_seed(5)
    wanted = backbone.encode(backbone.embed(batch)).auxiliary
    torch.manual_seed(5)
    losses = step_losses(backbone, method, batch, method.draw(np.random.default_rng(0), batch.labels.numpy()))
    assert torch.equal(losses.auxiliary, wanted)
    torch.testing.assert_close(losses.total, losses.task + 0.7 * losses.mixed + wanted)


def test_every_dropout_is_there(monkeypatch):
    sizes = make_sizes()
    batch, off = make_batch(sizes, 6), dict.fromkeys(DROPOUTS, 0.0)
    assert len(DROPOUTS) == 6

    def differs(**dropouts) -> bool:
        backbone = make_glomo(sizes, **{**off, **dropouts}).train()
        return not torch.equal(backbone(batch), backbone(batch))

    assert differs(), "the gates' noise"
    monkeypatch.setattr(experts.torch, "randn_like", torch.zeros_like)
    assert not differs()
    for name in DROPOUTS:
        assert differs(**{name: 0.5}), name


@pytest.mark.parametrize(("field", "value"), [("model_dim", 90), ("top_k", 4)])
def test_settings_that_do_not_fit_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} must be .*, got {value}"):
        GLoMoSettings(**{field: value})


def decaying(groups, named):
    """The names with and without weight decay."""
    main, free = groups
    assert "weight_decay" not in main
    assert free["weight_decay"] == 0
    names = {id(p): name for name, p in named}
    return [[names[id(p)] for p in group["params"]] for group in (main, free)]


def test_biases_do_not_decay_but_the_norms_weights_do():
    """The reference exempts names with "bias" or "LayerNorm.weight", which only BERT's norms have."""
    backbone = make_backbone("glomo", make_sizes(), **SMALL)
    decayed, kept = decaying(backbone.parameter_groups(), backbone.named_parameters())
    assert all(name.endswith("bias") for name in kept)
    assert not any("bias" in name for name in decayed)
    norms = [name for name in decayed if "norm" in name]
    assert len(norms) == 14
    assert len(decayed) + len(kept) == len(list(backbone.parameters()))


def test_norms_of_a_fine_tuned_encoder_do_not_decay():
    backbone, encoder = make_backbone("glomo", make_sizes(), **SMALL), nn.Module()
    encoder.dense, encoder.LayerNorm = nn.Linear(2, 2), nn.LayerNorm(2)
    assert backbone.text_parameter_groups() == []
    backbone.text_encoder = encoder
    decayed, kept = decaying(backbone.text_parameter_groups(), encoder.named_parameters())
    assert decayed == ["dense.weight"]
    assert kept == ["dense.bias", "LayerNorm.weight", "LayerNorm.bias"]
    own = {id(p) for group in backbone.parameter_groups() for p in group["params"]}
    assert own.isdisjoint(map(id, encoder.parameters()))

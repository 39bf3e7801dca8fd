"""AdvMixUp: the masks, and the state that computing them must not change."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backbones import BACKBONES
from backbones.base import Backbone, BackboneSettings, Fused
from backbones.batch import MODALITIES, Latents
from harness.train.step import CRITERIA, mix_batch, step_losses
from methods.advmixup import AdvMixUpSettings
from methods.base import Network, interpolate
from tests.support.builders import (
    MAKES,
    array,
    arrays_of,
    check_mixed,
    drawn,
    make_batch,
    make_labels,
    make_latents,
    make_method,
    make_sizes,
    small_backbone,
)

SIZES = make_sizes()


def linear_network(latents: Latents) -> tuple[Network, dict[str, np.ndarray]]:
    """A prediction that is linear in every entry of the latents, under L1; and its coefficients."""
    generator = np.random.default_rng(0)
    coefficients = {m: generator.normal(size=x.shape[1:]) for m, x in latents.values.items()}

    def predict(z: Latents) -> torch.Tensor:
        terms = [(x * torch.from_numpy(coefficients[m])).flatten(1).sum(1) for m, x in z.values.items()]
        return torch.stack(terms).sum(0)

    return Network(predict, CRITERIA["l1"]), coefficients


def slow_masks(
    latents: Latents, labels: np.ndarray, draw: dict, coefficients: dict, s: AdvMixUpSettings
) -> dict[str, np.ndarray]:
    """The masks (n, D) of a linear network under L1, feature by feature, from derivatives on paper."""
    indices, lam = array(draw["indices"]).astype(int), array(draw["weights"])[:, 0]
    values = {m: array(x) for m, x in latents.values.items()}
    masks = {m: np.zeros((len(lam), x.shape[-1])) for m, x in values.items()}
    for row, (i, j) in enumerate(indices):
        mixed = {m: lam[row] * x[i] + (1 - lam[row]) * x[j] for m, x in values.items()}
        prediction = sum((mixed[m] * coefficients[m]).sum() for m in MODALITIES)
        error = prediction - (lam[row] * labels[i] + (1 - lam[row]) * labels[j])
        for m, x in values.items():
            slope = (coefficients[m] * (x[i] - x[j])).reshape(-1, x.shape[-1]).sum(0)
            for feature in range(x.shape[-1]):
                start = np.log(lam[row] / (1 - lam[row]))
                moved = start + s.eta * np.sign(error * slope[feature])
                moved = min(max(moved, start - s.eps), start + s.eps)
                masks[m][row, feature] = 1 / (1 + np.exp(-moved))
    return masks


@given(
    st.sampled_from(MAKES),
    st.sampled_from([1, 2, 3, 9]),
    st.sampled_from([(0.5, 0.5), (0.3, 0.5), (2.0, 0.7), (0.0, 0.5), (0.5, 0.0)]),
    st.sampled_from([1.0, 3.0]),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_masks_equal_a_loop(kind, n, steps, scale, dtype):
    latents, labels = make_latents(kind, n, seed=n, dtype=dtype), make_labels(n, scale, seed=n)
    method = make_method("advmixup", kind, scale, eta=steps[0], eps=steps[1])
    draw = arrays_of(method.draw(np.random.default_rng(n), labels.numpy()))
    network, coefficients = linear_network(latents)
    mixed = method(latents, labels, draw, network)
    check_mixed(mixed, latents, labels)
    masks = slow_masks(latents, array(labels), draw, coefficients, method.settings)
    for m, values in latents.values.items():
        shape = (n, 2, 1, values.shape[-1]) if values.ndim == 3 else (n, 2, values.shape[-1])
        assert mixed.weights[m].shape == shape
        np.testing.assert_allclose(array(mixed.weights[m]).reshape(n, 2, -1)[:, 0], masks[m], atol=1e-5)
    wanted = [np.mean([masks[m][row].mean() for m in MODALITIES]) for row in range(n)]
    np.testing.assert_allclose(array(mixed.label_weights)[:, 0], wanted, atol=1e-5)


def test_draws_are_clipped_and_of_each_pair():
    method, labels = make_method("advmixup"), make_labels(40, 3.0).numpy()
    lams = []
    for seed in range(100):
        draw = method.draw(np.random.default_rng(seed), labels)
        assert draw.layer == 1
        np.testing.assert_array_equal(draw.arrays["indices"][:, 0], np.arange(40))
        np.testing.assert_array_equal(np.sort(draw.arrays["indices"][:, 1]), np.arange(40))
        lams.append(draw.arrays["weights"][:, 0])
        assert len(np.unique(lams[-1])) > 30
    lams = np.concatenate(lams)
    assert lams.min() == np.float32(0.05)
    assert lams.max() == np.float32(0.95)
    for bound in (0.05, 0.95):
        assert abs((lams == np.float32(bound)).mean() - 0.05) < 0.02, "what lay beyond the bound"
    inside = (lams > 0.05) & (lams < 0.95)
    assert abs(np.histogram(lams[inside], 9, (0.05, 0.95))[0] / inside.sum() - 1 / 9).max() < 0.03
    limit = make_method("advmixup", alpha=0.0, margin=0.1).draw(np.random.default_rng(0), labels)
    np.testing.assert_allclose(np.sort(limit.arrays["weights"]), [[0.1, 0.9]] * 40, atol=1e-6)


def flat(tensors) -> torch.Tensor:
    return torch.cat([x.detach().double().flatten() for x in tensors])


def state_of(backbone, latents: Latents) -> dict[str, torch.Tensor]:
    return {
        "weights and statistics": flat(backbone.state_dict().values()),
        "gradients": flat(torch.zeros(1) if p.grad is None else p.grad for p in backbone.parameters()),
        "modes": torch.tensor([module.training for module in backbone.modules()]),
        "generator": torch.get_rng_state(),
        "latents": flat(latents.values.values()),
    }


class Normalised(Backbone):
    """Vectors of the inputs' means, which `fuse` normalises by their batch and drops out."""

    name = "normalised"
    Settings = BackboneSettings
    published = {}

    def __init__(self):
        super().__init__(BackboneSettings(8, 0.01, 0.0), SIZES)
        self.norm = torch.nn.BatchNorm1d(sum(SIZES.widths.values()))
        self.dropout = torch.nn.Dropout(0.5)
        self.output = torch.nn.Linear(sum(SIZES.widths.values()), 1)

    @property
    def latent_widths(self):
        return SIZES.widths

    def encode(self, inputs):
        return Latents({m: x.mean(1) for m, x in inputs.values.items()})

    def fuse(self, latents, n_clean):
        return Fused(self.dropout(self.norm(torch.cat(list(latents.values.values()), 1))))

    def head(self, representation):
        return self.output(representation)[:, 0]


def parts(backbone_name: str, training: bool = False, with_gradients: bool = False):
    """A backbone; a method, a batch of five, its draw and its latents."""
    torch.manual_seed(0)
    backbone = Normalised() if backbone_name == "normalised" else small_backbone(backbone_name, SIZES)
    backbone, method, batch = backbone.train(training), make_method("advmixup"), make_batch(SIZES, 5)
    if with_gradients:
        for p in backbone.parameters():
            p.grad = torch.randn_like(p) if p.requires_grad else None
    return backbone, method, batch, drawn(method, batch), backbone.encode(backbone.embed(batch))


@pytest.mark.parametrize("backbone_name", [*BACKBONES, "normalised"])
@pytest.mark.parametrize(("training", "with_gradients"), [(True, True), (False, False)])
def test_the_ascent_leaves_the_network_alone(backbone_name, training, with_gradients):
    """Its masks are the same where an evaluation asks for mixed examples, without gradients."""
    backbone, method, batch, draw, latents = parts(backbone_name, training, with_gradients)
    before = state_of(backbone, latents)
    mixed = mix_batch(backbone, method, latents, batch.labels, draw)
    with torch.no_grad():
        without = mix_batch(backbone, method, latents, batch.labels, draw)
    for part, after in state_of(backbone, latents).items():
        assert torch.equal(before[part], after), part
    assert with_gradients or all(p.grad is None for p in backbone.parameters())
    for m in MODALITIES:
        assert torch.equal(without.weights[m], mixed.weights[m])
        assert torch.equal(without.latents.values[m], mixed.latents.values[m])
    assert torch.equal(without.label_weights, mixed.label_weights)
    start = draw.arrays["weights"][:, 0]
    moved = [array(w).reshape(5, 2, -1)[:, 0] != start[:, None] for w in mixed.weights.values()]
    assert all(x.any() for x in moved), "it did ascend"


def test_a_step_moves_statistics_and_generator_once():
    """Clean and mixed rows move them together, as one pass over both does."""
    backbone, method, batch, draw, latents = parts("normalised", True)
    mixed = mix_batch(copy.deepcopy(backbone), method, latents, batch.labels, draw)
    clean, made = (torch.cat(list(z.values.values()), 1) for z in (latents, mixed.latents))
    rows = array(torch.cat([clean, made]))
    torch.manual_seed(3)
    backbone.dropout(torch.ones(len(rows), rows.shape[1]))
    once = torch.get_rng_state()
    torch.manual_seed(3)
    step_losses(backbone, method, batch, draw)
    assert torch.equal(torch.get_rng_state(), once)
    assert backbone.norm.num_batches_tracked == 1
    np.testing.assert_allclose(array(backbone.norm.running_mean), 0.1 * rows.mean(0), atol=1e-6)
    variance = 0.9 + 0.1 * rows.var(0, ddof=1)
    np.testing.assert_allclose(array(backbone.norm.running_var), variance, atol=1e-6)


def test_a_network_that_fails_is_left_in_its_mode(monkeypatch):
    for training in (True, False):
        backbone, method, batch, draw, latents = parts("normalised", training, True)
        monkeypatch.setattr(backbone, "head", lambda _: 1 / 0)
        before = state_of(backbone, latents)
        with pytest.raises(ZeroDivisionError):
            mix_batch(backbone, method, latents, batch.labels, draw)
        for part, after in state_of(backbone, latents).items():
            assert torch.equal(before[part], after), part


@pytest.mark.parametrize("backbone_name", BACKBONES)
def test_a_step_has_the_gradients_of_the_clean_and_mixed_loss_alone(backbone_name):
    """The masks found, given as weights, lead to the same gradients: the ascent added none."""
    backbone, method, batch, draw, latents = parts(backbone_name)
    step_losses(backbone, method, batch, draw).total.backward()
    made = flat(p.grad for p in backbone.parameters() if p.requires_grad)
    mixed = mix_batch(backbone, method, latents, batch.labels, draw)
    backbone.zero_grad()
    latents, criterion = backbone.encode(backbone.embed(batch)), CRITERIA[backbone.settings.criterion]
    values = {m: interpolate(x, mixed.indices, mixed.weights[m]) for m, x in latents.values.items()}
    fused, auxiliary = backbone.fuse(latents, 5)
    loss = criterion(backbone.head(fused), batch.labels).mean() + (0 if auxiliary is None else auxiliary)
    prediction = backbone.head(backbone.fuse(Latents(values, mixed.latents.lengths), 5).representation)
    (loss + 0.7 * criterion(prediction, mixed.labels).mean()).backward()
    wanted = flat(p.grad for p in backbone.parameters() if p.requires_grad)
    torch.testing.assert_close(made, wanted, atol=1e-5, rtol=1e-3)


def test_the_network_is_needed():
    method, labels = make_method("advmixup"), make_labels(3, 3.0)
    draw = arrays_of(method.draw(np.random.default_rng(0), labels.numpy()))
    with pytest.raises(AssertionError) as caught:
        method(make_latents("vectors", 3), labels, draw)
    assert str(caught.value).split("\n")[0] == "advmixup needs the rest of the network"

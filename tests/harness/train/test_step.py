"""One training step for every method and backbone of the registries, against the losses worked out apart."""

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backbones import BACKBONES
from backbones.base import Backbone, BackboneSettings, Fused
from backbones.batch import MODALITIES, Latents
from harness.train.step import CRITERIA, _warn_of_cap, mix_batch, mixed_loss, step_losses
from methods import METHODS
from methods.base import Draw, mix
from tests.support import toy
from tests.support.builders import PAIRS, drawn, make_batch, make_sizes, small_backbone

SIZES = make_sizes()
# Manifold mixup at each of its layers, too.
MIXTURES = [*((name, {}) for name in METHODS), *(("manifold_mixup", {"layers": [k]}) for k in range(3))]


def over_mixtures(*cases):
    """Every mixture in every case, each time on the next backbone: (method, options, backbone, *case)."""
    pairs = itertools.product(enumerate(MIXTURES), enumerate(cases))
    return [(*mix, list(BACKBONES)[(k + at) % len(BACKBONES)], *case) for (k, mix), (at, case) in pairs]


over_backbones = pytest.mark.parametrize("backbone_name", BACKBONES)


class Toy(toy.Toy):
    """Has auxiliary losses in encode and fuse; remembers what it was given."""

    def __init__(self, criterion="l1"):
        super().__init__(BackboneSettings(8, 0.01, 0.0, criterion), SIZES)
        self.given = []

    def encode(self, inputs):
        values = super().encode(inputs).values
        return Latents(values, auxiliary=values["audio"].square().mean())

    def fuse(self, latents, n_clean):
        if self.training:
            self.given.append((len(latents), n_clean))
        representation = super().fuse(latents, n_clean).representation
        encoded = 0.0 if latents.auxiliary is None else latents.auxiliary
        return Fused(representation, 0.1 * encoded + 0.01 * representation[:n_clean].square().mean())


def method_for(name: str, backbone: Backbone, seed: int = 0, **options):
    torch.manual_seed(seed)
    kind = METHODS[name]
    return kind(kind.Settings(**options), backbone.latent_widths, backbone.sizes.label_scale).train()


def auxiliary_of(backbone: Backbone, batch) -> torch.Tensor:
    """The backbone's own losses on the clean examples alone; 0 where it has none."""
    auxiliary = backbone.fuse(backbone.encode(backbone.embed(batch)), len(batch)).auxiliary
    return torch.zeros(()) if auxiliary is None else auxiliary


def mixed_apart(backbone: Backbone, method, batch, draw):
    """Mixed examples and predictions of them, which go through the network by themselves."""
    inputs = backbone.embed(batch)
    latents = backbone.encode(inputs)
    fused = Latents({"fused": backbone.fuse(latents, len(batch)).representation})
    mixed = mix_batch(backbone, method, (inputs, latents, fused)[draw.layer], batch.labels, draw)
    latents = backbone.encode(mixed.latents) if draw.layer == 0 else mixed.latents
    last = draw.layer == 2
    fused = latents.values["fused"] if last else backbone.fuse(latents, len(batch)).representation
    return mixed, backbone.head(fused)


@pytest.mark.parametrize(
    ("method_name", "options", "backbone_name", "mode", "n"),
    over_mixtures(("append", 1), ("replace", 1), ("append", 2), ("replace", 9)),
)
def test_a_step(method_name, options, backbone_name, mode, n):
    backbone, batch = small_backbone(backbone_name, SIZES).train(), make_batch(SIZES, n)
    method = method_for(method_name, backbone, mode=mode, **options)
    losses = step_losses(backbone, method, batch, drawn(method, batch))
    assert all(loss.shape == () and loss.isfinite() for loss in losses)
    losses.total.backward()
    for parameter in backbone.parameters():
        assert not parameter.requires_grad or parameter.grad.isfinite().all()
    if method_name != "none" and n > 1:
        assert all(p.grad.isfinite().all() for p in method.parameters())
        assert losses.mixed > 0
    wanted = losses.task + method.settings.xi1 * losses.mixed
    if mode == "replace" and losses.mixed > 0:
        wanted = losses.mixed
    torch.testing.assert_close(losses.total, wanted + losses.penalty + losses.auxiliary)


@pytest.mark.parametrize(
    ("method_name", "options", "backbone_name", "mix_loss", "mode"),
    over_mixtures(*itertools.product(["backbone", "mse", "split_mse"], ["append", "replace"])),
)
def test_losses_equal_those_of_separate_passes(method_name, options, backbone_name, mix_loss, mode):
    """In eval mode, where rows do not touch: clean and mixed examples go through the network apart."""
    backbone, batch = small_backbone(backbone_name, SIZES).eval(), make_batch(SIZES, 6)
    method = method_for(method_name, backbone, mode=mode, mix_loss=mix_loss, xi1=0.3, **options)
    draw = drawn(method, batch)
    losses = step_losses(backbone, method, batch, draw)
    criterion = CRITERIA[backbone.settings.criterion]
    task = criterion(backbone(batch), batch.labels).mean()
    auxiliary = auxiliary_of(backbone, batch)
    torch.testing.assert_close(losses.task, task, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(losses.auxiliary, auxiliary, atol=1e-6, rtol=1e-5)
    if draw is None:
        assert losses.mixed == losses.penalty == 0
        torch.testing.assert_close(losses.total, task + auxiliary, atol=1e-6, rtol=1e-5)
        return
    assert draw.layer in options.get("layers", [draw.layer])
    mixed, prediction = mixed_apart(backbone, method, batch, draw)
    each = (CRITERIA["mse"] if mix_loss == "mse" else criterion)(prediction, mixed.labels)
    if mix_loss == "split_mse":
        members = zip(mixed.label_weights.T, batch.labels[mixed.indices].T, strict=True)
        each = sum(w * (prediction - label) ** 2 for w, label in members)
    wanted = each.mean() if mixed.counted is None else each[mixed.counted].mean()
    torch.testing.assert_close(losses.mixed, wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(losses.penalty, mixed.penalty, atol=1e-6, rtol=1e-5)
    total = wanted if mode == "replace" else task + 0.3 * wanted
    torch.testing.assert_close(losses.total, total + mixed.penalty + auxiliary, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("method_name", "backbone_name"), sorted({*PAIRS, *(("mixup", name) for name in BACKBONES)})
)
def test_a_step_encodes_the_clean_batch_as_if_it_were_alone(method_name, backbone_name, monkeypatch):
    """Its dropout and its running statistics are the same under every method."""
    outputs, batch = [], make_batch(SIZES, 6)
    for alone in (True, False):
        backbone, latents = small_backbone(backbone_name, SIZES).train(), []
        method, encode = method_for(method_name, backbone), backbone.encode
        monkeypatch.setattr(backbone, "encode", lambda x, f=encode, to=latents: to.append(f(x)) or to[-1])
        torch.manual_seed(7)
        if alone:
            backbone.encode(backbone.embed(batch))
        else:
            step_losses(backbone, method, batch, drawn(method, batch))
        outputs.append([*latents[0].values.values(), *backbone.buffers()])
    for one, other in zip(*outputs, strict=True):
        assert torch.equal(one, other)


@over_backbones
def test_mixed_inputs_are_normalised_by_their_own_batch(backbone_name):
    backbone, batch = small_backbone(backbone_name, SIZES).train(), make_batch(SIZES, 6)
    norms = [m for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm1d)]
    method, outputs = method_for("mixup", backbone), []
    for norm in norms:
        norm.register_forward_hook(lambda _, __, out: outputs.append(out.detach()))
    step_losses(backbone, method, batch, drawn(method, batch))
    assert len(outputs) == 2 * len(norms)
    for out in outputs:
        torch.testing.assert_close(out.mean(0), torch.zeros(out.shape[1]), atol=1e-5, rtol=0)
    assert all(norm.track_running_stats for norm in norms)


@pytest.mark.parametrize("method_name", METHODS)
def test_a_diverged_network_shows_in_the_loss(method_name):
    backbone, batch = small_backbone("lmf", SIZES).train(), make_batch(SIZES, 5)
    method = method_for(method_name, backbone)
    with torch.no_grad():
        for parameter in backbone.subnets.parameters():
            parameter.fill_(torch.nan)
    assert not step_losses(backbone, method, batch, drawn(method, batch)).total.isfinite()


@given(st.lists(st.booleans(), max_size=6))
def test_the_mixed_loss_is_the_mean_over_what_counts(counted):
    labels, lam = torch.linspace(-3, 3, 6), torch.rand(len(counted), 1)
    pairs = torch.randint(0, 6, (len(counted), 2))
    mixed = mix(Latents({"text": torch.zeros(6, 1)}), labels, pairs, torch.cat([lam, 1 - lam], 1))
    mixed = dataclasses.replace(mixed, counted=torch.tensor(counted, dtype=torch.bool))
    prediction = torch.randn(len(counted))
    numbers = zip(prediction.tolist(), mixed.labels.tolist(), counted, strict=True)
    used = [abs(value - label) for value, label, counts in numbers if counts]
    loss = mixed_loss(prediction, mixed, labels, "backbone", CRITERIA["l1"])
    assert abs(loss.item() - sum(used) / max(len(used), 1)) < 1e-5


@over_backbones
@pytest.mark.parametrize("mode", ["append", "replace"])
def test_without_mixed_examples_the_clean_loss_remains(backbone_name, mode):
    """Without a draw, and with a draw of which no row counts, the loss is the same."""
    backbone, batch = small_backbone(backbone_name, SIZES).eval(), make_batch(SIZES, 4)
    none = method_for("none", backbone, mode=mode)
    nothing = method_for("ms_mix", backbone, mode=mode, similarity="cosine", delta=1.0, sal=False)
    wanted = CRITERIA[backbone.settings.criterion](backbone(batch), batch.labels).mean()
    wanted = wanted + auxiliary_of(backbone, batch)
    for method, draw in [(none, None), (nothing, drawn(nothing, batch))]:
        losses = step_losses(backbone, method, batch, draw)
        assert losses.mixed == 0
        torch.testing.assert_close(losses.total, wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("method_name", METHODS)
@pytest.mark.parametrize("criterion", ["l1", "mse"])
def test_auxiliary_losses_see_clean_rows_only(method_name, criterion):
    torch.manual_seed(0)
    toy, batch = Toy(criterion=criterion).train(), make_batch(SIZES, 6)
    method = method_for(method_name, toy, **({"random_n": False} if method_name == "powmix" else {}))
    losses = step_losses(toy, method, batch, drawn(method, batch))
    clean = toy.encode(toy.embed(batch))
    fused = sum(clean.values[m] for m in MODALITIES).tanh()
    wanted = 0.1 * clean.values["audio"].square().mean() + 0.01 * fused.square().mean()
    torch.testing.assert_close(losses.auxiliary, wanted)
    rows = 6 + 6 * {"none": 0, "av_mc": 2}.get(method_name, 1)
    assert toy.given == [(rows, 6)], "clean and mixed rows pass through the fusion once, clean first"
    total = losses.task + 0.7 * losses.mixed + losses.penalty + wanted
    torch.testing.assert_close(losses.total, total)
    error = toy(batch) - batch.labels
    torch.testing.assert_close(losses.task, (error.abs() if criterion == "l1" else error.square()).mean())


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("most", [0, 2, 6, 7])
def test_a_backbone_caps_the_mixed_examples(layer, most, monkeypatch):
    torch.manual_seed(0)
    toy, batch = Toy().eval(), make_batch(SIZES, 6)
    method = method_for("manifold_mixup", toy, layers=[layer])
    draw = drawn(method, batch)
    monkeypatch.setattr(toy, "max_mixed_per_batch", lambda n: most)
    capped = step_losses(toy, method, batch, draw)
    fewer = Draw(layer, {key: x[:most] for key, x in draw.arrays.items()})
    monkeypatch.undo()
    torch.testing.assert_close(capped.mixed, step_losses(toy, method, batch, fewer).mixed)


def test_a_cap_is_named_once(monkeypatch, caplog):
    """Test each backbone and cap with any number of mixed examples; the warning states the cap."""
    toy = Toy().eval()
    method = method_for("manifold_mixup", toy)
    _warn_of_cap.cache_clear()
    warnings = []
    for name, most in [("toy", 2), ("toy", 3), ("other", 2), ("toy", 2), ("toy", 9)]:
        monkeypatch.setattr(toy, "name", name)
        monkeypatch.setattr(toy, "max_mixed_per_batch", lambda n, most=most: most)
        caplog.clear()
        for n in (2, 4, 5, 9, 4):
            batch = make_batch(SIZES, n)
            step_losses(toy, method, batch, drawn(method, batch))
        warnings.append([record.getMessage() for record in caplog.records])
    said = "{} fuses at most {} mixed examples per batch; the others are left out"
    assert warnings == [[said.format(*place)] for place in (("toy", 2), ("toy", 3), ("other", 2))] + [[], []]

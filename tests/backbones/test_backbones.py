"""Every backbone of the registry against the contract; the fusions of TFN and LMF against slow loops."""

import copy
import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

from backbones import BACKBONES
from backbones.base import Sizes, by_modality
from backbones.batch import MODALITIES, Batch, Latents
from backbones.blocks import POOLS, BatchNorm, time_mean
from harness.data.occlusion import occlude
from tests.support.builders import (
    array,
    changed,
    make_backbone,
    make_batch,
    make_sizes,
    small_backbone,
)
from tests.support.slow_layers import in_double, lengthened, moved, parameters_of, slow_linear, slow_lstm

# Parameters of the reference at MOSI size: thuiar/MMSA, commit a94e65d, without a text encoder.
COUNTS = {
    "tfn": 9_497_045,
    "lmf": 505_071,
    "mult": 2_571_551,
    "misa": 1_134_445,
    "almt": 2_603_649,
    "glomo": 2_084_999,
}
MOSI = Sizes(by_modality(768, 5, 20), by_modality(50, 375, 500), 3.0)
SHAPES = {
    "plain": make_sizes(),
    "single text step": make_sizes(steps=(1, 7, 6)),
    "single steps": make_sizes(steps=(1, 1, 1)),
    "odd widths": make_sizes(widths=(13, 1, 7)),
    "narrow": make_sizes(widths=(1, 1, 1), steps=(2, 3, 1), scale=1.0),
}
over_backbones = pytest.mark.parametrize("name", BACKBONES)
over_shapes = pytest.mark.parametrize("shape", SHAPES)
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def training_loss(backbone, batch: Batch) -> torch.Tensor:
    """L1 and the auxiliary losses, which together reach every parameter."""
    fused = backbone.fuse(backbone.encode(backbone.embed(batch)), len(batch))
    loss = (backbone.head(fused.representation) - batch.labels).abs().mean()
    return loss if fused.auxiliary is None else loss + fused.auxiliary


def trained(backbone, sizes: Sizes):
    """The backbone after a few steps, so that running statistics and zero weights have moved."""
    backbone.train()
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=1e-3)
    for seed in range(3):
        batch = make_batch(sizes, 8, seed)
        optimizer.zero_grad()
        training_loss(backbone, batch).backward()
        optimizer.step()
    return backbone.eval()


def check_gradients(backbone) -> None:
    for key, parameter in backbone.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key


# The contract, over the registry


@over_backbones
def test_parameter_count(name):
    backbone = make_backbone(name, MOSI)
    assert backbone.name == name
    assert sum(p.numel() for p in backbone.parameters()) == COUNTS[name]


@over_backbones
@over_shapes
@pytest.mark.parametrize("n", [1, 5])
def test_four_steps(name, shape, n):
    sizes = SHAPES[shape]
    backbone, batch = small_backbone(name, sizes).train(), make_batch(sizes, n)
    inputs = backbone.embed(batch)
    latents = backbone.encode(inputs)
    fused = backbone.fuse(latents, n)
    prediction = backbone.head(fused.representation)
    assert list(inputs.values) == list(latents.values) == list(MODALITIES)
    assert all(inputs.values[m].shape[:2] == (n, sizes.steps[m]) for m in MODALITIES)
    assert {m: x.shape[-1] for m, x in latents.values.items()} == backbone.latent_widths
    assert fused.representation.shape[0] == n
    assert fused.representation.ndim == 2
    assert prediction.shape == (n,)
    assert prediction.isfinite().all()
    training_loss(backbone, batch).backward()
    check_gradients(backbone)
    for m, lengths in latents.lengths.items():
        assert (lengths >= 1).all()
        for row, length in enumerate(lengths.tolist()):
            assert not latents.values[m][row, length:].any()


@over_backbones
@pytest.mark.parametrize("zero", [*itertools.combinations(MODALITIES, 1), MODALITIES])
def test_modalities_of_zeros_that_are_occluded(name, zero):
    sizes = make_sizes()
    field = {m: torch.full((4, sizes.steps[m]), 0.0 if m in zero else 1.0) for m in MODALITIES}
    batch = occlude(make_batch(sizes, 4), 1.0, field)
    assert trained(small_backbone(name, sizes), sizes)(batch).isfinite().all()
    backbone = small_backbone(name, sizes).train()
    training_loss(backbone, batch).backward()
    check_gradients(backbone)


@over_backbones
@over_shapes
def test_a_prediction_does_not_depend_on_its_batch(name, shape):
    sizes = SHAPES[shape]
    backbone, batch = trained(small_backbone(name, sizes), sizes), make_batch(sizes, 7, seed=5)
    with torch.no_grad():
        together = backbone(batch)
        assert together.unique().numel() > 1
        for row in range(7):
            alone = backbone(changed(batch, lambda x, row=row: x[row : row + 1]))
            torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=0)
        order = torch.randperm(7)
        shuffled = backbone(changed(batch, lambda x: x[order]))
        torch.testing.assert_close(shuffled, together[order], atol=1e-5, rtol=0)


@over_backbones
def test_eval_draws_nothing(name):
    sizes = make_sizes()
    backbone, batch = trained(small_backbone(name, sizes), sizes), make_batch(sizes, 5)
    before, state = copy.deepcopy(backbone.state_dict()), torch.get_rng_state()
    first = backbone(batch)
    assert torch.equal(first, backbone(dataclasses.replace(batch, labels=-batch.labels)))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(x, before[key]) for key, x in backbone.state_dict().items())


@over_backbones
def test_a_batch_of_one_leaves_the_running_statistics(name):
    sizes = make_sizes()
    backbone = trained(small_backbone(name, sizes), sizes).train()
    before = {key: x.clone() for key, x in backbone.named_buffers()}
    training_loss(backbone, make_batch(sizes, 1)).backward()
    assert all(torch.equal(x, before[key]) for key, x in backbone.named_buffers())
    check_gradients(backbone)


@over_backbones
def test_bfloat16_autocast(name):
    sizes = make_sizes()
    backbone, batch = small_backbone(name, sizes).eval(), make_batch(sizes, 5)
    with torch.autocast("cpu", torch.bfloat16):
        rough = backbone(batch)
    torch.testing.assert_close(rough.float(), backbone(batch), atol=0.1, rtol=0.1)


@over_backbones
@pytest.mark.soak  # the compiler takes a minute for each; TFN is trained compiled in a slow test
def test_compiled(name):
    sizes = make_sizes()
    backbone, batch = trained(small_backbone(name, sizes), sizes), make_batch(sizes, 5)
    compiled = torch.compile(backbone)
    torch.testing.assert_close(compiled(batch), backbone(batch), atol=1e-5, rtol=1e-4)
    torch.compile(training_loss)(backbone.train(), batch).backward()
    check_gradients(backbone)


@over_backbones
@cuda
def test_cuda_agrees_with_the_cpu(name):
    sizes = make_sizes()
    backbone, batch = trained(small_backbone(name, sizes), sizes), make_batch(sizes, 5)
    wanted = backbone(batch)
    on_device = changed(batch, lambda x: x.to("cuda"))
    made = backbone.to("cuda")(on_device)
    torch.testing.assert_close(made.cpu(), wanted, atol=1e-4, rtol=1e-4)
    training_loss(backbone.train(), on_device).backward()
    check_gradients(backbone)


# The mix point: shape of the latents of 5 clips, width of the fused state, cap on mixed examples
SEQUENCES = {"text": (5, 5, 50), "audio": (5, 3, 50), "vision": (5, 2, 50)}
VECTORS = {
    "tfn": ((32, 32, 128), 64, 32),
    "lmf": ((64, 16, 128), 1, None),
    "misa": ((128,) * 3, 384, None),
    "glomo": ((192,) * 3, 192, None),
}


@over_backbones
def test_the_mix_point_of_the_published_settings(name):
    sizes = make_sizes()
    backbone = make_backbone(name, sizes)
    latents = backbone.encode(backbone.embed(make_batch(sizes, 5)))
    widths, fused, most = VECTORS.get(name, (None, {"mult": 300, "almt": 128}.get(name), None))
    shapes = {"mult": SEQUENCES, "almt": dict.fromkeys(MODALITIES, (5, 8, 128))}.get(name)
    shapes = shapes or {m: (5, width) for m, width in by_modality(*widths).items()}
    assert {m: tuple(x.shape) for m, x in latents.values.items()} == shapes
    assert bool(latents.lengths) == (name == "mult")
    made = backbone.fuse(latents, 3)
    assert made.representation.shape == (5, fused)
    assert (made.auxiliary is None) == (name not in ("misa", "glomo"))
    assert backbone.max_mixed_per_batch(8) == most


@over_backbones
def test_settings_refuse_what_cannot_be_used(name):
    kind = BACKBONES[name].Settings
    for field in dataclasses.fields(kind):
        wrong = {"i": (0, -1), "f": (math.nan, math.inf, -1.0), "s": ("nonsense",)}
        for value in (*wrong.get(str(field.type)[0], ()), *[1.0] * field.name.endswith("dropout")):
            with pytest.raises(ValueError, match=field.name):
                kind(**{field.name: value})


def test_time_means():
    latents = Latents(
        {"audio": torch.tensor([[[2.0], [4.0], [0.0], [0.0]], [[0.0], [3.0], [0.0], [0.0]]])},
        {"audio": torch.tensor([2, 3])},
    )
    occluded = dataclasses.replace(
        latents, kept={"audio": torch.tensor([[True, True, False, False], [False, True, False, False]])}
    )
    gone = dataclasses.replace(latents, kept={"audio": torch.zeros(2, 4, dtype=torch.bool)})

    def means(inputs, pool):
        return time_mean(inputs, "audio", pool)[:, 0].tolist()

    assert means(latents, "padded_mean") == means(occluded, "padded_mean") == [1.5, 0.75]
    assert means(latents, "masked_mean") == means(occluded, "masked_mean") == [3.0, 1.0]
    assert means(latents, "kept_mean") == [3.0, 1.0]
    assert means(occluded, "kept_mean") == [3.0, 3.0]
    assert time_mean(gone, "audio", "kept_mean").isfinite().all()


def test_normalisation_of_a_single_example():
    torch.manual_seed(0)
    norm, plain = BatchNorm(3), torch.nn.BatchNorm1d(3)
    for _ in range(3):
        x = torch.randn(6, 3) * 4 + 1
        assert torch.equal(norm(x), plain(x))
    one = torch.randn(1, 3)
    assert torch.equal(norm(one), plain.eval()(one))
    for key, value in plain.state_dict().items():
        assert torch.equal(norm.state_dict()[key], value)


def longer_backbone(backbone, steps: int):
    """Return the same network for sequences with more padding, with longer position tables."""
    sizes = dataclasses.replace(
        SHAPES["plain"], steps={m: n + steps for m, n in SHAPES["plain"].steps.items()}
    )
    longer = type(backbone)(backbone.settings, sizes).eval()
    state = longer.state_dict()
    for key, x in backbone.state_dict().items():
        state[key][tuple(map(slice, x.shape))] = x
    longer.load_state_dict(state)
    return longer


@pytest.mark.parametrize(
    ("name", "pool", "padding"),
    [
        *itertools.product(("tfn", "lmf"), POOLS, ("valid", "reference")),
        *itertools.product(("mult", "almt", "glomo"), [None], ("valid", "reference")),
        ("misa", None, "valid"),
    ],
)
def test_what_padding_changes(name, pool, padding):
    """Neither more padding nor its content changes the output, unless the model reads padding."""
    sizes, settings = SHAPES["plain"], {} if pool is None else {"pool": pool}
    backbone = moved(small_backbone(name, sizes, padding=padding, **settings)).eval()
    batch = make_batch(sizes, 6, seed=3)
    with torch.no_grad():
        longer = longer_backbone(backbone, 4)
        first, second = (b.encode(b.embed(x)) for b, x in ((backbone, batch), (longer, lengthened(batch, 4))))
    for m in MODALITIES:
        read = pool != "padded_mean" if pool and m != "text" else padding == "valid"
        a, b = first.values[m], second.values[m]
        if m in first.lengths:
            steps = a.shape[1]
            b = b[:, :steps]
            assert torch.equal(first.lengths[m], second.lengths[m]) == (padding == "valid")
        assert torch.allclose(a, b, atol=1e-5) == (read or name == "mult")
    same = torch.allclose(backbone(batch), longer(lengthened(batch, 4)), atol=1e-5)
    assert same == (padding == "valid" and pool != "padded_mean")


def slow_subnets(backbone, batch: Batch, pool: str) -> dict[str, np.ndarray]:
    """The sub-networks in eval mode: an LSTM step by step, means over time and three layers."""
    p, vectors = parameters_of(backbone.subnets), {m: [] for m in MODALITIES}
    for row in range(len(batch)):
        for m in MODALITIES:
            length = batch.lengths[m][row].item()
            steps = array(batch.features[m])[row, :length]
            if m == "text":
                x = slow_linear(p, "text.linear", slow_lstm(p, "text.lstm", steps)[-1])
            else:
                x = steps.sum(0) / (batch.features[m].shape[1] if pool == "padded_mean" else length)
                x = (x - p[f"{m}.norm.running_mean"]) / np.sqrt(p[f"{m}.norm.running_var"] + 1e-5)
                x = x * p[f"{m}.norm.weight"] + p[f"{m}.norm.bias"]
                for layer in range(3):
                    x = np.maximum(slow_linear(p, f"{m}.layers.{layer}", x), 0)
            vectors[m].append(x)
    return {m: np.array(rows) for m, rows in vectors.items()}


def slow_tfn(backbone, vectors: dict[str, np.ndarray], row: int) -> float:
    """Outer product of (1, z^m) by three loops, two layers, the scaled sigmoid."""
    p = parameters_of(backbone)
    text, audio, vision = ([1.0, *vectors[m][row]] for m in MODALITIES)
    product = [a * v * t for a in audio for v in vision for t in text]
    hidden = np.maximum(p["post_fusion_1.weight"] @ product + p["post_fusion_1.bias"], 0)
    hidden = np.maximum(p["post_fusion_2.weight"] @ hidden + p["post_fusion_2.bias"], 0)
    logit = (p["output.weight"] @ hidden + p["output.bias"]).item()
    scale = backbone.sizes.label_scale
    return 2 * scale / (1 + math.exp(-logit)) - scale


def slow_lmf(backbone, vectors: dict[str, np.ndarray], row: int) -> float:
    """Rank by rank: the product over modalities of (1, z^m) W^m, weighted, plus the bias."""
    p = parameters_of(backbone)
    total = p["bias"].item()
    for rank in range(backbone.settings.rank):
        product = 1.0
        for m in MODALITIES:
            factor = p[f"factors.{m}"][rank, :, 0]
            product *= sum(w * z for w, z in zip(factor, [1.0, *vectors[m][row]], strict=True))
        total += p["weights"][0, rank] * product
    return total


SMALL = {
    "tfn": {"text_hidden": 6, "audio_hidden": 3, "vision_hidden": 4, "text_out": 5, "post_fusion_dim": 6},
    "lmf": {"text_hidden": 6, "audio_hidden": 3, "vision_hidden": 4, "rank": 3},
}


@pytest.mark.parametrize(("name", "slow"), [("tfn", slow_tfn), ("lmf", slow_lmf)])
@pytest.mark.parametrize(("pool", "scale"), [("padded_mean", 1.0), ("masked_mean", 3.0)])
def test_predictions_equal_loops(name, slow, pool, scale):
    sizes = make_sizes(scale=scale)
    backbone = moved(trained(make_backbone(name, sizes, pool=pool, **SMALL[name]), sizes)).double()
    batch = in_double(make_batch(sizes, 5))
    vectors = slow_subnets(backbone, batch, pool)
    latents = backbone.encode(backbone.embed(batch))
    prediction = backbone(batch)
    for m in MODALITIES:
        np.testing.assert_allclose(array(latents.values[m]), vectors[m], atol=1e-10)
    wanted = [slow(backbone, vectors, row) for row in range(5)]
    np.testing.assert_allclose(array(prediction), wanted, atol=1e-9)
    assert np.ptp(wanted) > 0.05, "the predictions differ, or the comparison says little"


@pytest.mark.parametrize("scale", [1, 1.0, 3.0])
def test_tfn_stays_in_the_label_range(scale):
    sizes = make_sizes(scale=scale)
    backbone = make_backbone("tfn", sizes).eval()
    frozen = [p for p in backbone.parameters() if not p.requires_grad]
    assert sorted(p.item() for p in frozen) == [-scale, 2 * scale]
    assert all(p.is_floating_point() for p in frozen)
    huge = torch.linspace(-1e4, 1e4, 9)[:, None] * torch.ones(9, backbone.settings.post_fusion_dim)
    prediction = backbone.head(huge)
    assert (prediction.abs() <= scale).all()
    assert prediction.abs().max() > 0.99 * scale


@pytest.mark.parametrize(("name", "settings"), [("lmf", {}), ("tfn", {"fusion_dropout": 0.5})])
def test_lmf_alone_has_no_dropout_after_the_mix_point(name, settings):
    backbone = make_backbone(name, make_sizes(), **settings).train()
    latents = backbone.encode(backbone.embed(make_batch(make_sizes(), 5)))
    first, second = (backbone.fuse(latents, 5).representation for _ in range(2))
    assert torch.equal(first, second) == (name == "lmf")


def test_lmf_starts_as_published_and_trains_its_factors_at_their_own_rate():
    backbone = make_backbone("lmf", make_sizes(), like="sims")
    assert not backbone.bias.any()
    for factor in backbone.factors.values():
        fan = factor.shape[0] + factor.shape[1]  # of a (r, h + 1, 1) tensor: h + 1 in, r out
        assert abs(factor.std().item() / math.sqrt(2 / fan) - 1) < 0.25
        assert factor.abs().max() > 1.05 * math.sqrt(6 / fan), "normal: a uniform one would end there"
    main, factors = backbone.parameter_groups()
    assert "lr" not in main
    assert factors["lr"] == 0.0005
    assert {id(p) for p in factors["params"]} == {id(p) for p in backbone.factors.values()}
    assert {id(backbone.weights), id(backbone.bias)} <= {id(p) for p in main["params"]}

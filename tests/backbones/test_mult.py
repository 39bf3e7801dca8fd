"""MulT against slow loops, its convolutions, padding, dropouts and published settings."""

import itertools

import numpy as np
import pytest
import torch

from backbones.base import by_modality, resolve_settings
from backbones.batch import MODALITIES, Batch
from backbones.mult import MulT
from tests.support.builders import array, make_backbone, make_batch, make_sizes
from tests.support.slow_layers import (
    below,
    check_halved,
    in_double,
    moved,
    parameters_of,
    slow_encoder,
    slow_linear,
)

NO_DROPOUT = {name: 0.0 for name in MulT.published["mosi"] if name.endswith("_dropout")}
KERNELS = {"text_kernel": 3, "audio_kernel": 2, "vision_kernel": 1}
SMALL = {"latent_dim": 6, "n_heads": 2, "n_layers": 2, **KERNELS}


def small_mult(sizes=None, **settings) -> MulT:
    """A narrow MulT without dropout, in double precision, with parameters off their initial values."""
    backbone = make_backbone("mult", sizes or make_sizes(), **SMALL | NO_DROPOUT | settings)
    return moved(backbone).double().eval()


def slow_convolution(weight: np.ndarray, x: np.ndarray, valid: int) -> np.ndarray:
    """Windows of the valid steps; fewer than a kernel are filled up with zeros. (T, D) -> (T', d)."""
    kernel = weight.shape[2]
    x = np.concatenate([x[:valid], np.zeros((max(kernel - valid, 0), x.shape[1]))])
    windows = [x[t : t + kernel] for t in range(len(x) - kernel + 1)]
    return np.array([sum(weight[:, :, k] @ window[k] for k in range(kernel)) for window in windows])


def slow_mult(backbone: MulT, batch: Batch, row: int) -> tuple[dict[str, np.ndarray], float]:
    """One clip's latents and prediction."""
    p, s = parameters_of(backbone), backbone.settings
    latents, padded = {}, {}
    for m, x in batch.features.items():
        weight, steps = p[f"convolutions.{m}.weight"], x.shape[1]
        valid = batch.lengths[m][row].item() if s.padding == "valid" else steps
        latents[m] = slow_convolution(weight, array(x[row]), valid)
        padded[m] = max(steps - weight.shape[2] + 1, 1)
    summaries = []
    for target in MODALITIES:
        gathered = [
            slow_encoder(
                below(p, f"cross.{target}_from_{source}"),
                latents[target],
                latents[source],
                s.n_heads,
                abs(padded[target] - padded[source]),
                positions=99 * s.positions,
            )
            for source in MODALITIES
            if source != target
        ]
        memory = below(p, f"memories.{target}")
        both = np.concatenate(gathered, 1)
        summaries.append(slow_encoder(memory, both, None, s.n_heads, 0, 99 * s.positions)[-1])
    summary = np.concatenate(summaries)
    hidden = np.maximum(slow_linear(p, "residual_1", summary), 0)
    representation = summary + slow_linear(p, "residual_2", hidden)
    return latents, slow_linear(p, "output", representation).item()


@pytest.mark.usefixtures("layout")
@pytest.mark.parametrize(
    ("padding", "positions", "kernels"),
    [
        ("valid", True, (3, 2, 1)),
        ("reference", False, (3, 2, 1)),
        ("valid", False, (1, 8, 4)),
        ("reference", True, (1, 8, 4)),
    ],
)
def test_predictions_equal_loops(padding, positions, kernels):
    sizes = make_sizes()
    kernels = {f"{m}_kernel": kernel for m, kernel in by_modality(*kernels).items()}
    backbone = small_mult(sizes, padding=padding, positions=positions, **kernels)
    batch = in_double(make_batch(sizes, 3, seed=1))
    latents = backbone.encode(backbone.embed(batch))
    prediction = array(backbone(batch))
    for row in range(3):
        slow_latents, slow_prediction = slow_mult(backbone, batch, row)
        for m in MODALITIES:
            length = latents.lengths[m][row]
            assert length == len(slow_latents[m])
            np.testing.assert_allclose(array(latents.values[m][row, :length]), slow_latents[m], atol=1e-10)
        # The table of positions is made in single precision.
        assert abs(prediction[row] - slow_prediction) < (1e-4 if positions else 1e-9)
    assert np.ptp(prediction) > 0.05, "the predictions differ, or the comparison says little"


def test_layers():
    for like, n in (("mosi", 4), ("sims", 2)):
        backbone = make_backbone("mult", make_sizes(), like=like)
        assert [len(encoder.layers) for encoder in backbone.cross.values()] == [n] * 6
        assert [len(encoder.layers) for encoder in backbone.memories.values()] == [max(n, 3)] * 3


CROSS = [f"cross.{t}_from_{s}" for t, s in itertools.permutations(MODALITIES, 2)]
MEMORIES = [f"memories.{m}" for m in MODALITIES]
WHERE = {
    "text_attn_dropout": ["cross.audio_from_text", "cross.vision_from_text", *MEMORIES],
    "audio_attn_dropout": ["cross.text_from_audio", "cross.vision_from_audio"],
    "vision_attn_dropout": ["cross.text_from_vision", "cross.audio_from_vision"],
    "relu_dropout": [*CROSS, *MEMORIES],
    "residual_dropout": [*CROSS, *MEMORIES],
    "embed_dropout": [*CROSS, *MEMORIES],
}


@pytest.mark.parametrize("name", WHERE)
def test_encoders_take_their_dropouts(name):
    """Attention dropout follows the source; the memories take the text's."""
    backbone = small_mult(**{name: 0.4}).train()
    noisy = []
    for part in (*CROSS, *MEMORIES):
        encoder, x = backbone.get_submodule(part), torch.randn(2, 3, 12 if part in MEMORIES else 6).double()
        source = None if part in MEMORIES else x.flip(1)
        if not torch.equal(encoder(x, source=source), encoder(x, source=source)):
            noisy.append(part)
    assert sorted(noisy) == sorted(WHERE[name])


def test_text_and_output_dropouts():
    batch = in_double(make_batch(make_sizes(), 4, full=True))
    backbone = small_mult(text_dropout=0.5, output_dropout=0.5).train()
    seen = {}
    for part in ("convolutions.text", "convolutions.audio", "residual_1", "residual_2"):
        backbone.get_submodule(part).register_forward_hook(
            lambda _, args, output, part=part: seen.update({part: (args[0], output)})
        )
    backbone(batch)
    check_halved(seen["convolutions.text"][0].transpose(1, 2), batch.features["text"])
    assert torch.equal(seen["convolutions.audio"][0].transpose(1, 2), batch.features["audio"])
    check_halved(seen["residual_2"][0], seen["residual_1"][1].relu())


def test_without_dropouts_training_is_exact():
    batch, backbone = in_double(make_batch(make_sizes(), 4)), small_mult()
    assert torch.equal(backbone.train()(batch), backbone.eval()(batch))


def test_heads_share_the_width_evenly():
    with pytest.raises(ValueError, match=r"latent_dim.*divisible by n_heads = 4"):
        MulT.Settings(latent_dim=10, n_heads=4)
    with pytest.raises(ValueError, match=r"latent_dim.*divisible by n_heads = 10"):
        resolve_settings(MulT, MulT.Settings(latent_dim=16), "mosi")

"""Builders of inputs for the tests of methods, backbones and training steps."""

import functools
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf

import harness.conf
from backbones import BACKBONES
from backbones.base import Backbone, BackboneSettings, Sizes, by_modality, resolve_settings
from backbones.batch import MODALITIES, Batch, Latents
from harness.data.dataset import SPLITS, Dataset, Split
from harness.matrix import Cell
from methods import METHODS
from methods.base import Draw, Method, Mixed, Network

# Widths and padded lengths of each kind of latents; a length of None stands for vectors.
KINDS = {
    "vectors": (by_modality(8, 8, 8), by_modality(None, None, None)),
    "odd vectors": (by_modality(7, 1, 13), by_modality(None, None, None)),
    "sequences": (by_modality(8, 8, 8), by_modality(7, 7, 7)),
    "odd sequences": (by_modality(3, 16, 5), by_modality(1, 4, 7)),
    "fixed tokens": (by_modality(8, 8, 8), by_modality(8, 8, 8)),
}
# One of each make: vectors, sequences with lengths, sequences without.
MAKES = ("odd vectors", "odd sequences", "fixed tokens")
MIXING = [name for name in METHODS if name != "none"]
# Every method with some backbone, and every backbone with a method that has parameters of its own.
PAIRS = list(
    dict.fromkeys(
        [*zip(METHODS, itertools.cycle(BACKBONES), strict=False), *(("ms_mix", name) for name in BACKBONES)]
    )
)


class WithoutSamplers:
    """A generator whose Beta, Dirichlet and Gamma must not be called."""

    def __init__(self, seed: int):
        self._generator = np.random.default_rng(seed)

    def __getattr__(self, name: str) -> object:
        assert name not in ("beta", "dirichlet", "gamma", "standard_gamma"), f"the sampler {name} was called"
        return getattr(self._generator, name)


def make_latents(kind: str, n: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Latents:
    """Random latents; sequences are zero from their random lengths on."""
    torch.manual_seed(seed)
    widths, steps = KINDS[kind]
    values, lengths = {}, {}
    for m in MODALITIES:
        if steps[m] is None:
            values[m] = torch.randn(n, widths[m], dtype=dtype)
            continue
        values[m] = torch.randn(n, steps[m], widths[m], dtype=dtype)
        if "sequences" in kind:
            lengths[m] = torch.randint(1, steps[m] + 1, (n,))
            values[m] = values[m] * (torch.arange(steps[m]) < lengths[m][:, None])[..., None]
    return Latents({m: x.requires_grad_() for m, x in values.items()}, lengths)


def make_labels(n: int, scale: float, seed: int = 0) -> torch.Tensor:
    """Labels in [-scale, scale]."""
    return torch.from_numpy(np.random.default_rng(seed).uniform(-scale, scale, n).astype(np.float32))


def make_method(name: str, kind: str = "vectors", scale: float = 3.0, seed: int = 0, **settings) -> Method:
    """A method for one kind of latents."""
    torch.manual_seed(seed)
    return METHODS[name](METHODS[name].Settings(**settings), KINDS[kind][0], scale)


def plain_network() -> Network:
    """Stands for the rest of the network: the mean of all latents, under L1."""
    return Network(
        lambda z: torch.stack([v.mean(1) for v in z.vectors().values()]).mean(0).float(),
        lambda prediction, target: (prediction - target).abs(),
    )


def arrays_of(draw: Draw) -> dict[str, torch.Tensor]:
    """A draw's arrays as tensors."""
    return {name: torch.from_numpy(array) for name, array in draw.arrays.items()}


def drawn(method: Method, batch: Batch, seed: int = 0) -> Draw | None:
    """Return a method's draw for a batch."""
    return method.draw(np.random.default_rng(seed), batch.labels.numpy())


def run_method(method: Method, latents: Latents, labels: torch.Tensor, seed: int = 0) -> Mixed | None:
    """Draw and mix; None where the method mixes nothing."""
    draw = method.draw(np.random.default_rng(seed), labels.numpy())
    return None if draw is None else method(latents, labels, arrays_of(draw), plain_network())


def array(x: torch.Tensor) -> np.ndarray:
    """A tensor's numbers in double precision."""
    return x.detach().double().numpy()


def make_sizes(
    widths: tuple[int, int, int] = (11, 5, 6), steps: tuple[int, int, int] = (9, 7, 6), scale: float = 3.0
) -> Sizes:
    """Sizes of a small dataset."""
    return Sizes(by_modality(*widths), by_modality(*steps), scale)


def make_batch(sizes: Sizes, n: int, seed: int = 0, full: bool = False) -> Batch:
    """Random clips, zero from their random lengths on (``full``: no padding)."""
    generator = torch.Generator().manual_seed(seed)
    features, lengths = {}, {}
    for m in MODALITIES:
        steps = sizes.steps[m]
        lengths[m] = torch.randint(steps if full else 1, steps + 1, (n,), generator=generator)
        x = torch.randn(n, steps, sizes.widths[m], generator=generator)
        features[m] = x * (torch.arange(steps) < lengths[m][:, None])[..., None]
    return Batch(features, lengths, make_labels(n, sizes.label_scale, seed))


def make_dataset(sizes: Sizes, clips: tuple[int, int, int]) -> Dataset:
    """Random clips in splits of these sizes."""
    splits = {}
    for number, (name, n) in enumerate(zip(SPLITS, clips, strict=True)):
        batch = make_batch(sizes, n, seed=number)
        splits[name] = Split(
            np.array([f"{name}{k}" for k in range(n)]),
            {m: x.numpy() for m, x in batch.features.items()},
            {m: x.numpy() for m, x in batch.lengths.items()},
            batch.labels.numpy(),
        )
    return Dataset(splits, sizes.label_scale)


def make_backbone(name: str, sizes: Sizes, seed: int = 0, like: str = "mosi", **settings) -> Backbone:
    """A backbone with its published settings, but for those given."""
    torch.manual_seed(seed)
    backbone = BACKBONES[name]
    return backbone(resolve_settings(backbone, backbone.Settings(**settings), like), sizes)


def small_backbone(name: str, sizes: Sizes, seed: int = 0, **settings) -> Backbone:
    """A backbone with the quick profile's narrow layers, so that its tests take milliseconds."""
    return make_backbone(name, sizes, seed, **quick_settings().get(name, {}) | settings)


@functools.cache
def quick_settings() -> dict[str, dict]:
    """The quick profile's settings of each backbone; reading them takes longer than most tests."""
    quick = OmegaConf.load(Path(harness.conf.__file__).parent / "profile" / "quick.yaml")
    return OmegaConf.to_container(quick.backbone)


def small_cell(
    backbone: str = "lmf",
    method: str = "ms_mix",
    seed: int = 1,
    rules: Mapping[str, object] | BackboneSettings | None = None,
    options: Mapping[str, object] | None = None,
    **fields: object,
) -> Cell:
    """A cell with `make_sizes`; rules: its backbone's settings, or changes of the small ones.

    options: of the method. fields: of the cell.
    """
    if not isinstance(rules, BackboneSettings):
        rules = small_backbone(backbone, make_sizes(), **(rules or {})).settings
    method_settings = METHODS[method].Settings(**(options or {}))
    return Cell("toy", "mosi", 3.0, "", backbone, rules, method, method_settings, seed, **fields)


def same_bits(a: object, b: object) -> bool:
    """Whether two nested states are equal in types, dtypes, shapes and every bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        bits = [x.contiguous().reshape(-1).view(torch.uint8).tolist() for x in (a, b)]
        return (a.dtype, a.shape) == (b.dtype, b.shape) and bits[0] == bits[1]
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same_bits(value, b[key]) for key, value in a.items())
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same_bits, a, b))
    return type(a) is type(b) and repr(a) == repr(b)


def changed(batch: Batch, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
    """The batch with a change made to all of its tensors."""
    return Batch(
        {m: change(x) for m, x in batch.features.items()},
        {m: change(x) for m, x in batch.lengths.items()},
        change(batch.labels),
        None if batch.tokens is None else change(batch.tokens),
        {m: change(x) for m, x in batch.dropped.items()},
    )


def slow_mix(values: np.ndarray, indices: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Convex combinations, member by member and step by step; weights (n, k) or (n, k, ...)."""
    mixed = np.zeros((len(indices), *values.shape[1:]))
    for row, members in enumerate(indices):
        for member, source in enumerate(members):
            weight = weights[row, member]
            if values.ndim <= 2:
                mixed[row] += weight * values[source]
            else:
                for step in range(values.shape[1]):
                    at_step = weight if np.ndim(weight) < 2 else weight[step % len(weight)]
                    mixed[row, step] += at_step * values[source, step]
    return mixed


def extrapolates(method: str, latents: Latents) -> bool:
    """Whether a method's weights may leave [0, 1]: those of the release's 3-D function, for sequences."""
    return method == "ms_mix_released" and any(x.ndim == 3 for x in latents.values.values())


def check_mixed(mixed: Mixed, latents: Latents, labels: torch.Tensor, convex: bool = True) -> None:
    """Assert all that the contract promises of mixed examples."""
    n = len(mixed)
    indices = mixed.indices.numpy()
    assert mixed.indices.shape[0] == n
    assert mixed.labels.shape == (n,)
    assert mixed.penalty.shape == ()
    assert ((indices >= 0) & (indices < len(latents))).all()
    assert list(mixed.latents.values) == list(latents.values)
    assert list(mixed.latents.kept) == list(latents.kept)
    check_weights(array(mixed.label_weights), indices.shape, convex)
    wanted = slow_mix(array(labels), indices, array(mixed.label_weights))
    largest = abs(array(mixed.label_weights)).max()
    np.testing.assert_allclose(array(mixed.labels), wanted, atol=1e-5 * largest)
    if convex:
        assert (array(mixed.labels) >= array(labels).min() - 1e-5).all()
        assert (array(mixed.labels) <= array(labels).max() + 1e-5).all()
    for m, values in latents.values.items():
        made, weights = mixed.latents.values[m], array(mixed.weights[m])
        check_weights(weights, indices.shape, convex)
        assert made.shape == (n, *values.shape[1:])
        assert made.dtype == values.dtype
        assert made.device == values.device
        atol = (2e-5 if values.dtype == torch.float32 else 1e-10) * abs(weights).max()
        np.testing.assert_allclose(array(made), slow_mix(array(values), indices, weights), atol=atol)
        assert (m in mixed.latents.lengths) == (m in latents.lengths)
        if m in latents.lengths:
            check_lengths(mixed, latents, m)
        if m in latents.kept:
            check_kept(mixed, latents, m)


def check_weights(weights: np.ndarray, shape: tuple[int, ...], convex: bool) -> None:
    assert weights.shape[:2] == shape
    assert not convex or (weights >= 0).all()
    assert not convex or (weights <= 1).all()
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5 * abs(weights).max())


def check_lengths(mixed: Mixed, latents: Latents, modality: str) -> None:
    """As long as the longest member of nonzero weight, and zero from there on."""
    lengths, made = latents.lengths[modality].tolist(), mixed.latents.values[modality]
    for row, members in enumerate(mixed.indices.tolist()):
        present = [
            lengths[i] for i, w in zip(members, mixed.weights[modality][row], strict=True) if (w != 0).any()
        ]
        assert mixed.latents.lengths[modality][row] == max(present)
        assert not made[row, max(present) :].any()


def check_kept(mixed: Mixed, latents: Latents, modality: str) -> None:
    """A step is kept if any member of nonzero weight kept it."""
    kept, made = latents.kept[modality].tolist(), mixed.latents.kept[modality].tolist()
    for row, members in enumerate(mixed.indices.tolist()):
        weights = mixed.weights[modality][row]
        present = [kept[i] for i, w in zip(members, weights, strict=True) if (w != 0).any()]
        assert made[row] == [any(steps) for steps in zip(*present, strict=True)]

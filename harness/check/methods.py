"""The rules of methods, checked on random latents of every kind that backbones have."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backbones.batch import MODALITIES, Latents
from harness.check.rule import Rule, expect
from methods.base import Draw, Method, Mixed, Network

WIDTHS = dict(zip(MODALITIES, (8, 5, 16), strict=True))
STEPS = dict(zip(MODALITIES, (3, 1, 7), strict=True))
SCALE, BATCH, DRAWS = 3.0, 9, 8
KINDS = ("vectors", "sequences", "tokens")
"""Kinds of latents: (B, D), (B, T, D) with lengths, and (B, T, D) without."""


def make_latents(kind: str, n: int, dtype: torch.dtype = torch.float32) -> Latents:
    """Make random latents that need gradients; sequences are zero in padded steps."""
    generator = torch.Generator().manual_seed(n)
    values, lengths = {}, {}
    for m, width in WIDTHS.items():
        shape = (n, width) if kind == "vectors" else (n, STEPS[m], width)
        values[m] = torch.randn(shape, generator=generator, dtype=dtype)
        if kind == "sequences":
            lengths[m] = torch.randint(1, STEPS[m] + 1, (n,), generator=generator)
            values[m] *= (torch.arange(STEPS[m]) < lengths[m][:, None])[..., None]
    return Latents({m: x.requires_grad_() for m, x in values.items()}, lengths)


def make_labels(n: int) -> Tensor:
    """Make labels in [-3, 3], of which some are close to each other and some far apart."""
    return torch.from_numpy(np.random.default_rng(n).uniform(-SCALE, SCALE, n).astype(np.float32))


def make(cls: type[Method], **settings: Any) -> Method:
    """Make a method with its default settings, but for those given."""
    torch.manual_seed(0)
    return cls(cls.Settings(**settings), WIDTHS, SCALE)


def draw_of(method: Method, n: int = BATCH, seed: int = 0) -> Draw | None:
    """Draw for a batch of n."""
    return method.draw(np.random.default_rng(seed), make_labels(n).numpy())


def network() -> Network:
    """Stand for the rest of the network: the mean of all latents, under the L1 loss."""

    def predict(latents: Latents) -> Tensor:
        return torch.stack([v.mean(1) for v in latents.vectors().values()]).mean(0).float()

    return Network(predict, lambda prediction, target: (prediction - target).abs())


def mixed_of(method: Method, latents: Latents, seed: int = 0) -> Mixed | None:
    """Draw and mix; None if the method draws nothing."""
    drawn = draw_of(method, len(latents), seed)
    if drawn is None:
        return None
    arrays = {name: torch.from_numpy(array) for name, array in drawn.arrays.items()}
    return method(latents, make_labels(len(latents)), arrays, network())


def _mixed(cls: type[Method], n: int = BATCH, **settings: Any) -> Iterator[tuple[str, Latents, Mixed]]:
    """Yield the kind of latents, the latents and what became of them."""
    for kind in KINDS:
        latents = make_latents(kind, n)
        if (mixed := mixed_of(make(cls, **settings), latents)) is not None:
            yield kind, latents, mixed


def _settings(cls: type[Method]) -> None:
    for field in dataclasses.fields(cls.Settings):
        if isinstance(getattr(cls.Settings(), field.name), float):
            changed: dict[str, Any] = {field.name: math.nan}
            try:
                cls.Settings(**changed)
            except ValueError as error:
                expect(field.name in str(error), "the error of NaN", error, f"name the setting {field.name}")
            else:
                expect(False, f"Settings.{field.name}", "no error for NaN", "be checked in __post_init__")


def _components(cls: type[Method]) -> None:
    for name in cls.Settings.components:
        value = getattr(cls.Settings(), name, None)
        expect(value is True, f"Settings.{name}", value, "be true by default, as it is in components")
        list(_mixed(cls, **{name: False}))


def _layer(cls: type[Method]) -> None:
    drawn = draw_of(make(cls))
    if drawn is not None:
        expect(drawn.layer in (0, 1, 2), "Draw.layer", drawn.layer, "be 0 (inputs), 1 (latents) or 2 (fused)")
        for name, array in drawn.arrays.items():
            expect(isinstance(array, np.ndarray), f"Draw.arrays[{name!r}]", type(array), "be a numpy array")


def _same(first: Draw | None, second: Draw | None) -> bool:
    if first is None or second is None:
        return first is second
    same = [np.array_equal(array, second.arrays[name]) for name, array in first.arrays.items()]
    return first.layer == second.layer and all(same)


def _repeatable(cls: type[Method]) -> None:
    method = make(cls)
    same = _same(draw_of(method), draw_of(method))
    expect(same, "draw", "two different draws", "return the same for generators of the same seed")


def _random(cls: type[Method]) -> None:
    method = make(cls)
    differ = not all(_same(draw_of(method), draw_of(method, seed=seed)) for seed in range(1, DRAWS))
    expect(differ, "draw", f"{DRAWS} equal draws", "depend on the generator, unless the method is not random")


def _global_state(cls: type[Method]) -> None:
    method, latents = make(cls), make_latents("sequences", BATCH)
    before = repr(np.random.get_state()), torch.get_rng_state()
    mixed_of(method, latents)
    same = before[0] == repr(np.random.get_state()) and torch.equal(before[1], torch.get_rng_state())
    expect(same, "the global generators", "a changed state", "stay as they are; use draw's generator alone")


def _small(cls: type[Method]) -> None:
    for n in (1, 2, 3):
        list(_mixed(cls, n))


def _rows(cls: type[Method]) -> None:
    for kind, latents, mixed in _mixed(cls):
        n, of = len(mixed), f"of {kind}"
        expect(
            mixed.labels.shape == (n,), f"labels {of}", tuple(mixed.labels.shape), f"have the shape ({n},)"
        )
        expect(mixed.penalty.shape == (), f"penalty {of}", tuple(mixed.penalty.shape), "be a scalar")
        for m, x in latents.values.items():
            made, shape = mixed.latents.values[m], (n, *x.shape[1:])
            expect(made.shape == shape, f"latents.values[{m!r}] {of}", tuple(made.shape), f"be {shape}")


def _dtype(cls: type[Method]) -> None:
    for dtype in (torch.float32, torch.float64):
        latents = make_latents("vectors", BATCH, dtype)
        mixed = mixed_of(make(cls).to(dtype), latents)
        for m, x in mixed.latents.values.items() if mixed else ():
            expect(x.dtype == dtype, f"latents.values[{m!r}]", x.dtype, f"keep the inputs' {dtype}")


def _members(cls: type[Method]) -> None:
    for kind, latents, mixed in _mixed(cls):
        low, high = int(mixed.indices.min()), int(mixed.indices.max())
        expect(mixed.indices.ndim == 2, f"indices of {kind}", tuple(mixed.indices.shape), "be (n, k)")
        inside = low >= 0 and high < len(latents)
        expect(inside, f"indices of {kind}", f"{low} .. {high}", f"be rows of the batch, 0 .. {BATCH - 1}")


def _weights(mixed: Mixed) -> dict[str, Tensor]:
    return {**{f"weights[{m!r}]": w for m, w in mixed.weights.items()}, "label_weights": mixed.label_weights}


def _convex(cls: type[Method]) -> None:
    for kind, _, mixed in _mixed(cls):
        for name, w in _weights(mixed).items():
            w = w.detach()
            low, high = float(w.min()), float(w.max())
            expect(low >= 0 and high <= 1, f"{name} of {kind}", f"{low:g} .. {high:g}", "lie in [0, 1]")
            worst = w.sum(1).flatten()[(w.sum(1).flatten() - 1).abs().argmax()].item()
            expect(abs(worst - 1) < 1e-4, f"{name} of {kind}", f"{worst:g}", "sum to 1 over the members")


def _combined(values: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """Combine rows one by one. Shape: (B, ...), (n, k), (n, k, ...) -> (n, ...)."""
    rows = []
    for members, own in zip(indices.tolist(), weights, strict=True):
        rows.append(sum((w * values[i] for i, w in zip(members, own, strict=True)), values[0] * 0))
    return torch.stack(rows)


def _combinations(cls: type[Method]) -> None:
    for kind, latents, mixed in _mixed(cls):
        pairs: Mapping[str, tuple[Tensor, Tensor, Tensor]] = {
            f"latents.values[{m!r}]": (mixed.latents.values[m], x, mixed.weights[m])
            for m, x in latents.values.items()
        }
        labels = (mixed.labels, make_labels(BATCH), mixed.label_weights)
        for name, (made, values, weights) in {**pairs, "labels": labels}.items():
            gap = float((made - _combined(values, mixed.indices, weights)).detach().abs().max())
            limit = 1e-4 * max(1.0, float(weights.detach().abs().max()))
            told = "be what indices and weights say, to 0.0001"
            expect(gap < limit, f"{name} of {kind}", f"a difference of {gap:g}", told)


def _lengths(cls: type[Method]) -> None:
    latents = make_latents("sequences", BATCH)
    mixed = mixed_of(make(cls), latents)
    for m, lengths in latents.lengths.items() if mixed else ():
        assert mixed is not None
        present = (mixed.weights[m].flatten(2).any(2) if mixed.weights[m].ndim > 2 else mixed.weights[m]) != 0
        wanted = (lengths[mixed.indices] * present).amax(1).tolist()
        found = mixed.latents.lengths[m].tolist()
        expect(found == wanted, f"latents.lengths[{m!r}]", found, f"be the longest members', {wanted}")


def _pure(cls: type[Method]) -> None:
    method, latents = make(cls), make_latents("sequences", BATCH)
    before = {m: x.detach().clone() for m, x in latents.values.items()}
    first, second = mixed_of(method, latents), mixed_of(method, latents)
    for m, x in latents.values.items():
        expect(torch.equal(x, before[m]), f"the input {m}", "a changed tensor", "stay as it is")
        if first is not None and second is not None:
            same = torch.equal(first.latents.values[m], second.latents.values[m])
            expect(same, f"latents.values[{m!r}]", "two results", "be the same for the same arguments")


def _gradients(cls: type[Method]) -> None:
    for kind in KINDS:
        latents, method = make_latents(kind, BATCH), make(cls)
        if (mixed := mixed_of(method, latents)) is None:
            continue
        expect(not mixed.labels.requires_grad, "labels", "a gradient", "be constants (detach the weights)")
        sum((x.square().sum() for x in mixed.latents.values.values()), mixed.penalty).backward()
        parameters = {f"the parameter {name}": p for name, p in method.named_parameters()}
        for name, x in {**latents.values, **parameters}.items():
            finite = x.grad is not None and bool(x.grad.isfinite().all())
            expect(finite, f"the gradient of {name}", "none" if x.grad is None else "NaN", "be finite")


def _degenerate(cls: type[Method]) -> None:
    for kind in KINDS:
        for name, factor in (("zero", 0.0), ("equal", 1.0)):
            latents = make_latents(kind, BATCH)
            with torch.no_grad():
                for x in latents.values.values():
                    x.copy_(x[:1].expand_as(x) * factor)
            latents = Latents(latents.values, {m: x.max().expand(len(x)) for m, x in latents.lengths.items()})
            mixed = mixed_of(make(cls), latents)
            for m, x in mixed.latents.values.items() if mixed else ():
                finite = bool(x.isfinite().all())
                expect(finite, f"latents.values[{m!r}]", "NaN", f"be finite where all latents are {name}")


def _mixes(cls: type[Method]) -> None:
    latents, method = make_latents("vectors", BATCH), make(cls)
    for seed in range(DRAWS):
        if (mixed := mixed_of(method, latents, seed)) is not None:
            for m, x in mixed.latents.values.items():
                if bool((torch.cdist(x, latents.values[m]).min(1).values > 1e-3).any()):
                    return
    expect(False, f"all rows of {DRAWS} draws", "clean rows", "be mixed somewhere, in one modality at least")


def _first(cls: type[Method]) -> None:
    for _, _, mixed in _mixed(cls):
        few = min(4, len(mixed))
        expect(len(mixed.first(few)) == few, "Mixed.first(4)", len(mixed.first(few)), f"have {few} rows")


RULES = (
    Rule("its settings refuse NaN, by name", _settings),
    Rule("its components can be switched off one by one", _components),
    Rule("it draws numpy arrays and a layer of 0, 1 or 2", _layer),
    Rule("equal generators give equal draws", _repeatable),
    Rule("other generators give other draws", _random, hint=True),
    Rule("no global random state is used", _global_state),
    Rule("batches of 1, 2 and 3 work", _small),
    Rule("shapes fit the batch, for vectors, sequences and tokens", _rows),
    Rule("float32 and float64 are kept", _dtype),
    Rule("members are rows of the batch", _members),
    Rule("weights lie in [0, 1] and sum to 1", _convex),
    Rule("mixed latents and labels are what indices and weights say", _combinations),
    Rule("a mixed sequence is as long as its longest member", _lengths),
    Rule("equal arguments give equal results, and inputs stay", _pure),
    Rule("gradients are finite and reach latents and parameters", _gradients),
    Rule("zero and equal latents give no NaN", _degenerate),
    Rule("some row is mixed in some modality", _mixes, hint=True),
    Rule("the first mixed examples can be taken apart", _first),
)

"""The rules of backbones, checked on small random batches."""

from __future__ import annotations

from typing import Any

import torch

from backbones.base import Backbone, Sizes, resolve_settings
from backbones.batch import MODALITIES, Batch
from harness.check.rule import Rule, expect

SIZES = Sizes(
    dict(zip(MODALITIES, (11, 5, 6), strict=True)), dict(zip(MODALITIES, (9, 7, 6), strict=True)), 3.0
)
BATCH = 5


def make(cls: type[Backbone], sizes: Sizes = SIZES) -> Backbone:
    """Make a backbone with its default settings, and those published for MOSI."""
    torch.manual_seed(0)
    return cls(resolve_settings(cls, cls.Settings(), "mosi"), sizes)


def make_batch(sizes: Sizes = SIZES, n: int = BATCH) -> Batch:
    """Make random clips, zero in padded steps."""
    generator = torch.Generator().manual_seed(n)
    features, lengths = {}, {}
    for m in MODALITIES:
        lengths[m] = torch.randint(1, sizes.steps[m] + 1, (n,), generator=generator)
        x = torch.randn(n, sizes.steps[m], sizes.widths[m], generator=generator)
        features[m] = x * (torch.arange(sizes.steps[m]) < lengths[m][:, None])[..., None]
    return Batch(features, lengths, torch.linspace(-3, 3, n))


def _shapes(cls: type[Backbone]) -> None:
    backbone, batch = make(cls), make_batch()
    latents = backbone.encode(backbone.embed(batch))
    widths = {m: x.shape[-1] for m, x in latents.values.items()}
    expect(widths == backbone.latent_widths, "latent_widths", backbone.latent_widths, f"be encode's {widths}")
    representation = backbone.fuse(latents, BATCH).representation
    shape = tuple(representation.shape)
    expect(len(shape) == 2 and shape[0] == BATCH, "fuse's representation", shape, f"be ({BATCH}, R)")
    shape = tuple(backbone.head(representation).shape)
    expect(shape == (BATCH,), "head's prediction", shape, f"have the shape ({BATCH},)")


def _alone(cls: type[Backbone]) -> None:
    backbone, batch = make(cls).eval(), make_batch()
    together = backbone(batch)
    for k in range(BATCH):
        one = Batch(
            {m: x[k : k + 1] for m, x in batch.features.items()},
            {m: x[k : k + 1] for m, x in batch.lengths.items()},
            batch.labels[k : k + 1],
        )
        gap = float((backbone(one)[0] - together[k]).detach().abs().max())
        told = "be the same alone and in a batch, to 0.0001"
        expect(gap < 1e-4, f"the prediction of clip {k}", f"a difference of {gap:g}", told)


def _short(cls: type[Backbone]) -> None:
    sizes = Sizes(SIZES.widths, dict.fromkeys(MODALITIES, 1), 3.0)
    finite = bool(make(cls, sizes)(make_batch(sizes)).isfinite().all())
    expect(finite, "the prediction", "NaN", "be finite for sequences of one step")


def _absent(cls: type[Backbone]) -> None:
    for m in MODALITIES:
        batch = make_batch()
        batch = Batch({**batch.features, m: batch.features[m] * 0}, batch.lengths, batch.labels)
        finite = bool(make(cls)(batch).isfinite().all())
        expect(finite, "the prediction", "NaN", f"be finite where {m} is all zeros")


def _gradients(cls: type[Backbone]) -> None:
    backbone, batch = make(cls), make_batch()
    fused = backbone.fuse(backbone.encode(backbone.embed(batch)), BATCH)
    loss = (backbone.head(fused.representation) - batch.labels).abs().mean()
    (loss if fused.auxiliary is None else loss + fused.auxiliary).backward()
    for name, p in backbone.named_parameters():
        finite = p.grad is None or bool(p.grad.isfinite().all())
        expect(finite, f"the gradient of {name}", "NaN", "be finite")


def _groups(cls: type[Backbone]) -> None:
    backbone = make(cls)
    listed: list[Any] = [p for group in backbone.parameter_groups() for p in group["params"]]
    ids = [id(p) for p in listed]
    for name, p in backbone.own_parameters():
        if p.requires_grad:
            told = "occur exactly once in parameter_groups"
            expect(ids.count(id(p)) == 1, f"the parameter {name}", f"{ids.count(id(p))} times", told)


def _eval(cls: type[Backbone]) -> None:
    backbone, batch = make(cls).eval(), make_batch()
    same = torch.equal(backbone(batch), backbone(batch))
    expect(same, "the prediction", "two results", "be the same twice in eval mode")


RULES = (
    Rule("the steps encode, fuse and head have fitting shapes", _shapes),
    Rule("a prediction does not depend on the rest of its batch", _alone),
    Rule("sequences of one step work", _short),
    Rule("a modality of zeros gives no NaN", _absent),
    Rule("gradients are finite", _gradients),
    Rule("the optimizer gets every parameter once", _groups),
    Rule("evaluation is deterministic", _eval),
)

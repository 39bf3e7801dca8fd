"""One training step: embed, encode, mix, fuse, predict, and weigh the losses."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from backbones.base import Backbone
from backbones.batch import Batch, Latents, concatenate
from methods.base import Draw, Method, MethodSettings, Mixed, Network

LOGGER = logging.getLogger(__name__)

Criterion = Callable[[Tensor, Tensor], Tensor]
Watch = Callable[[Mixed, Latents, Tensor], None]
CRITERIA: dict[str, Criterion] = {
    "l1": lambda prediction, target: (prediction - target).abs(),
    "mse": lambda prediction, target: (prediction - target).square(),
}


class Losses(NamedTuple):
    """The losses of one step as scalars; ``total`` is backpropagated."""

    total: Tensor
    task: Tensor
    mixed: Tensor
    penalty: Tensor
    auxiliary: Tensor


def step_losses(
    backbone: Backbone, method: Method, batch: Batch, draw: Draw | None, watch: Watch | None = None
) -> Losses:
    """Embed, encode, mix at the drawn layer, fuse clean and mixed examples together, and weigh the losses.

    watch: called with the mixed examples, the latents from which they are mixed, and the clean labels.
    """
    n = len(batch)
    inputs = backbone.embed(batch)
    latents = backbone.encode(inputs)
    mixed, source = None, latents
    if draw is not None and draw.layer < 2:
        source = latents if draw.layer else inputs
        mixed = mix_batch(backbone, method, source, batch.labels, draw)
        mixed_latents = mixed.latents if draw.layer else _encode_apart(backbone, mixed.latents)
        latents = concatenate(latents, mixed_latents)
    representation, auxiliary = backbone.fuse(latents, n)
    if draw is not None and draw.layer == 2:
        source = Latents({"fused": representation})
        mixed = mix_batch(backbone, method, source, batch.labels, draw)
        representation = torch.cat([representation, mixed.latents.values["fused"]])
    if watch is not None and mixed is not None:
        watch(mixed, source, batch.labels)
    prediction = _like(backbone.head(representation), batch.labels)
    zero, choice = batch.labels.new_zeros(()), method.settings.mix_loss
    criterion = CRITERIA[backbone.settings.criterion]
    return _weigh(
        method.settings,
        criterion(prediction[:n], batch.labels).mean(),
        zero if mixed is None else mixed_loss(prediction[n:], mixed, batch.labels, choice, criterion),
        zero if auxiliary is None else _like(auxiliary, batch.labels),
        mixed,
    )


def _like(x: Tensor, labels: Tensor) -> Tensor:
    """Cast outputs (half precision under autocast) to the labels' dtype, in which losses are computed."""
    return x.to(labels.dtype)


def mix_batch(backbone: Backbone, method: Method, latents: Latents, labels: Tensor, draw: Draw) -> Mixed:
    """Call the method with its draw on the device; limit the number of mixed examples."""
    device = labels.device
    arrays = {k: torch.from_numpy(a).to(device, non_blocking=True) for k, a in draw.arrays.items()}
    predict = functools.partial(_predict_latents, backbone, labels)
    network = Network(predict, CRITERIA[backbone.settings.criterion])
    mixed: Mixed = method(latents, labels, arrays, network)
    most = backbone.max_mixed_per_batch(len(labels))
    if most is not None and len(mixed) > most:
        _warn_of_cap(backbone.name, most)
        mixed = mixed.first(most)
    return mixed


def _predict_latents(backbone: Backbone, labels: Tensor, latents: Latents) -> Tensor:
    """Predict in eval mode, without updates of running statistics or dropout. Shape: n latents -> (n,)."""
    training = backbone.training
    backbone.eval()
    try:
        return _like(backbone.head(backbone.fuse(latents, len(latents)).representation), labels)
    finally:
        backbone.train(training)


@functools.cache
def _warn_of_cap(backbone: str, most: int) -> None:
    """Warn once, not at every step."""
    LOGGER.warning("%s fuses at most %d mixed examples per batch; the others are left out", backbone, most)


def _encode_apart(backbone: Backbone, inputs: Latents) -> Latents:
    """Encode mixed inputs without updating running statistics, which come from clean examples only."""
    norms = [m for m in backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.track_running_stats = False
    try:
        return backbone.encode(inputs)
    finally:
        for norm in norms:
            norm.track_running_stats = True


def mixed_loss(
    prediction: Tensor, mixed: Mixed, labels: Tensor, mix_loss: str, criterion: Criterion
) -> Tensor:
    """Return the mean loss of the mixed examples that count; 0 if none does.

    Shape: prediction (n,), labels of the clean batch (B,) -> scalar.
    """
    if mix_loss == "split_mse":
        errors = (prediction[:, None] - labels[mixed.indices]).square()
        loss = (mixed.label_weights * errors).sum(1)
    else:
        loss = (CRITERIA["mse"] if mix_loss == "mse" else criterion)(prediction, mixed.labels)
    if mixed.counted is not None:
        return (loss * mixed.counted).sum() / mixed.counted.sum().clamp_min(1)
    return loss.sum() / max(len(mixed), 1)


def _weigh(
    settings: MethodSettings, task: Tensor, mixed: Tensor, auxiliary: Tensor, examples: Mixed | None
) -> Losses:
    """Weigh the losses: task + xi1 * mixed ("append"), or mixed, else task ("replace"); add the others."""
    penalty = task.new_zeros(()) if examples is None else _like(examples.penalty, task)
    if settings.mode == "append":
        total = task + settings.xi1 * mixed
    elif examples is None or not len(examples):
        total = task
    else:
        total = mixed if examples.counted is None else torch.where(examples.counted.any(), mixed, task)
    return Losses(total + penalty + auxiliary, task, mixed, penalty, auxiliary)

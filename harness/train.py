"""The one training loop: every backbone, every method, CPU and CUDA.

A cell's training is read top to bottom in `train`: splits as tensors, batches by index, early stopping on
the validation task loss, best weights kept in memory, the test split read once at the end, at every
occlusion ratio. Within an epoch nothing waits for the device.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from backbones import BACKBONES
from backbones.base import Backbone, Sizes
from harness.checkpoint import Checkpoint, Training
from harness.data.batch import SPLITS, Batch, Dataset
from harness.data.occlusion import MaskField, occlude
from harness.device import ResidentSplit
from harness.latents import Latents, concatenate
from harness.matrix import Cell, ratio_text
from harness.metrics import score
from harness.result import Predictions, Result
from harness.schedule import learning_rate
from harness.seeds import generator_for, seed_for
from methods import METHODS
from methods.base import Draw, Method, MethodSettings, Mixed, Network

EVALUATION_BATCH = 256
LOGGER = logging.getLogger(__name__)

Criterion = Callable[[Tensor, Tensor], Tensor]
CRITERIA: dict[str, Criterion] = {
    "l1": lambda prediction, target: (prediction - target).abs(),
    "mse": lambda prediction, target: (prediction - target).square(),
}
OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


class Diverged(Exception):
    """A loss or a weight became NaN or infinite: the message says at which epoch and step."""


class Losses(NamedTuple):
    """The losses of one step, scalars: total is what is back-propagated."""

    total: Tensor
    task: Tensor
    mixed: Tensor
    penalty: Tensor
    auxiliary: Tensor


class Splits(NamedTuple):
    """The splits where training reads them, and their occlusion fields."""

    resident: dict[str, ResidentSplit]
    fields: dict[str, MaskField]


def train(
    cell: Cell,
    dataset: Dataset,
    device: torch.device,
    resident: str = "auto",
    checkpoint: Checkpoint | None = None,
) -> Result:
    """Train one cell and evaluate it; raises `Diverged`.

    With a checkpoint, the training goes on from where an earlier attempt left it, to the same bits. Its
    train_s counts all attempts, those that were cut off up to their last checkpoint.
    """
    started = time.perf_counter()
    splits = Splits(
        {name: ResidentSplit(dataset.splits[name], device, resident) for name in SPLITS},
        {name: MaskField(cell.dataset, name, cell.mask_seed, dataset.splits[name].ids) for name in SPLITS},
    )
    training = begin(cell, dataset, device, checkpoint)
    backbone, rules, resumed_after = training.backbone, training.backbone.settings, training.epoch
    started -= training.train_s
    for epoch in range(training.epoch + 1, rules.max_epochs + 1):
        epoch_started = time.perf_counter()
        for group in training.optimizer.param_groups:
            valid_losses = training.curves.get("valid_loss", [])
            group["lr"] = learning_rate(rules, group["initial_lr"], valid_losses)
        losses = train_epoch(cell, backbone, training.method, training.optimizer, splits, epoch)
        valid_loss = task_loss(backbone, *predict(cell, backbone, splits, "valid"))
        measured = {**losses, "valid_loss": valid_loss, "epoch_s": time.perf_counter() - epoch_started}
        for name, value in measured.items():
            training.curves.setdefault(name, []).append(value)
        if not np.isfinite(valid_loss):
            raise Diverged(f"the validation loss is {valid_loss} after epoch {epoch}")
        if valid_loss < training.best_loss:
            training.best_loss, training.best_epoch = valid_loss, epoch
            _copy(backbone, training.best_weights)
        elif epoch - training.best_epoch >= rules.early_stop:
            break
        training.epoch, training.train_s = epoch, time.perf_counter() - started
        if checkpoint is not None and checkpoint.due():
            checkpoint.save(training.state())
    backbone.load_state_dict(training.best_weights)
    numbers = {
        "best_epoch": training.best_epoch,
        "train_s": time.perf_counter() - started,
        "epoch_s": float(np.median(training.curves["epoch_s"])),
        "parameter_count": sum(p.numel() for p in backbone.parameters()),
        "method_parameter_count": sum(p.numel() for p in training.method.parameters()),
    }
    values = {name: float(number) for name, number in numbers.items()}
    result = final_result(cell, backbone, splits, values, training.curves)
    resumed = {"resumed_after_epoch": str(resumed_after)} if resumed_after else {}
    return replace(result, environment=resumed)


def begin(cell: Cell, dataset: Dataset, device: torch.device, checkpoint: Checkpoint | None) -> Training:
    """A training at its start, or where its checkpoint left it."""
    state = None if checkpoint is None else checkpoint.load()
    backbone, method = build(cell, dataset, device)
    training = Training(backbone, method, make_optimizer(backbone, method), _copy(backbone))
    if checkpoint is None or state is None:
        return training
    try:
        training.restore(state)
    # Written by code with other layers, say; what was restored before it failed must go.
    except Exception as error:
        checkpoint.reject(error)
        return begin(cell, dataset, device, None)
    return training


def build(cell: Cell, dataset: Dataset, device: torch.device) -> tuple[Backbone, Method]:
    """Initialise backbone and method from streams of their own, so that no method changes the backbone."""
    sizes = Sizes(dataset.widths(), dataset.steps(), cell.label_scale)
    torch.manual_seed(seed_for(cell.seed, "init"))
    backbone = BACKBONES[cell.backbone](cell.backbone_settings, sizes)
    torch.manual_seed(seed_for(cell.seed, "method_init"))
    method = METHODS[cell.method](cell.method_settings, backbone.latent_widths, cell.label_scale)
    return backbone.to(device), method.to(device)


def make_optimizer(backbone: Backbone, method: Method) -> torch.optim.Optimizer:
    """The backbone's optimizer; a method's own parameters join the main group."""
    rules = backbone.settings
    groups = backbone.parameter_groups()
    groups[0]["params"] = [*groups[0]["params"], *method.parameters()]
    kind: Any = OPTIMIZERS[rules.optimizer]
    optimizer: torch.optim.Optimizer = kind(
        groups, lr=rules.learning_rate, weight_decay=rules.weight_decay, fused=True
    )
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def train_epoch(
    cell: Cell,
    backbone: Backbone,
    method: Method,
    optimizer: torch.optim.Optimizer,
    splits: Splits,
    epoch: int,
) -> dict[str, float]:
    """One pass over the training split; returns the mean losses of its steps by name."""
    backbone.train()
    method.train()
    split, field = splits.resident["train"], splits.fields["train"]
    order = generator_for(cell.seed, "order", epoch).permutation(len(split))
    rules, steps = backbone.settings, []
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    indices = batches(order, rules.batch_size)[: cell.max_batches]
    for step, index in enumerate(indices, 1):
        batch = split.take(index)
        if cell.train_ratio:
            batch = occlude(batch, cell.train_ratio, field.of(batch, index, cell.granularity, epoch))
        draw = method.draw(generator_for(cell.seed, "mixing", epoch, step), split.split.labels[index])
        # Reseeded each step, so that dropout on the clean rows of encode is the same for every method.
        torch.manual_seed(seed_for(cell.seed, "dropout", epoch, step))
        losses = step_losses(backbone, method, batch, draw)
        losses.total.backward()
        if rules.grad_clip:
            nn.utils.clip_grad_value_(parameters, rules.grad_clip)
        if rules.max_grad_norm:
            nn.utils.clip_grad_norm_(parameters, rules.max_grad_norm)
        # NOTE[DIFF] the reference throws an epoch's last incomplete group of batches away.
        if step % rules.gradient_accumulation == 0 or step == len(indices):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        steps.append(torch.stack(losses).detach())
    table = torch.stack(steps).double().cpu()
    finite = table.isfinite().all(1)
    if not finite.all():
        step = int(finite.int().argmin()) + 1
        raise Diverged(f"a training loss is not finite at epoch {epoch}, step {step}")
    check_weights(backbone, method, epoch, len(steps))
    means = table.mean(0).tolist()
    return {f"train_{name}_loss": mean for name, mean in zip(Losses._fields, means, strict=True)}


def check_weights(backbone: Backbone, method: Method, epoch: int, step: int) -> None:
    """Raise `Diverged` where a weight or running statistic is not finite after the epoch's last step."""
    state = {**backbone.state_dict(), **method.state_dict(prefix="method.")}
    numbers = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    finite = torch.stack([tensor.isfinite().all() for tensor in numbers.values()]).cpu()
    if not finite.all():
        name = list(numbers)[int(finite.int().argmin())]
        raise Diverged(f"the weight {name} is not finite after epoch {epoch}, step {step}")


def batches(order: np.ndarray, size: int) -> list[np.ndarray]:
    """Cut an order of clips (N,) into batches; a last batch of one joins the one before."""
    cuts = list(range(size, len(order), size))
    if cuts and len(order) - cuts[-1] == 1:
        cuts.pop()
    return np.split(order, cuts)


def step_losses(backbone: Backbone, method: Method, batch: Batch, draw: Draw | None) -> Losses:
    """Embed, encode, mix at the drawn layer, fuse clean and mixed at once, and weigh the losses."""
    n = len(batch)
    inputs = backbone.embed(batch)
    latents = backbone.encode(inputs)
    mixed = None
    if draw is not None and draw.layer < 2:
        mixed = _mix(backbone, method, latents if draw.layer else inputs, batch.labels, draw)
        mixed_latents = mixed.latents if draw.layer else _encode_apart(backbone, mixed.latents)
        latents = concatenate(latents, mixed_latents)
    representation, auxiliary = backbone.fuse(latents, n)
    if draw is not None and draw.layer == 2:
        mixed = _mix(backbone, method, Latents({"fused": representation}), batch.labels, draw)
        representation = torch.cat([representation, mixed.latents.values["fused"]])
    prediction = backbone.head(representation)
    zero = batch.labels.new_zeros(())
    criterion = CRITERIA[backbone.settings.criterion]
    return _weigh(
        method.settings,
        criterion(prediction[:n], batch.labels).mean(),
        zero if mixed is None else mixed_loss(prediction[n:], mixed, method.settings.mix_loss, criterion),
        zero if auxiliary is None else auxiliary,
        mixed,
    )


def _mix(backbone: Backbone, method: Method, latents: Latents, labels: Tensor, draw: Draw) -> Mixed:
    """Call the method with its draw on the device; cap the number of mixed examples."""
    device = labels.device
    arrays = {k: torch.from_numpy(a).to(device, non_blocking=True) for k, a in draw.arrays.items()}
    network = Network(
        lambda z: backbone.head(backbone.fuse(z, len(z)).representation),
        CRITERIA[backbone.settings.criterion],
    )
    mixed: Mixed = method(latents, labels, arrays, network)
    most = backbone.max_mixed_per_batch(len(labels))
    if most is not None and len(mixed) > most:
        _warn_of_cap(backbone.name, most, len(mixed))
        mixed = mixed.first(most)
    return mixed


@functools.cache
def _warn_of_cap(backbone: str, most: int, given: int) -> None:
    """Say it once, not at every step."""
    LOGGER.warning("%s fuses %d of %d mixed examples", backbone, most, given)


def _encode_apart(backbone: Backbone, inputs: Latents) -> Latents:
    """Encode mixed inputs without moving running statistics, which come from clean examples alone."""
    norms = [m for m in backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.track_running_stats = False
    try:
        return backbone.encode(inputs)
    finally:
        for norm in norms:
            norm.track_running_stats = True


def mixed_loss(prediction: Tensor, mixed: Mixed, mix_loss: str, criterion: Criterion) -> Tensor:
    """Mean loss on the mixed examples that count; 0 where none does. Shape: (n,) -> scalar."""
    loss = (CRITERIA["mse"] if mix_loss == "mse" else criterion)(prediction, mixed.labels)
    if mixed.counted is not None:
        return (loss * mixed.counted).sum() / mixed.counted.sum().clamp_min(1)
    return loss.sum() / max(len(mixed), 1)


def _weigh(
    settings: MethodSettings, task: Tensor, mixed: Tensor, auxiliary: Tensor, made: Mixed | None
) -> Losses:
    """Total loss: append: task + xi1 * mixed; replace: mixed, or task where nothing was mixed; + the rest."""
    penalty = task.new_zeros(()) if made is None else made.penalty
    if settings.mode == "append":
        total = task + settings.xi1 * mixed
    elif made is None or not len(made):
        total = task
    else:
        total = mixed if made.counted is None else torch.where(made.counted.any(), mixed, task)
    return Losses(total + penalty + auxiliary, task, mixed, penalty, auxiliary)


@torch.inference_mode()
def predict(
    cell: Cell, backbone: Backbone, splits: Splits, name: str, ratio: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Predict a split in large batches, unshuffled. Returns predictions and labels, both (N,)."""
    backbone.eval()
    split = splits.resident[name]
    predictions, labels = [], []
    order = np.arange(len(split))
    cuts = range(EVALUATION_BATCH, len(order), EVALUATION_BATCH)
    for index in np.split(order, cuts)[: cell.max_batches]:
        batch = split.take(index)
        if ratio:
            batch = occlude(batch, ratio, splits.fields[name].of(batch, index, cell.granularity))
        predictions.append(backbone(batch))
        labels.append(batch.labels)
    return torch.cat(predictions), torch.cat(labels)


def task_loss(backbone: Backbone, predictions: Tensor, labels: Tensor) -> float:
    """The task criterion over a whole split. Shape: (N,), (N,)."""
    return float(CRITERIA[backbone.settings.criterion](predictions, labels).double().mean())


def final_result(
    cell: Cell, backbone: Backbone, splits: Splits, numbers: dict[str, float], curves: dict[str, list[float]]
) -> Result:
    """Score the best weights on the validation split, and on the test split at every ratio."""
    scores: dict[str, dict[str, float]] = {}
    undefined: dict[str, str] = {}
    values: dict[float, np.ndarray] = {}
    labels = torch.empty(0)
    for name, ratio in [("valid", 0.0), *(("test", ratio) for ratio in cell.ratios)]:
        key = name if not ratio else f"{name}_r{ratio_text(ratio)}"
        predictions, labels = predict(cell, backbone, splits, name, ratio)
        if not predictions.isfinite().all():
            raise Diverged(
                f"a prediction of the {name} split at occlusion ratio {ratio} is not finite "
                f"(weights of epoch {numbers['best_epoch']:.0f})"
            )
        scored = score(cell.metrics, predictions.cpu().numpy(), labels.cpu().numpy())
        scores[key] = {**scored.values, "loss": task_loss(backbone, predictions, labels)}
        undefined.update({f"{key}/{metric}": reason for metric, reason in scored.undefined.items()})
        if name == "test":
            values[ratio] = predictions.cpu().numpy()
    ids = splits.resident["test"].split.ids[: len(labels)]
    stored = Predictions(np.asarray(ids), labels.cpu().numpy(), values)
    return Result("complete", scores, undefined, numbers, curves, {}, stored)


def _copy(module: nn.Module, into: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Copy a module's state, into existing tensors where given."""
    state = module.state_dict()
    if into is None:
        return {name: tensor.clone() for name, tensor in state.items()}
    for name, tensor in state.items():
        into[name].copy_(tensor)
    return into

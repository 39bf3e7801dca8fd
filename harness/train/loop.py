"""The one training loop: every backbone, every method, CPU and CUDA.

A cell's training is read top to bottom in `train`: splits as tensors, batches by index, early stopping on
the validation task loss, best weights kept in memory, the test split read once at the end, at every
occlusion ratio. Within an epoch nothing waits for the device.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from backbones import BACKBONES
from backbones.base import Backbone, Sizes
from backbones.text import FrozenText, TextEncoder, load_model
from harness.data.dataset import SPLITS, Dataset
from harness.data.occlusion import MaskField, occlude
from harness.matrix import Cell, ratio_text
from harness.metrics import score
from harness.train.arithmetic import autocast, compile_steps, plain_steps
from harness.train.checkpoint import Checkpoint, Training
from harness.train.diagnostics import Diagnostics
from harness.train.inspection import Inspection, inspect
from harness.train.memory import require_memory
from harness.train.result import Predictions, Result
from harness.train.schedule import learning_rate
from harness.train.seeds import generator_for, seed_for
from harness.train.splits import EVALUATION_BATCH, ResidentSplit
from harness.train.step import CRITERIA, Losses, Watch, step_losses
from methods import METHODS
from methods.base import Method

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


class Diverged(Exception):
    """A loss or a weight became NaN or infinite: the message says at which epoch and step."""


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
    text_model: Path | None = None,
    inspection: Inspection | None = None,
) -> Result:
    """Train one cell and evaluate it; raises `Diverged`, and `UserError` for a backbone beyond the memory.

    text_model: folder of a pretrained text encoder. inspection: what else to look at when it is trained.

    With a checkpoint, the training goes on from where an earlier attempt left it, to the same bits. Its
    train_s counts all attempts, those that were cut off up to their last checkpoint. Where the checkpoint
    says so, a training that would go on pauses: the result, "paused", holds the curves alone.
    """
    started = time.perf_counter()
    require_memory(cell, dataset, device)
    splits = Splits(
        {name: ResidentSplit(dataset.splits[name], device, resident) for name in SPLITS},
        {name: MaskField(cell.dataset, name, cell.mask_seed, dataset.splits[name].ids) for name in SPLITS},
    )
    training = begin(cell, dataset, device, checkpoint, text_model)
    backbone, rules, resumed_after = training.backbone, training.backbone.settings, training.epoch
    started -= training.train_s
    for epoch in range(training.epoch + 1, rules.max_epochs + 1):
        if checkpoint is not None and checkpoint.pauses(training.epoch):
            checkpoint.save(training.state())
            return Result("paused", curves=training.curves)
        valid_loss = _next_epoch(cell, training, splits, epoch)
        if valid_loss < training.best_loss:
            training.best_loss, training.best_epoch = valid_loss, epoch
            _copy(training.network, training.best_weights)
        elif epoch - training.best_epoch >= rules.early_stop:
            break
        training.epoch, training.train_s = epoch, time.perf_counter() - started
        if checkpoint is not None and checkpoint.due():
            checkpoint.save(training.state())
    training.network.load_state_dict(training.best_weights)
    values = _cell_numbers(training, time.perf_counter() - started)
    result = final_result(cell, backbone, splits, values, training.curves)
    resumed = {"resumed_after_epoch": str(resumed_after)} if resumed_after else {}
    plain_steps(backbone)
    if inspection is not None:
        found = inspect(cell, backbone, training.method, splits.resident, inspection)
        scores = {**result.scores, "mechanism": found.mechanism} if found.mechanism else result.scores
        result = replace(result, samples=found.samples, scores=scores)
    return replace(result, environment=resumed)


def _next_epoch(cell: Cell, training: Training, splits: Splits, epoch: int) -> float:
    """Train for one epoch and record it; returns the validation task loss after it."""
    started, backbone = time.perf_counter(), training.backbone
    for group in training.optimizer.param_groups:
        valid_losses = training.curves.get("valid_loss", [])
        group["lr"] = learning_rate(backbone.settings, group["initial_lr"], valid_losses)
    losses = train_epoch(cell, backbone, training.method, training.optimizer, splits, epoch)
    valid_loss = task_loss(backbone, *predict(cell, backbone, splits, "valid"))
    measured = {**losses, "valid_loss": valid_loss, "epoch_s": time.perf_counter() - started}
    _record(training.curves, epoch, measured)
    if not np.isfinite(valid_loss):
        raise Diverged(f"the validation loss is {valid_loss} after epoch {epoch}")
    return valid_loss


def _cell_numbers(training: Training, train_s: float) -> dict[str, float]:
    """What a cell took, by the names under which it is logged."""
    numbers = {
        "best_epoch": training.best_epoch,
        "train_s": train_s,
        "epoch_s": np.median(training.curves["epoch_s"]),
        "parameter_count": sum(p.numel() for _, p in training.backbone.own_parameters()),
        "method_parameter_count": sum(p.numel() for p in training.method.parameters()),
    }
    return {name: float(number) for name, number in numbers.items()}


def _record(curves: dict[str, list[float]], epoch: int, measured: dict[str, float]) -> None:
    """Add an epoch to the curves; a number that an epoch lacks is NaN there."""
    for name in dict.fromkeys([*curves, *measured]):
        curves.setdefault(name, [float("nan")] * (epoch - 1)).append(measured.get(name, float("nan")))


def begin(
    cell: Cell,
    dataset: Dataset,
    device: torch.device,
    checkpoint: Checkpoint | None,
    text_model: Path | None = None,
) -> Training:
    """A training at its start, or where its checkpoint left it."""
    state = None if checkpoint is None else checkpoint.load()
    backbone, method = build(cell, dataset, device, text_model)
    if cell.compile:
        compile_steps(backbone)
    optimizer = make_optimizer(backbone, method, cell.text.learning_rate)
    training = Training(backbone, method, optimizer, {})
    training.best_weights = _copy(training.network)
    if checkpoint is None or state is None:
        return training
    try:
        training.restore(state)
    # Written by code with other layers, say; what was restored before it failed must go.
    except Exception as error:
        checkpoint.reject(error)
        return begin(cell, dataset, device, None, text_model)
    return training


def build(
    cell: Cell, dataset: Dataset, device: torch.device, text_model: Path | None = None
) -> tuple[Backbone, Method]:
    """Initialise backbone and method from streams of their own, so that no method changes the backbone."""
    kind, widths = BACKBONES[cell.backbone], dataset.widths()
    text: TextEncoder | FrozenText | None = None
    if cell.text.encoder == "bert":
        assert text_model is not None, "text=bert needs the folder of its model"
        if cell.text.finetune:
            text = TextEncoder(load_model(text_model), kind.text_layers)
            widths["text"] = text.width
        else:
            text = FrozenText(text_model, kind.text_layers, device)
            widths["text"] //= kind.text_layers
    torch.manual_seed(seed_for(cell.seed, "init"))
    backbone = kind(cell.backbone_settings, Sizes(widths, dataset.steps(), cell.label_scale))
    backbone.text_encoder = text
    torch.manual_seed(seed_for(cell.seed, "method_init"))
    method = METHODS[cell.method](cell.method_settings, backbone.latent_widths, cell.label_scale)
    return backbone.to(device), method.to(device)


def make_optimizer(
    backbone: Backbone, method: Method, text_learning_rate: float = 0.0
) -> torch.optim.Optimizer:
    """The backbone's optimizer; a method's own parameters join the main group, a text encoder has its own."""
    rules = backbone.settings
    groups = backbone.parameter_groups()
    groups[0]["params"] = [*groups[0]["params"], *method.parameters()]
    if isinstance(backbone.text_encoder, nn.Module):
        # NOTE[DIFF] no weight decay: LMF's, an L2 term under Adam, would shrink words that training lacks.
        text = list(backbone.text_encoder.parameters())
        groups.append({"params": text, "lr": text_learning_rate, "weight_decay": 0.0})
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
    """One pass over the training split; returns mean losses and what mixing did, by name."""
    diagnostics = Diagnostics()
    steps = run_steps(cell, backbone, method, optimizer, splits, epoch, diagnostics.watch)
    table = torch.stack(steps).double().cpu()
    finite = table.isfinite().all(1)
    if not finite.all():
        step = int(finite.int().argmin()) + 1
        raise Diverged(f"a training loss is not finite at epoch {epoch}, step {step}")
    check_weights(backbone, method, epoch, len(steps))
    means = table.mean(0).tolist()
    losses_by_name = zip(Losses._fields, means, strict=True)
    return {f"train_{name}_loss": mean for name, mean in losses_by_name} | diagnostics.values()


def run_steps(
    cell: Cell,
    backbone: Backbone,
    method: Method,
    optimizer: torch.optim.Optimizer,
    splits: Splits,
    epoch: int,
    watch: Watch | None = None,
) -> list[Tensor]:
    """The steps of an epoch, without waiting for the device; returns the `Losses` of each, (5,)."""
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
        with autocast(cell.precision, split.device):
            losses = step_losses(backbone, method, batch, draw, watch)
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
    return steps


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
        with autocast(cell.precision, split.device):
            predictions.append(backbone(batch).to(batch.labels.dtype))
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

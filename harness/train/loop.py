"""The training loop of all backbones and methods, on CPU and CUDA.

`train` is the whole training of a cell: early stopping on the validation task loss, best weights kept in
memory, and one evaluation of the test split at the end, at every occlusion ratio. Within an epoch no step
waits for the device.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from backbones.base import Backbone, Sizes
from harness.data.dataset import Dataset
from harness.data.occlusion import occlude
from harness.matrix import Cell
from harness.train.arithmetic import autocast, compile_steps, plain_steps
from harness.train.checkpoint import Checkpoint
from harness.train.device import set_seed
from harness.train.diagnostics import Diagnostics
from harness.train.evaluate import final_result, predict, score_test_curve, task_loss
from harness.train.inspection import Inspection, inspect
from harness.train.networks import build, make_optimizer, require_memory
from harness.train.result import Diverged, Result
from harness.train.schedule import learning_rate
from harness.train.seeds import generator_for, seed_for
from harness.train.splits import Splits, load_splits
from harness.train.state import TrainingState
from harness.train.step import Losses, Watch, step_losses
from harness.train.weights import pack
from methods.base import Method


def train(
    cell: Cell,
    dataset: Dataset,
    device: torch.device,
    resident: str = "auto",
    checkpoint: Checkpoint | None = None,
    text_model: Path | None = None,
    inspection: Inspection | None = None,
) -> Result:
    """Train and evaluate one cell; raises `Diverged`, or `UserError` if memory is too small for the backbone.

    text_model: folder of a pretrained text encoder. inspection: what to sample and check after the training.

    With a checkpoint, the training resumes where an earlier attempt was interrupted, bit for bit; its
    ``train_s`` counts all attempts, interrupted ones up to their last checkpoint. If the checkpoint has a
    ``pause_after``, an unfinished training pauses there: the result is "paused" and holds only the curves.
    """
    started = time.perf_counter()
    require_memory(cell, dataset, device)
    splits = load_splits(cell, dataset, device, resident)
    training = start_or_resume(cell, dataset, device, checkpoint, text_model)
    rules, resumed_after = training.backbone.settings, training.epoch
    started -= training.train_s
    for epoch in range(training.epoch + 1, rules.max_epochs + 1):
        if checkpoint is not None and checkpoint.pauses(training.epoch):
            checkpoint.save(training.state_dict())
            return Result("paused", curves=training.curves)
        valid_loss = _next_epoch(cell, training, splits, epoch)
        # NOTE[DIFF] this is the loss of the whole split, unrounded. MMSA averages the means of shuffled
        # batches, so clips of a small last batch weigh more, and rounds to four digits, hiding small gains.
        if valid_loss < training.best_loss:
            training.keep_best(epoch, valid_loss)
        elif epoch - training.best_epoch >= rules.early_stop:
            break
        training.epoch, training.train_s = epoch, time.perf_counter() - started
        if checkpoint is not None and checkpoint.due():
            checkpoint.save(training.state_dict())
    training.network.load_state_dict(training.best_weights)
    training.train_s = time.perf_counter() - started
    result = final_result(cell, training, splits)
    plain_steps(training.backbone)
    if inspection is not None:
        samples, scores = inspect(cell, training, splits, inspection)
        result = replace(result, samples=samples, scores={**result.scores, **scores})
        if inspection.weights:
            sizes = Sizes(dataset.widths(), dataset.steps(), cell.label_scale)
            result = replace(result, weights=pack(cell, sizes, training.backbone.state_dict()))
    return replace(result, environment={"resumed_after_epoch": str(resumed_after)} if resumed_after else {})


def start_or_resume(
    cell: Cell,
    dataset: Dataset,
    device: torch.device,
    checkpoint: Checkpoint | None,
    text_model: Path | None = None,
) -> TrainingState:
    """Build a training, or restore it from its checkpoint."""
    stored = None if checkpoint is None else checkpoint.load()
    backbone, method = build(cell, dataset, device, text_model)
    if cell.compile:
        compile_steps(backbone)
    training = TrainingState(backbone, method, make_optimizer(backbone, method, cell.text))
    if checkpoint is None or stored is None:
        return training
    try:
        training.load_state_dict(stored)
    # For example, the state is of other layers. The training may be partly restored, so build it again.
    except Exception as error:
        checkpoint.reject(error)
        return start_or_resume(cell, dataset, device, None, text_model)
    return training


def _next_epoch(cell: Cell, training: TrainingState, splits: Splits, epoch: int) -> float:
    """Train for one epoch and record it; return the validation task loss after it."""
    started, backbone = time.perf_counter(), training.backbone
    for group in training.optimizer.param_groups:
        valid_losses = training.curves.get("valid_loss", [])
        group["lr"] = learning_rate(backbone.settings, group["initial_lr"], valid_losses)
    losses = train_epoch(cell, backbone, training.method, training.optimizer, splits, epoch)
    valid_loss = task_loss(backbone, *predict(cell, backbone, splits, "valid"))
    numbers = {**losses, "valid_loss": valid_loss, "epoch_s": time.perf_counter() - started}
    if cell.test_curve:
        numbers |= score_test_curve(cell, backbone, splits)
    training.record(epoch, numbers)
    if not np.isfinite(valid_loss):
        raise Diverged(f"the validation loss is {valid_loss} after epoch {epoch}")
    return valid_loss


def train_epoch(
    cell: Cell,
    backbone: Backbone,
    method: Method,
    optimizer: torch.optim.Optimizer,
    splits: Splits,
    epoch: int,
) -> dict[str, float]:
    """Train for one pass over the training split; return mean losses and mixing diagnostics, by name."""
    diagnostics = Diagnostics()
    steps = run_steps(cell, backbone, method, optimizer, splits, epoch, diagnostics.watch)
    table = torch.stack(steps).double().cpu()
    finite = table.isfinite().all(1)
    if not finite.all():
        step = int(finite.int().argmin()) + 1
        raise Diverged(f"a training loss is not finite at epoch {epoch}, step {step}")
    check_weights(backbone, method, epoch, len(steps))
    means = Losses(*table.mean(0).tolist())._asdict()
    return {f"train_{name}_loss": mean for name, mean in means.items()} | diagnostics.values()


def run_steps(
    cell: Cell,
    backbone: Backbone,
    method: Method,
    optimizer: torch.optim.Optimizer,
    splits: Splits,
    epoch: int,
    watch: Watch | None = None,
) -> list[Tensor]:
    """Run the steps of an epoch without waiting for the device; return the `Losses` of each, (5,)."""
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
        draw = method.draw(generator_for(cell.seed, "mixing", epoch, step), split.labels_on_host[index])
        # Reseeded each step, so that dropout on the clean rows of encode is the same for every method.
        set_seed(seed_for(cell.seed, "dropout", epoch, step), split.device)
        with autocast(cell.precision, split.device):
            losses = step_losses(backbone, method, batch, draw, watch)
        losses.total.backward()
        if rules.grad_clip:
            nn.utils.clip_grad_value_(parameters, rules.grad_clip)
        if rules.max_grad_norm:
            nn.utils.clip_grad_norm_(parameters, rules.max_grad_norm)
        # NOTE[DIFF] the reference discards an epoch's last incomplete group of batches.
        if step % rules.gradient_accumulation == 0 or step == len(indices):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        steps.append(torch.stack(losses).detach())
    return steps


def check_weights(backbone: Backbone, method: Method, epoch: int, step: int) -> None:
    """Raise `Diverged` if a weight or running statistic is not finite after the epoch's last step."""
    state = {**backbone.state_dict(), **method.state_dict(prefix="method.")}
    numbers = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    finite = torch.stack([tensor.isfinite().all() for tensor in numbers.values()]).cpu()
    if not finite.all():
        name = list(numbers)[int(finite.int().argmin())]
        raise Diverged(f"the weight {name} is not finite after epoch {epoch}, step {step}")


def batches(order: np.ndarray, size: int) -> list[np.ndarray]:
    """Split an order of clips (N,) into batches; a last batch of one clip joins the batch before it."""
    cuts = list(range(size, len(order), size))
    if cuts and len(order) - cuts[-1] == 1:
        cuts.pop()
    return np.split(order, cuts)

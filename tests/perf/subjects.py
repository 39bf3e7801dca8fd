"""What measuring processes run: this project's training, the plain reference, and a method's own work."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from backbones.base import Sizes, by_modality
from backbones.batch import MODALITIES, Latents
from harness.data.dataset import Dataset
from harness.data.store import load_dataset
from harness.train import loop, step
from harness.train.diagnostics import Diagnostics
from harness.train.seeds import generator_for
from harness.train.splits import ResidentSplit, peak_memory_mb, reset_peak_memory
from methods import METHODS
from methods.base import Draw, Mixed
from tests.perf.child import Measure, watched
from tests.perf.reference import MODELS, MulT, PlainTraining
from tests.perf.steps import Steps, make_cell, splits_on
from tests.support.builders import make_backbone, make_batch

EPOCH, SEED, CPU = 1, 1111, torch.device("cpu")
# The shapes of MMSA's unaligned MOSI files.
MOSI = Sizes(by_modality(768, 5, 20), by_modality(50, 375, 500), 3.0)
WARM_UP = 2


def ours(data: str, backbone: str, threads: int, settings: Mapping[str, float] | None = None) -> Measure:
    """Trainings of one backbone with its published settings; data: folder of a stored dataset."""
    torch.set_num_threads(threads)
    dataset = load_dataset(Path(data))

    def measure(
        method: str = "none", clips: int | None = None, fraction: float = 1.0, padded: bool = True, **how: Any
    ) -> dict[str, float]:
        cell = make_cell(backbone, method, dict(settings or {}), threads=threads)
        chosen = resized(dataset, clips, fraction, padded)
        return step_times(Steps(cell, chosen, splits_on(CPU, chosen)), **how)

    return measure


def step_times(training: Steps, steps: int = 2, warm_up: int = 1, evaluate: bool = False) -> dict[str, float]:
    """Seconds of a training step and of its parts, and the epoch's size.

    Args:
        steps: how many are measured, after a warm-up. evaluate: also time the validation split.

    Returns:
        step_s with its parts data_s, method_s, forward_s, backward_s, optimizer_s, rest_s; steps, of an
        epoch; peak_mb, of the process since the call; and valid_s, valid_forward_s, of one evaluation.
    """
    reset_peak_memory(CPU)
    training.epoch = EPOCH
    training.run_epoch(warm_up, Diagnostics().watch)
    with watched(
        data=(ResidentSplit, "take"),
        losses=(loop, "step_losses"),
        mixing=(step, "mix_batch"),
        draw=(type(training.method), "draw"),
        backward=(torch.Tensor, "backward"),
        optimizer=(type(training.optimizer), "step"),
    ) as spent:
        started = time.perf_counter()
        count = len(training.run_epoch(steps, Diagnostics().watch))
        total = time.perf_counter() - started
    parts = {f"{name}_s": spent[name] for name in ("data", "backward", "optimizer")}
    parts |= {"method_s": spent["mixing"] + spent["draw"], "forward_s": spent["losses"] - spent["mixing"]}
    parts |= {"rest_s": total - sum(parts.values()), "step_s": total}
    order = np.arange(len(training.splits.resident["train"]))
    numbers = {name: seconds / count for name, seconds in parts.items()}
    numbers["steps"] = len(loop.batches(order, training.backbone.settings.batch_size))
    numbers["peak_mb"] = peak_memory_mb(CPU)
    return numbers | (_evaluation(training) if evaluate else {})


def _evaluation(training: Steps) -> dict[str, float]:
    training.evaluate()
    with watched(valid_forward_s=(type(training.backbone), "__call__")) as spent:
        started = time.perf_counter()
        predicted = loop.predict(training.cell, training.backbone, training.splits, "valid")
        loop.task_loss(training.backbone, *predicted)
        return {**spent, "valid_s": time.perf_counter() - started}


def resized(dataset: Dataset, clips: int | None, fraction: float, padded: bool) -> Dataset:
    """The dataset with fewer training clips, with a fraction of the steps, or with every step valid."""
    splits = dict(dataset.splits)
    for name, split in splits.items():
        rows = slice(clips if name == "train" else None)
        features, lengths = {}, {}
        for m in MODALITIES:
            most = max(1, round(fraction * split.features[m].shape[1]))
            features[m] = np.ascontiguousarray(split.features[m][rows, :most])
            stated = np.ceil(fraction * split.lengths[m][rows])
            valid = stated if padded else np.full(len(stated), most)
            lengths[m] = valid.astype(split.lengths[m].dtype).clip(1, most)
        splits[name] = replace(
            split, features=features, lengths=lengths, labels=split.labels[rows], ids=split.ids[rows]
        )
    return replace(dataset, splits=splits)


def plain(data: str, model: str, threads: int, dropouts: bool = True) -> Measure:
    """A training of the plain reference on the same batches; measures step_s, steps and peak_mb."""
    torch.set_num_threads(threads)
    split = load_dataset(Path(data)).splits["train"]
    features = {m: torch.from_numpy(np.array(x)) for m, x in split.features.items()}
    labels = torch.from_numpy(np.array(split.labels))
    torch.manual_seed(SEED)
    kind = MODELS[model]
    training = PlainTraining(MulT(dropouts) if kind is MulT else kind(), kind.learning_rate)
    order = generator_for(SEED, "order", EPOCH).permutation(len(labels))
    indices = [torch.from_numpy(index) for index in loop.batches(order, kind.batch_size)]

    def measure(steps: int) -> dict[str, float]:
        reset_peak_memory(CPU)
        started = time.perf_counter()
        for index in indices[:steps]:
            training.step({m: x[index] for m, x in features.items()}, labels[index])
        seconds = (time.perf_counter() - started) / min(steps, len(indices))
        return {"step_s": seconds, "steps": len(indices), "peak_mb": peak_memory_mb(CPU)}

    return measure


def methods(backbone: str, rounds: int) -> Measure:
    """What methods cost at MOSI's size; see `method_cost`."""
    torch.set_num_threads(1)
    return lambda method: method_cost(backbone, method, rounds, MOSI)


def method_cost(backbone_name: str, method_name: str, rounds: int, sizes: Sizes) -> dict[str, float]:
    """CPU time of a training step, step_s, and own, the share of it that the method itself takes.

    Own work is the step against the same step with its mixed examples given; medians over rounds in which
    both take turns.
    """
    backbone = make_backbone(backbone_name, sizes).train()
    method = METHODS[method_name](METHODS[method_name].Settings(), backbone.latent_widths, sizes.label_scale)
    batch = make_batch(sizes, backbone.settings.batch_size, full=True)
    optimizer, mix_batch, given = loop.make_optimizer(backbone, method), step.mix_batch, []

    def mix_once(*args: Any) -> Mixed:
        if not given:
            given.append(detached(mix_batch(*args)))
        return given[0]

    def draw() -> Draw | None:
        # The same in each step: some methods also draw how many examples they mix.
        return method.draw(np.random.default_rng(0), batch.labels.numpy())

    def train(draw: Callable[[], Draw | None]) -> float:
        # CPU time of one thread: what else the machine does then matters least.
        started = time.process_time()
        step.step_losses(backbone, method, batch, draw()).total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return time.process_time() - started

    once, times = draw(), []
    for _ in range(WARM_UP + rounds):
        whole_s = train(draw)
        with mock.patch.object(step, "mix_batch", mix_once):
            times.append((whole_s, train(lambda: once)))
    step_s = statistics.median(whole for whole, _ in times[WARM_UP:])
    return {"step_s": step_s, "own": statistics.median(1 - rest / whole for whole, rest in times[WARM_UP:])}


def detached(mixed: Mixed) -> Mixed:
    """Mixed examples whose making takes no part in the backward pass."""
    values = {m: x.detach() for m, x in mixed.latents.values.items()}
    latents = Latents(values, mixed.latents.lengths, mixed.latents.kept)
    tensors = {name: getattr(mixed, name).detach() for name in ("labels", "penalty", "label_weights")}
    return replace(mixed, latents=latents, **tensors)

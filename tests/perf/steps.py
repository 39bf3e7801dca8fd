"""Training steps without the rest of a cell, and what measuring processes run; needs PyTorch and NumPy."""

import copy
import functools
import statistics
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from backbones.batch import Latents
from harness.data.dataset import SPLITS
from harness.data.occlusion import MaskField
from harness.data.store import load_dataset
from harness.train import loop, step
from harness.train.arithmetic import compile_steps, set_arithmetic
from harness.train.device import peak_memory_mb, reset_peak_memory
from harness.train.diagnostics import Diagnostics
from harness.train.seeds import generator_for
from harness.train.splits import ResidentSplit
from tests.perf.child import watched
from tests.perf.reference import MODELS, MulT, plain_step
from tests.support import cells

EPOCH, SEED, CPU, WARM_UP = 1, 1111, torch.device("cpu"), 3
EPOCH_STEPS = 20  # of the shortened epochs whose speed is measured


def make_cell(backbone, method, settings=None, **changes):
    """Make a cell with published settings for MOSI; settings: the backbone's that differ."""
    cell = cells.make_cell(method, backbone, dataset="synthetic_mosi", seed=SEED)
    return replace(cells.with_changes(cell, backbone=settings), **changes)


class Steps:
    """A cell's training on a device, some steps at a time; sets the process's flags."""

    def __init__(self, cell, dataset, device=CPU):
        self.cell, self.device = cell, device
        self.splits = loop.Splits(
            {name: ResidentSplit(dataset.splits[name], device) for name in SPLITS},
            {name: MaskField("synthetic_mosi", name, 0, dataset.splits[name].ids) for name in SPLITS},
        )
        set_arithmetic(cell.precision, cell.deterministic, device)
        self.backbone, self.method = loop.build(cell, dataset, device)
        if cell.compile:
            compile_steps(self.backbone)
        self.optimizer = loop.make_optimizer(self.backbone, self.method)
        self.epoch = 0

    def run(self, n):
        """Train for n steps, over several epochs if need be; returns their losses, (n, 5), in float64."""
        rows = []
        while len(rows) < n:
            self.epoch += 1
            rows += self.run_epoch(n - len(rows))
        return torch.stack(rows).double().cpu()

    def run_epoch(self, most, watch=None):
        """Train for at most so many steps of the current epoch; returns the losses of each, (5,)."""
        cell, networks = replace(self.cell, max_batches=most), (self.backbone, self.method)
        return loop.run_steps(cell, *networks, self.optimizer, self.splits, self.epoch, watch)

    def train(self, n):
        """Train for at most n steps of the next epoch, with diagnostics and checks; returns how many."""
        self.epoch += 1
        cell, networks = replace(self.cell, max_batches=n), (self.backbone, self.method)
        loop.train_epoch(cell, *networks, self.optimizer, self.splits, self.epoch)
        size, clips = cell.backbone_settings.batch_size, len(self.splits.resident["train"])
        return min(n, len(loop.batches(np.arange(clips), size)))

    def first_of_epoch(self):
        """Train for the first step of the next epoch; returns its losses, (5,), in float64 on the CPU."""
        self.epoch += 1
        return self.run_epoch(1)[0].double().cpu()

    def take_over(self, other):
        """Continue from another training's weights, optimizer state and epoch."""
        self.backbone.load_state_dict(other.backbone.state_dict())
        self.method.load_state_dict(other.method.state_dict())
        # Loading keeps tensors that are on the right device already, so that both would change them.
        self.optimizer.load_state_dict(copy.deepcopy(other.optimizer.state_dict()))
        self.epoch = other.epoch

    def evaluate(self):
        """Predict the validation split; returns its number of clips."""
        predictions, _ = loop.predict(self.cell, self.backbone, self.splits, "valid")
        return len(predictions)

    def weights(self):
        return [*self.backbone.state_dict().values(), *self.method.state_dict().values()]


def rate(action, device, seconds):
    """Measure for a while how much an action does per second; it returns how many steps or clips it did."""
    synchronize(device)
    started = time.perf_counter()
    done = passed = 0
    while not done or passed < seconds:
        done += action()
        synchronize(device)
        passed = time.perf_counter() - started
    return done / passed


def steps_per_s(steps, seconds):
    """Measure training steps per second, including the work at the end of an epoch."""
    size = EPOCH_STEPS if seconds else 1
    return rate(lambda: steps.train(size), steps.device, seconds)


def kernel_seconds(steps, n):
    """Measure with PyTorch's profiler how long the device runs kernels or copies, per step.

    On the CPU, where the logic is tested, operations take the place of kernels.
    """
    cuda = steps.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as profiled:
        steps.run(n)
        synchronize(steps.device)
    kind = torch.autograd.DeviceType.CUDA if cuda else torch.autograd.DeviceType.CPU
    ranges = [event.time_range for event in profiled.events() if event.device_type == kind]
    return covered((r.start, r.end) for r in ranges) / 1e6 / n


def covered(intervals):
    """Return the length of the union of intervals (start, end)."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# What measuring processes run


stored = functools.cache(lambda data: load_dataset(Path(data)))


def training(cell, data, device):
    """Begin a cell's training on a device; data: folder of a stored dataset."""
    return Steps(cell, stored(data), torch.device(device))


def ours(data, backbone, threads=1, settings=None, method="none", size=(), **how):
    """Measure steps of a cell with `step_times`; data: folder of a dataset, size: how it is `resized`."""
    torch.set_num_threads(threads)
    cell, dataset = (
        make_cell(backbone, method, settings, threads=threads),
        resized(stored(data), **dict(size)),
    )
    return step_times(Steps(cell, dataset), **how)


def step_times(training, steps=2, warm_up=1, evaluate=False):
    """Measure the seconds of a training step and of its parts, and the epoch's size.

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
    parts = {name: spent[name] for name in ("data", "backward", "optimizer")}
    parts |= {"method": spent["mixing"] + spent["draw"], "forward": spent["losses"] - spent["mixing"]}
    parts |= {"rest": total - sum(parts.values()), "step": total}
    order = np.arange(len(training.splits.resident["train"]))
    numbers = {f"{name}_s": seconds / count for name, seconds in parts.items()}
    numbers["steps"] = len(loop.batches(order, training.backbone.settings.batch_size))
    numbers["peak_mb"] = peak_memory_mb(CPU)
    if evaluate:
        training.evaluate()
        with watched(valid_forward_s=(type(training.backbone), "__call__")) as spent:
            started = time.perf_counter()
            predicted = loop.predict(training.cell, training.backbone, training.splits, "valid")
            loop.task_loss(training.backbone, *predicted)
            numbers["valid_s"] = time.perf_counter() - started
        numbers |= spent
    return numbers


def resized(dataset, clips=None, fraction=1.0, padded=True):
    """Return the dataset with fewer training clips, a fraction of the steps, or every step valid."""
    splits = dict(dataset.splits)
    for name, split in splits.items():
        rows = slice(clips if name == "train" else None)
        features, lengths = {}, {}
        for m, x in split.features.items():
            most = max(1, round(fraction * x.shape[1]))
            features[m] = np.ascontiguousarray(x[rows, :most])
            stated = np.ceil(fraction * split.lengths[m][rows]) if padded else np.full(len(x[rows]), most)
            lengths[m] = stated.astype(split.lengths[m].dtype).clip(1, most)
        rest = {"labels": split.labels[rows], "ids": split.ids[rows]}
        splits[name] = replace(split, features=features, lengths=lengths, **rest)
    return replace(dataset, splits=splits)


@functools.cache
def plain_training(data, model, dropouts):
    """Return a plain reference with its optimizer, and this project's batches of the first epoch."""
    split = stored(data).splits["train"]
    features = {m: torch.from_numpy(np.array(x)) for m, x in split.features.items()}
    labels = torch.from_numpy(np.array(split.labels))
    torch.manual_seed(SEED)
    network = MulT(dropouts) if model == "mult" else MODELS[model]()
    optimizer = torch.optim.Adam(network.train().parameters(), lr=network.learning_rate)
    order = generator_for(SEED, "order", EPOCH).permutation(len(labels))
    indices = [torch.from_numpy(index) for index in loop.batches(order, network.batch_size)]
    return network, optimizer, features, labels, indices


def plain(data, model, threads, steps, dropouts=True):
    """Measure step_s, steps and peak_mb of the plain reference."""
    torch.set_num_threads(threads)
    network, optimizer, features, labels, indices = plain_training(data, model, dropouts)
    reset_peak_memory(CPU)
    started = time.perf_counter()
    for index in indices[:steps]:
        plain_step(network, optimizer, {m: x[index] for m, x in features.items()}, labels[index])
    seconds = (time.perf_counter() - started) / min(steps, len(indices))
    return {"step_s": seconds, "steps": len(indices), "peak_mb": peak_memory_mb(CPU)}


def method_cost(data, backbone, method, rounds):
    """Measure the CPU time of a training step, step_s, and own, the share of it that the method takes.

    Own work is the step against the same step with its mixed examples given; medians over rounds in which
    both take turns. Clips have their full length.
    """
    torch.set_num_threads(1)
    dataset = resized(stored(data), padded=False)
    training = Steps(make_cell(backbone, method), dataset)
    network, method = training.backbone.train(), training.method
    split = training.splits.resident["train"]
    batch = split.take(loop.batches(np.arange(len(split)), network.settings.batch_size)[0])
    mix_batch, mixed = step.mix_batch, []

    def mix_once(*args):
        if not mixed:
            mixed.append(detached(mix_batch(*args)))
        return mixed[0]

    def draw():
        # The same in each step: some methods also draw how many examples they mix.
        return method.draw(np.random.default_rng(0), batch.labels.numpy())

    def train(draw):
        # CPU time of one thread: what else the machine does then matters least.
        started = time.process_time()
        step.step_losses(network, method, batch, draw()).total.backward()
        training.optimizer.step()
        training.optimizer.zero_grad(set_to_none=True)
        return time.process_time() - started

    once, times = draw(), []
    for _ in range(WARM_UP + rounds):
        whole_s = train(draw)
        with mock.patch.object(step, "mix_batch", mix_once):
            times.append((whole_s, train(lambda: once)))
    step_s = statistics.median(whole for whole, _ in times[WARM_UP:])
    return {"step_s": step_s, "own": statistics.median(1 - rest / whole for whole, rest in times[WARM_UP:])}


def detached(mixed):
    """Return mixed examples whose making takes no part in the backward pass."""
    values = {m: x.detach() for m, x in mixed.latents.values.items()}
    latents = Latents(values, mixed.latents.lengths, mixed.latents.kept)
    tensors = {name: getattr(mixed, name).detach() for name in ("labels", "penalty", "label_weights")}
    return replace(mixed, latents=latents, **tensors)


@functools.lru_cache(1)
def ready(data, device, **cell):
    return training(make_cell(**cell), data, device)


def together(data, device, seconds, **cell):
    """Measure steps_per_s of one of several processes on a device; the first time, also get ready."""
    torch.set_num_threads(1)
    steps = ready(data, device, **cell)
    measured = steps_per_s(steps, seconds)
    # The others, which began at the same time, still measure.
    steps_per_s(steps, seconds / 4)
    return {"steps_per_s": measured}

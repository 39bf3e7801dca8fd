"""Training steps on one device, without the rest of a cell: losses, bits, speed and the time of kernels."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile

from backbones import BACKBONES
from backbones.base import resolve_settings
from harness.data.dataset import SPLITS, Dataset
from harness.data.occlusion import MaskField
from harness.matrix import Cell
from harness.train.arithmetic import compile_steps, set_arithmetic
from harness.train.loop import Splits, build, make_optimizer, predict, run_steps
from harness.train.splits import ResidentSplit
from harness.train.step import Watch
from methods import METHODS

EPSILON = 1e-4
DRAWS = (torch.randn_like, torch.rand_like, torch.randn, torch.rand)


def make_cell(backbone: str, method: str, settings: dict[str, float] | None = None, **changes: Any) -> Cell:
    """A cell with published settings for MOSI; settings: the backbone's that differ."""
    kind = BACKBONES[backbone]
    return Cell(
        dataset="synthetic_mosi",
        metrics="mosi",
        label_scale=3.0,
        fingerprint="",
        backbone=backbone,
        backbone_settings=resolve_settings(kind, kind.Settings(**(settings or {})), "mosi"),
        method=method,
        method_settings=METHODS[method].Settings(),
        seed=1111,
        **changes,
    )


def without_dropout(cell: Cell) -> Cell:
    """The cell with all probabilities of dropout at 0: devices draw different masks from one seed."""
    names = [f.name for f in fields(cell.backbone_settings) if f.name.endswith("_dropout")]
    off: dict[str, Any] = dict.fromkeys(names, 0.0)
    return replace(cell, backbone_settings=replace(cell.backbone_settings, **off))


class HostDraws(TorchFunctionMode):
    """Within it random tensors are drawn on the CPU and copied, so that all devices get the same ones."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Draw, or call the function as it is."""
        if func not in DRAWS:
            return func(*args, **(kwargs or {}))
        like = isinstance(args[0], Tensor)
        device = args[0].device if like else (kwargs or {}).get("device")
        on_cpu = (args[0].cpu(), *args[1:]) if like else args
        return func(*on_cpu, **{**(kwargs or {}), "device": "cpu"}).to(device)


def splits_on(device: torch.device, dataset: Dataset) -> Splits:
    """All splits of a dataset on a device."""
    return Splits(
        {name: ResidentSplit(dataset.splits[name], device) for name in SPLITS},
        {name: MaskField("synthetic_mosi", name, 0, dataset.splits[name].ids) for name in SPLITS},
    )


class Steps:
    """A cell's training on the device of its splits, some steps at a time; sets the process's flags."""

    def __init__(self, cell: Cell, dataset: Dataset, splits: Splits):
        self.cell, self.splits = cell, splits
        self.device = splits.resident["train"].device
        set_arithmetic(cell.precision, cell.deterministic, self.device)
        self.backbone, self.method = build(cell, dataset, self.device)
        if cell.compile:
            compile_steps(self.backbone)
        self.optimizer = make_optimizer(self.backbone, self.method)
        self.epoch = 0

    def steady(self) -> Steps:
        """Let Adam make no steps of rounding errors, by an epsilon well above them."""
        for group in self.optimizer.param_groups:
            group["eps"] = EPSILON
        return self

    def run(self, n: int) -> Tensor:
        """Train for n steps, over several epochs if need be; returns their losses, (n, 5), in double."""
        rows: list[Tensor] = []
        while len(rows) < n:
            self.epoch += 1
            rows += self.run_epoch(n - len(rows))
        return torch.stack(rows).double().cpu()

    def run_epoch(self, most: int, watch: Watch | None = None) -> list[Tensor]:
        """Train for at most so many steps of the current epoch; returns the losses of each, (5,)."""
        cell = replace(self.cell, max_batches=most)
        return run_steps(cell, self.backbone, self.method, self.optimizer, self.splits, self.epoch, watch)

    def evaluate(self) -> int:
        """Predict the validation split; returns its number of clips."""
        predictions, _ = predict(self.cell, self.backbone, self.splits, "valid")
        return len(predictions)

    def weights(self) -> Iterable[Tensor]:
        """All weights and running statistics."""
        return [*self.backbone.state_dict().values(), *self.method.state_dict().values()]


def relative_difference(expected: Tensor, actual: Tensor) -> float:
    """The largest difference of losses, (n, 5) each, by the total loss (first column).

    That of the step, or of the first one where it is larger: losses that go to 0 have no digits to compare.
    """
    total = expected[:, :1].abs().maximum(expected[0, 0].abs())
    return float(((expected - actual).abs() / total).nan_to_num(torch.inf).max())


def same_bits(cell: Cell, dataset: Dataset, splits: Splits, n: int) -> bool:
    """Whether two trainings of n steps give the same losses and weights, bit for bit."""
    runs = [Steps(cell, dataset, splits) for _ in range(2)]
    first, second = (run.run(n) for run in runs)
    pairs = zip(*(run.weights() for run in runs), strict=True)
    return torch.equal(first, second) and all(torch.equal(a, b) for a, b in pairs)


def rate(action: Callable[[], int], device: torch.device, seconds: float) -> float:
    """How many (steps, clips) per second an action does, which returns how many it did; for a while."""
    synchronize(device)
    started, done = time.perf_counter(), 0
    while True:
        done += action()
        synchronize(device)
        passed = time.perf_counter() - started
        if passed >= seconds:
            return done / passed


def kernel_seconds(steps: Steps, n: int) -> float:
    """Time in which the device runs kernels or copies, per step, from PyTorch's profiler.

    On the CPU, where the logic is tested, operations take the place of kernels.
    """
    cuda = steps.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as profiled:
        steps.run(n)
        synchronize(steps.device)
    kind = torch.autograd.DeviceType.CUDA if cuda else torch.autograd.DeviceType.CPU
    ranges = [event.time_range for event in profiled.events() if event.device_type == kind]
    return covered((r.start, r.end) for r in ranges) / 1e6 / n


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals (start, end)."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

"""Steps of a training on one device, without the rest of a cell: losses, speed, memory, time of kernels."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile

from backbones import BACKBONES
from backbones.base import resolve_settings
from harness.data.dataset import Dataset
from harness.data.occlusion import MaskField
from harness.launchers.processes import usable_cores
from harness.matrix import Cell
from harness.train.arithmetic import compile_steps, set_arithmetic
from harness.train.loop import Splits, build, make_optimizer, predict, run_steps
from harness.train.splits import ResidentSplit
from methods import METHODS

WARM_UP = 3
EPSILON = 1e-4
MODES: Mapping[str, Mapping[str, Any]] = {
    "fp32": {},
    "fp32_any_order": {"deterministic": False},
    "tf32": {"precision": "tf32"},
    "bf16": {"precision": "bf16"},
    "compile": {"compile": True},
}
"""Kinds of arithmetic, and how a cell says so; the first is the benchmark's default."""
DRAWS = (torch.randn_like, torch.rand_like, torch.randn, torch.rand)


def make_cell(backbone: str, method: str, **changes: Any) -> Cell:
    """A cell with published settings for MOSI."""
    kind = BACKBONES[backbone]
    return Cell(
        dataset="synthetic_mosi",
        metrics="mosi",
        label_scale=3.0,
        fingerprint="",
        backbone=backbone,
        backbone_settings=resolve_settings(kind, kind.Settings(), "mosi"),
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
        given = (args[0].cpu(), *args[1:]) if like else args
        return func(*given, **{**(kwargs or {}), "device": "cpu"}).to(device)


@contextlib.contextmanager
def all_threads() -> Iterator[None]:
    """Within it PyTorch uses all cores on the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(usable_cores())
    try:
        yield
    finally:
        torch.set_num_threads(before)


def place(dataset: Dataset, device: torch.device) -> Splits:
    """Training and validation split on a device."""
    names = ("train", "valid")
    return Splits(
        {name: ResidentSplit(dataset.splits[name], device) for name in names},
        {name: MaskField("synthetic_mosi", name, 0, dataset.splits[name].ids) for name in names},
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
            cell = replace(self.cell, max_batches=n - len(rows))
            networks = self.backbone, self.method, self.optimizer
            rows += run_steps(cell, *networks, self.splits, self.epoch)
        return torch.stack(rows).double().cpu()

    def evaluate(self) -> int:
        """Predict the validation split; returns its number of clips."""
        predictions, _ = predict(self.cell, self.backbone, self.splits, "valid")
        return len(predictions)

    def weights(self) -> Iterable[Tensor]:
        """All weights and running statistics."""
        return [*self.backbone.state_dict().values(), *self.method.state_dict().values()]


def relative_difference(wanted: Tensor, found: Tensor) -> float:
    """The largest difference of losses, (n, 5) each, by the total loss (first column).

    That of the step, or of the first one where it is larger: losses that go to 0 have no digits to compare.
    """
    total = wanted[:, :1].abs().maximum(wanted[0, 0].abs())
    return float(((wanted - found).abs() / total).nan_to_num(torch.inf).max())


def same_bits(cell: Cell, dataset: Dataset, splits: Splits, n: int) -> bool:
    """Whether two trainings of n steps give the same losses and weights, bit for bit."""
    runs = [Steps(cell, dataset, splits) for _ in range(2)]
    first, second = (run.run(n) for run in runs)
    pairs = zip(*(run.weights() for run in runs), strict=True)
    return torch.equal(first, second) and all(torch.equal(a, b) for a, b in pairs)


def rate(action: Callable[[], int], device: torch.device, seconds: float) -> float:
    """How many (steps, clips) per second an action does, which says how many it did; for a while."""
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
    kind = ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU
    with profile(activities=[kind]) as profiled:
        steps.run(n)
        synchronize(steps.device)
    wanted = torch.autograd.DeviceType.CUDA if cuda else torch.autograd.DeviceType.CPU
    events = [event for event in profiled.events() if event.device_type == wanted]
    return covered((event.time_range.start, event.time_range.end) for event in events) / 1e6 / n


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


def peak_memory_mb(action: Callable[[], object], device: torch.device) -> float | None:
    """Most memory that PyTorch allocates on the GPU while an action runs, MiB; None on the CPU."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    action()
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None

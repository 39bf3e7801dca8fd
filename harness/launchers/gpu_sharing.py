"""The number of workers that share a GPU, from its memory and the CPU cores of this machine.

The memory of a worker is estimated: each network runs a step on the CPU with a few clips, and the bytes saved
for the backward pass are extrapolated to the batch size. If the estimate is too low, cells fail with CUDA's
"out of memory"; run the command again with a smaller `jobs_per_gpu=N`. Evaluation is not counted: it keeps a
few tensors of 256 clips, where training keeps those of all layers.

NOTE several workers per GPU are the only way here to use a GPU fully with small networks. CUDA graphs of the
step, and several seeds stacked in one network, are not implemented; whether they would be faster is unknown.
`tests.perf.gpu` measures the speed of sharing.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from backbones.base import Backbone
from backbones.batch import MODALITIES, Batch
from harness.data.dataset import Dataset
from harness.data.store import load_dataset
from harness.errors import UserError
from harness.launchers.processes import usable_cores
from harness.matrix import Cell
from harness.train.networks import COPIES, build
from harness.train.step import step_losses
from methods import METHODS
from methods.base import Method

CONTEXT_BYTES = 2**30  # per process: CUDA's context, the workspaces of cuBLAS and cuDNN
TEXT_BYTES = {True: 8 * 2**30, False: 2 * 2**30}  # assumed for a text encoder, fine-tuned or frozen
MARGIN = 1.5  # for temporaries of the backward pass, and fragmentation in the allocator
USABLE = 0.9  # share of the free memory; with less, cuDNN may choose other algorithms, with other bits
ASK = "import torch; print(*(torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count())))"
CLIPS = 2, 4  # batch sizes of the two steps that are measured


class Allocation(NamedTuple):
    """Number of workers (None: the launcher's default), and the GPUs that they share evenly."""

    jobs: int | None
    devices: tuple[str, ...] = ()


def allocate(
    jobs: int | None, jobs_per_gpu: int | None, free: Sequence[int], need: int, cores: int
) -> Allocation:
    """Choose the number of workers.

    Args:
        jobs, jobs_per_gpu: as requested; jobs takes precedence.
        free: free bytes of each GPU. need: bytes per worker. cores: maximum number of workers on the CPU.
    """
    assert free, "at least one GPU"
    if jobs is None and jobs_per_gpu is not None:
        jobs = jobs_per_gpu * len(free)
    if jobs is None:
        jobs = max(1, min(cores, int(USABLE * min(free)) // max(need, 1) * len(free)))
    return Allocation(jobs, tuple(f"cuda:{index}" for index in range(len(free)))[:jobs])


def allocation_of(config: Any, cells: Iterable[Cell], folders: Mapping[str, Path], device: str) -> Allocation:
    """Return the workers of a request; on the CPU, ``jobs`` unchanged. folders: stored datasets, by name."""
    if device != "cuda":
        return Allocation(config.jobs)
    free, need = [0] * torch.cuda.device_count(), 0
    if config.jobs is None and config.jobs_per_gpu is None:
        free = free_memory()
        need = worker_bytes(cells, folders, config.data.resident != "host")
    return allocate(config.jobs, config.jobs_per_gpu, free, need, usable_cores() // config.cell.threads)


def free_memory() -> list[int]:
    """Return the free bytes of each GPU; raises UserError."""
    # In another process, because a CUDA context of this one would hold memory until the study ends.
    asked = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=False)
    if asked.returncode:
        reason = asked.stderr.strip().splitlines()[-1:] or [f"exit status {asked.returncode}"]
        raise UserError(f"The memory of the GPUs cannot be read ({reason[0]}); give jobs_per_gpu=N.")
    return [int(word) for word in asked.stdout.split()]


def worker_bytes(cells: Iterable[Cell], folders: Mapping[str, Path], resident: bool) -> int:
    """Return the GPU memory in bytes that a worker needs for any of these cells; resident: with dataset."""
    kinds = {(cell.dataset, cell.backbone_label, cell.method == "none"): cell for cell in cells}
    datasets = {name: load_dataset(folders[name]) for name in {cell.dataset for cell in kinds.values()}}
    needs = [0]
    for cell in kinds.values():
        dataset = datasets[cell.dataset]
        needs.append(cell_bytes(cell, dataset) + (dataset_bytes(dataset) if resident else 0))
    return CONTEXT_BYTES + max(needs)


def dataset_bytes(dataset: Dataset) -> int:
    """Return the bytes of the features of all splits."""
    return sum(x.nbytes for split in dataset.splits.values() for x in split.features.values())


def cell_bytes(cell: Cell, dataset: Dataset) -> int:
    """Return the bytes of a cell's weights and their copies, and of a step's saved activations."""
    if cell.text.encoder != "features":
        return TEXT_BYTES[cell.text.finetune]
    baseline = replace(cell, method="none", method_settings=METHODS["none"].Settings())
    backbone, method = build(baseline, dataset, torch.device("cpu"))
    weights = sum(p.nbytes for p in backbone.parameters())
    size = cell.backbone_settings.batch_size
    assert size is not None, "settings are resolved"
    rows = size if cell.method == "none" else 2 * size  # clean and mixed clips
    few, more = (saved_bytes(backbone, method, zeros(dataset, n)) for n in CLIPS)
    per_clip = (more - few) / (CLIPS[1] - CLIPS[0])
    return COPIES * weights + round(MARGIN * (few + per_clip * max(rows - CLIPS[0], 0)))


def saved_bytes(backbone: Backbone, method: Method, batch: Batch) -> int:
    """Return the bytes besides weights that a step without mixing saves on CUDA for its backward pass."""
    weights = {p.untyped_storage().data_ptr() for p in backbone.parameters()}
    storages: dict[int, tuple[torch.UntypedStorage, int]] = {}

    def save(tensor: Tensor) -> None:
        # Only storages are kept: a graph that refers to its own tensors is not freed.
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            half = tensor.dtype == torch.bfloat16
            storages[storage.data_ptr()] = storage, storage.nbytes() * (2 if half else 1)

    backbone.train()
    hooks = torch.autograd.graph.saved_tensors_hooks(save, _unused)
    # Under autocast, attention takes the same path as on CUDA.
    with hooks, FusedAttention(), torch.autocast("cpu", torch.bfloat16):
        step_losses(backbone, method, batch, None)
    return sum(size for _, size in storages.values())


class FusedAttention(TorchFunctionMode):
    """Within it, attention saves no attention weights, like CUDA's fused kernels.

    The CPU's fused kernel has no dropout, so dropout is left out; CUDA's kernels draw their masks again.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function; attention without its dropout."""
        kwargs = dict(kwargs or {})
        if func is F.scaled_dot_product_attention:
            args = (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args
            kwargs = {name: value for name, value in kwargs.items() if name != "dropout_p"}
        return func(*args, **kwargs)


def _unused(_: None) -> Tensor:
    raise AssertionError("no backward pass follows")


def zeros(dataset: Dataset, n: int) -> Batch:
    """Return a batch of n all-zero clips with a dataset's widths and lengths, without padding."""
    widths = dataset.widths()
    features = {m: torch.zeros(n, steps, widths[m]) for m, steps in dataset.steps().items()}
    lengths = {m: torch.full((n,), features[m].shape[1]) for m in MODALITIES}
    return Batch(features, lengths, torch.zeros(n))

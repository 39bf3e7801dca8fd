"""The number of workers that share a GPU, by its memory and the cores of this machine.

The memory of a worker is estimated: each network takes a step on the CPU with a few clips, and what the step
saves for its backward pass is extrapolated to the batch. Where the estimate is too low, cells fail with
CUDA's "out of memory"; the next call resumes, and `jobs_per_gpu=N` chooses fewer workers.

NOTE workers that share a GPU are the one way here to fill it with small networks. CUDA graphs of the step and
several seeds stacked in one network are not built: whether they are faster must be measured on a GPU, as
`tests.perf.gpu` measures sharing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from backbones.base import Backbone
from backbones.batch import MODALITIES, Batch
from harness.data.dataset import Dataset
from harness.data.store import load_dataset
from harness.launchers.processes import usable_cores
from harness.matrix import Cell
from harness.train.memory import COPIES
from harness.train.networks import build
from harness.train.step import step_losses
from methods import METHODS
from methods.base import Method

CONTEXT_BYTES = 2**30  # of a process: CUDA's context, the workspaces of cuBLAS and cuDNN
TEXT_BYTES = {True: 8 * 2**30, False: 2 * 2**30}  # assumed for a text encoder, fine-tuned or frozen
MARGIN = 1.5  # for what a backward pass holds besides, and what the allocator cannot use
CLIPS = 2, 4  # of the steps that are taken as samples


class Allocation(NamedTuple):
    """Workers in all (None: the launcher's default), and the GPUs that they share evenly."""

    jobs: int | None
    devices: tuple[str, ...] = ()


def allocate(
    jobs: int | None, jobs_per_gpu: int | None, free: Sequence[int], need: int, cores: int
) -> Allocation:
    """Choose the number of workers.

    Args:
        jobs, jobs_per_gpu: as asked for; where both are given, jobs counts.
        free: bytes free on each GPU. need: bytes that a worker takes. cores: those that workers may use.
    """
    assert free, "at least one GPU"
    if jobs is None and jobs_per_gpu is not None:
        jobs = jobs_per_gpu * len(free)
    if jobs is None:
        jobs = max(1, min(cores, min(free) // max(need, 1) * len(free)))
    return Allocation(jobs, tuple(f"cuda:{index}" for index in range(len(free)))[:jobs])


def allocation_of(config: Any, cells: Iterable[Cell], folders: Mapping[str, Path], device: str) -> Allocation:
    """The workers of a request; on the CPU ``jobs`` as it is. folders: of the stored datasets, by name."""
    if device != "cuda":
        return Allocation(config.jobs)
    free = [torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count())]
    need = 0
    if config.jobs is None and config.jobs_per_gpu is None:
        need = worker_bytes(cells, folders, config.data.resident != "host")
    return allocate(config.jobs, config.jobs_per_gpu, free, need, usable_cores() // config.cell.threads)


def worker_bytes(cells: Iterable[Cell], folders: Mapping[str, Path], resident: bool) -> int:
    """The most that a worker takes on the GPU for any of these cells; resident: with its dataset there."""
    kinds = {(cell.dataset, cell.backbone_label, cell.method == "none"): cell for cell in cells}
    datasets = {name: load_dataset(folders[name]) for name in {cell.dataset for cell in kinds.values()}}
    needs = [0]
    for cell in kinds.values():
        dataset = datasets[cell.dataset]
        needs.append(cell_bytes(cell, dataset) + (dataset_bytes(dataset) if resident else 0))
    return CONTEXT_BYTES + max(needs)


def dataset_bytes(dataset: Dataset) -> int:
    """What the features of all splits take."""
    return sum(x.nbytes for split in dataset.splits.values() for x in split.features.values())


def cell_bytes(cell: Cell, dataset: Dataset) -> int:
    """Weights with all that belongs to them, and what a step of the cell's batch size keeps."""
    if cell.text.encoder != "features":
        return TEXT_BYTES[cell.text.finetune]
    plain = replace(cell, method="none", method_settings=METHODS["none"].Settings())
    backbone, method = build(plain, dataset, torch.device("cpu"))
    weights = sum(p.nbytes for p in backbone.parameters())
    size = cell.backbone_settings.batch_size
    assert size is not None, "settings are resolved"
    rows = size if cell.method == "none" else 2 * size  # clean and mixed ones
    few, more = (saved_bytes(backbone, method, zeros(dataset, n)) for n in CLIPS)
    per_clip = (more - few) / (CLIPS[1] - CLIPS[0])
    return COPIES * weights + round(MARGIN * (few + per_clip * max(rows - CLIPS[0], 0)))


def saved_bytes(backbone: Backbone, method: Method, batch: Batch) -> int:
    """What a step without mixing saves on CUDA for its backward pass, in float32, besides the weights."""
    weights = {p.untyped_storage().data_ptr() for p in backbone.parameters()}
    storages: dict[int, tuple[torch.UntypedStorage, int]] = {}

    def save(tensor: Tensor) -> None:
        # Storages alone: a graph that holds its own tensors is not freed.
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            half = tensor.dtype == torch.bfloat16
            storages[storage.data_ptr()] = storage, storage.nbytes() * (2 if half else 1)

    backbone.train()
    hooks = torch.autograd.graph.saved_tensors_hooks(save, _unused)
    # Under autocast attention goes the way that it goes on CUDA; its kernel for deterministic sums keeps the
    # weights, as this one does.
    with hooks, sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16):
        step_losses(backbone, method, batch, None)
    return sum(size for _, size in storages.values())


def _unused(_: None) -> Tensor:
    raise AssertionError("no backward pass follows")


def zeros(dataset: Dataset, n: int) -> Batch:
    """A batch of n clips of a dataset's sizes, none of them padded."""
    widths = dataset.widths()
    features = {m: torch.zeros(n, steps, widths[m]) for m, steps in dataset.steps().items()}
    lengths = {m: torch.full((n,), features[m].shape[1]) for m in MODALITIES}
    return Batch(features, lengths, torch.zeros(n))

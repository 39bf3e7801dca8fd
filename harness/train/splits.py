"""Splits as tensors on the device, and batches by index."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from backbones.batch import MODALITIES, Batch
from harness.data.dataset import SPLITS, Dataset, Split
from harness.data.occlusion import MaskField
from harness.matrix import Cell
from harness.train.device import free_bytes

EVALUATION_BATCH = 256


class ResidentSplit:
    """A split as tensors, on the device or in host memory.

    resident: "device" keeps the split on the device, "host" in host memory (each batch is copied when it is
    taken), "auto" on the device if it fits into a third of the free memory. On the CPU all are the same, and
    memory-mapped arrays stay mapped, so that workers share one copy. center: neutral label, which batches
    have as 0; ``labels_on_host`` (N,) are the batches' labels as a numpy array.
    """

    def __init__(
        self, split: Split, device: torch.device, resident: str = "auto", center: float = 0.0
    ) -> None:
        self.split = split
        self.labels_on_host = split.labels - np.float32(center) if center else split.labels
        self.device = device
        home = device if _on_device(split, device, resident) else torch.device("cpu")
        self.features = {m: torch.from_numpy(split.features[m]).to(home) for m in MODALITIES}
        self.lengths = {
            m: torch.from_numpy(np.ascontiguousarray(split.lengths[m])).to(home) for m in MODALITIES
        }
        self.labels = torch.from_numpy(np.ascontiguousarray(self.labels_on_host)).to(home)
        self.tokens = None if split.tokens is None else torch.from_numpy(split.tokens).to(home)

    def __len__(self) -> int:
        return len(self.split)

    def take(self, index: np.ndarray) -> Batch:
        """Return the clips at ``index`` (B,) as a batch on the device."""
        rows = torch.from_numpy(index).to(self.labels.device, non_blocking=True)

        def pick(tensor: Tensor) -> Tensor:
            clips = tensor.index_select(0, rows)
            if clips.device.type != self.device.type:
                clips = clips.pin_memory()
            return clips.to(self.device, non_blocking=True)

        return Batch(
            {m: pick(x) for m, x in self.features.items()},
            {m: pick(x) for m, x in self.lengths.items()},
            pick(self.labels),
            None if self.tokens is None else pick(self.tokens),
        )


def _on_device(split: Split, device: torch.device, resident: str) -> bool:
    if device.type != "cuda" or resident != "auto":
        return resident != "host"
    size = sum(x.nbytes for x in split.features.values())
    return size < free_bytes(device) / 3


class Splits(NamedTuple):
    """The splits of a dataset as tensors, and their mask fields for occlusion, by name."""

    resident: dict[str, ResidentSplit]
    fields: dict[str, MaskField]


def load_splits(cell: Cell, dataset: Dataset, device: torch.device, resident: str = "auto") -> Splits:
    """Load the splits of a dataset as tensors, with the mask fields of a cell."""
    splits = {name: dataset.splits[name] for name in SPLITS}
    return Splits(
        {
            name: ResidentSplit(split, device, resident, dataset.label_center)
            for name, split in splits.items()
        },
        {name: MaskField(cell.dataset, name, cell.mask_seed, split.ids) for name, split in splits.items()},
    )

"""Whether a network can be trained in the memory that there is, asked before it is made.

Without the question the system ends the process, which then can tell nobody why. What is free at the moment
is not asked: others give it back, and a worker keeps what its earlier cells have used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from backbones import BACKBONES
from backbones.base import Sizes
from harness.data.dataset import Dataset
from harness.errors import UserError
from harness.matrix import Cell

COPIES = 5  # of the weights: themselves, gradients, Adam's two moments, those of the best epoch
GROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_known: dict[tuple[Any, ...], int] = {}


def require_memory(cell: Cell, dataset: Dataset, device: torch.device) -> None:
    """Check that the weights of a cell's backbone, with their copies in training, fit into the memory.

    A text encoder is not counted.

    Raises:
        UserError: they do not.
    """
    widths = dataset.widths()
    if cell.text.encoder == "bert":
        layers = BACKBONES[cell.backbone].text_layers
        widths["text"] = 1 if cell.text.finetune else widths["text"] // layers
    sizes = Sizes(widths, dataset.steps(), cell.label_scale)
    count = weight_count(cell, sizes)
    need, there = COPIES * 4 * count, memory_bytes(device)
    if there is not None and need > there:
        raise UserError(
            f"{cell.backbone} has {count:,} weights on features as wide as these ({_listed(sizes.widths)}); "
            f"to train them takes {_gigabytes(need)}, and there are {_gigabytes(there)} of memory. "
            "Give narrower features, or leave this backbone out."
        )


def weight_count(cell: Cell, sizes: Sizes) -> int:
    """The number of weights of a cell's backbone, which is not made for that."""
    key = (cell.backbone, repr(cell.backbone_settings), *sizes.widths.values(), *sizes.steps.values())
    if key not in _known:
        with torch.device("meta"):
            backbone = BACKBONES[cell.backbone](cell.backbone_settings, sizes)
        _known[key] = sum(p.numel() for p in backbone.parameters())
    return _known[key]


def memory_bytes(device: torch.device) -> int | None:
    """Memory of a GPU, or of this machine with its swap; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    try:
        told = dict(re.findall(r"^(\w+): +(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE))
        there = 1024 * (int(told["MemTotal"]) + int(told["SwapTotal"]))
    except (OSError, KeyError):
        return None
    try:
        return min(there, int(GROUP_LIMIT.read_text()))  # of a container
    except (OSError, ValueError):
        return there


def _listed(widths: Mapping[str, int]) -> str:
    return ", ".join(f"{modality} {width:,}" for modality, width in widths.items())


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"

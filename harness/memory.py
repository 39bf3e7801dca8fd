"""Whether a network can be trained in the memory that is free, asked before it is made.

Without the question the system ends the process, which then can tell nobody why.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from backbones import BACKBONES
from backbones.base import Sizes
from harness.errors import UserError
from harness.matrix import Cell

COPIES = 5  # of the weights: themselves, gradients, Adam's two moments, those of the best epoch
GROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_known: dict[tuple[Any, ...], int] = {}


def require_memory(cell: Cell, sizes: Sizes, device: torch.device) -> None:
    """Check that the weights of a cell's backbone, and their copies in training, fit into what is free.

    Raises:
        UserError: they do not.
    """
    count = weight_count(cell, sizes)
    need, free = COPIES * 4 * count, free_bytes(device)
    if free is not None and need > free:
        raise UserError(
            f"{cell.backbone} has {count:,} weights on features as wide as these ({_listed(sizes.widths)}); "
            f"to train them takes {_gigabytes(need)}, and {_gigabytes(free)} are free. "
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


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free on a GPU, or on this machine with its swap; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        told = dict(re.findall(r"^(\w+): +(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE))
        free = 1024 * (int(told["MemAvailable"]) + int(told["SwapFree"]))
    except (OSError, KeyError):
        return None
    try:
        return min(free, int(GROUP_LIMIT.read_text()))  # that of a container
    except (OSError, ValueError):
        return free


def _listed(widths: Mapping[str, int]) -> str:
    return ", ".join(f"{modality} {width:,}" for modality, width in widths.items())


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"

"""The check that a network can be trained in this machine's memory, before it is built.

Without it the system kills the process, and nobody learns why. It asks for total memory, not for free memory:
others give it back, and a worker keeps what its earlier cells have used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import torch

from backbones import BACKBONES
from backbones.base import Sizes
from harness.data.dataset import Dataset
from harness.errors import UserError
from harness.matrix import Cell

COPIES = 5  # of the weights: themselves, gradients, Adam's two moments, those of the best epoch
GROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_counts: dict[tuple[Any, ...], int] = {}


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
    key = (cell.backbone, repr(cell.backbone_settings), *widths.values(), *sizes.steps.values())
    if key not in _counts:
        with torch.device("meta"):
            backbone = BACKBONES[cell.backbone](cell.backbone_settings, sizes)
        _counts[key] = sum(p.numel() for p in backbone.parameters())
    count = _counts[key]
    need, total = COPIES * 4 * count, memory_bytes(device)
    if need > total:
        listed = ", ".join(f"{modality} {width:,}" for modality, width in widths.items())
        raise UserError(
            f"{cell.backbone} has {count:,} weights on features as wide as these ({listed}); "
            f"to train them takes {need / 1e9:.1f} GB, and there are {total / 1e9:.1f} GB of memory. "
            "Give narrower features, or leave this backbone out."
        )


def memory_bytes(device: torch.device) -> int:
    """Memory of a GPU, or of this machine with its swap."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    total = int(psutil.virtual_memory().total + psutil.swap_memory().total)
    try:
        return min(total, int(GROUP_LIMIT.read_text()))  # of a container, which psutil does not see
    except (OSError, ValueError):
        return total

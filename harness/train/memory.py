"""The check that a network can be trained in the available memory, before it is built.

Otherwise the system kills the process without a message. The check uses total memory, not free memory: other
processes may release theirs, and a worker retains memory of its earlier cells.
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

COPIES = 5  # weights, gradients, Adam's two moments, and the weights of the best epoch
GROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_counts: dict[tuple[Any, ...], int] = {}


def require_memory(cell: Cell, dataset: Dataset, device: torch.device) -> None:
    """Check that the weights of a cell's backbone and their copies in training fit into memory.

    A text encoder is not counted.

    Raises:
        UserError: they do not fit.
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
            f"{cell.backbone} has {count:,} weights for features of these widths ({listed}); training needs "
            f"{need / 1e9:.1f} GB of memory, but there are only {total / 1e9:.1f} GB. "
            "Use narrower features, or leave this backbone out."
        )


def memory_bytes(device: torch.device) -> int:
    """Return the total memory of a GPU, or of this machine including swap, in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    total = int(psutil.virtual_memory().total + psutil.swap_memory().total)
    try:
        return min(total, int(GROUP_LIMIT.read_text()))  # a container's limit, which psutil ignores
    except (OSError, ValueError):
        return total

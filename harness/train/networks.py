"""The networks of a cell: the check of their memory, their initial weights, and their optimizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import torch

from backbones import BACKBONES
from backbones.base import Backbone, Sizes
from backbones.text import BertSettings, FrozenText, TextEncoder, TextSettings, load_model
from harness.data.dataset import Dataset
from harness.errors import UserError
from harness.matrix import FEATURES, Cell
from harness.train.device import total_bytes
from harness.train.seeds import seed_for
from methods import METHODS
from methods.base import Method

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
COPIES = 5  # weights, gradients, Adam's two moments, and the weights of the best epoch
GROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_counts: dict[tuple[Any, ...], int] = {}


def require_memory(cell: Cell, dataset: Dataset, device: torch.device) -> None:
    """Check that the weights of a cell's backbone and their copies in training fit into memory.

    Otherwise the system kills the process without a message. No text encoder is counted. The limit is total
    memory, not free memory: other processes may release theirs, and a worker retains that of earlier cells.

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
        return total_bytes(device)
    total = int(psutil.virtual_memory().total + psutil.swap_memory().total)
    try:
        return min(total, int(GROUP_LIMIT.read_text()))  # a container's limit, which psutil ignores
    except (OSError, ValueError):
        return total


def build(
    cell: Cell, dataset: Dataset, device: torch.device, text_model: Path | None = None
) -> tuple[Backbone, Method]:
    """Initialise backbone and method from separate seeds, so no method changes the backbone's weights."""
    kind, widths = BACKBONES[cell.backbone], dataset.widths()
    text: TextEncoder | FrozenText | None = None
    if cell.text.encoder == "bert":
        assert text_model is not None, "text=bert needs the folder of its model"
        if cell.text.finetune:
            text = TextEncoder(load_model(text_model), kind.text_layers)
            widths["text"] = text.width
        else:
            text = FrozenText(text_model, kind.text_layers, device)
            widths["text"] //= kind.text_layers
    torch.manual_seed(seed_for(cell.seed, "init"))
    backbone = kind(cell.backbone_settings, Sizes(widths, dataset.steps(), cell.label_scale))
    backbone.text_encoder = text
    torch.manual_seed(seed_for(cell.seed, "method_init"))
    method = METHODS[cell.method](cell.method_settings, backbone.latent_widths, cell.label_scale)
    return backbone.to(device), method.to(device)


def make_optimizer(
    backbone: Backbone, method: Method, text: TextSettings = FEATURES
) -> torch.optim.Optimizer:
    """Build the backbone's optimizer; method parameters join its main group, a text encoder gets its own."""
    rules = backbone.settings
    groups = backbone.parameter_groups()
    groups[0]["params"] = [*groups[0]["params"], *method.parameters()]
    for group in backbone.text_parameter_groups():
        assert isinstance(text, BertSettings), "a fine-tuned encoder has rates"
        groups.append({"lr": text.learning_rate, "weight_decay": text.weight_decay, **group})
    kind: Any = OPTIMIZERS[rules.optimizer]
    optimizer: torch.optim.Optimizer = kind(
        groups, lr=rules.learning_rate, weight_decay=rules.weight_decay, fused=True
    )
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer

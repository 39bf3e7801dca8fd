"""A cell's backbone and method with their initial weights, and their optimizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from backbones import BACKBONES
from backbones.base import Backbone, Sizes
from backbones.text import FrozenText, TextEncoder, load_model
from harness.data.dataset import Dataset
from harness.matrix import Cell
from harness.train.seeds import seed_for
from methods import METHODS
from methods.base import Method

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


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
    backbone: Backbone, method: Method, text_learning_rate: float = 0.0
) -> torch.optim.Optimizer:
    """Build the backbone's optimizer; method parameters join its main group, a text encoder gets its own."""
    rules = backbone.settings
    groups = backbone.parameter_groups()
    groups[0]["params"] = [*groups[0]["params"], *method.parameters()]
    if isinstance(backbone.text_encoder, nn.Module):
        # NOTE[DIFF] no weight decay: LMF's L2 term would shrink embeddings of words absent from training.
        text = list(backbone.text_encoder.parameters())
        groups.append({"params": text, "lr": text_learning_rate, "weight_decay": 0.0})
    kind: Any = OPTIMIZERS[rules.optimizer]
    optimizer: torch.optim.Optimizer = kind(
        groups, lr=rules.learning_rate, weight_decay=rules.weight_decay, fused=True
    )
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer

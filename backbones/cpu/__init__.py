"""Faster attention, dropout and LSTMs on the CPU; other devices use PyTorch's own."""

from __future__ import annotations

import torch
from torch import Tensor


def on_cpu(x: Tensor) -> bool:
    """Check whether x is on the CPU and operations run eagerly, not compiled."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()

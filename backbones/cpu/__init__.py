"""Attention, dropout and LSTMs, exact and faster on the CPU; everywhere else PyTorch's own."""

from __future__ import annotations

import torch
from torch import Tensor


def on_cpu(x: Tensor) -> bool:
    """Whether x is on the CPU and operations run as they are called, not compiled."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()

"""Where tensors are: the processor has ways of its own, faster there and waiting for values elsewhere."""

from __future__ import annotations

import torch
from torch import Tensor


def on_cpu(x: Tensor) -> bool:
    """Whether x is on the CPU and operations run as they are called, not compiled."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()

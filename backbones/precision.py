"""Full precision where autocast would round."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor


def full_precision(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which operations on the device of a tensor are not autocast."""
    kind = x.device.type
    available = torch.amp.is_autocast_available(kind)
    return torch.autocast(kind, enabled=False) if available else contextlib.nullcontext()

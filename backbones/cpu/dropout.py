"""Dropout with fast random numbers on the CPU.

On the CPU, PyTorch draws one Bernoulli number per entry, at about 12 ns each. At the size of MOSI, this is
most of the time of dropout on TFN's outer product, and several times that of the rest of MulT's attention.
Here, every mask comes from its own random stream with 16 bits per entry, at 0.5 ns each. The stream's seed is
drawn from PyTorch's generator, so `torch.manual_seed` determines it. Other devices use PyTorch's own dropout.

NOTE[DIFF] on the CPU, a dropout probability p is rounded to a multiple of 2^-16; kept entries are scaled by
1 / (1 - p) with the rounded p, so the expectation is exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones import cpu

LEVELS = 2**16


class Masks:
    """A stream of masks that are 0 with probability p (rounded), and else 1.

    The same seed, probability and sequence of shapes give the same masks.
    """

    def __init__(self, p: float, seed: int):
        self.dropped = round(p * LEVELS)
        self.scale = LEVELS / (LEVELS - self.dropped) if self.dropped < LEVELS else 0.0
        self._bits = np.random.SFC64(seed)

    def next(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return the next mask of zeros and ones."""
        if self.dropped == LEVELS:  # too large to compare with 16 bits
            return torch.zeros(*shape, dtype=dtype)
        n = math.prod(shape)
        words: Any = self._bits.random_raw(-(-n // 4))
        bits = torch.from_numpy(words.view(np.int16))[:n]
        mask = torch.empty(n, dtype=dtype)
        return torch.ge(bits, self.dropped - LEVELS // 2, out=mask).view(*shape)


def draw_seed() -> int:
    """Draw a seed in [0, 2^63 - 1) from PyTorch's CPU generator."""
    return int(torch.randint(2**63 - 1, ()))


class Dropout(nn.Dropout):
    """`torch.nn.Dropout` that uses `Masks` on the CPU. Any shape."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply dropout in training."""
        if not self.training or not self.p:
            return x
        if not cpu.on_cpu(x):
            return F.dropout(x, self.p)
        masks = Masks(self.p, draw_seed())
        return x * masks.next(x.shape, x.dtype).mul_(masks.scale)

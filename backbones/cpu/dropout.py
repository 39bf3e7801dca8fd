"""Dropout with cheap random numbers on the CPU.

PyTorch draws a CPU mask one Bernoulli number at a time, about 12 ns each: at MOSI size that is most of what
dropout on TFN's outer product costs, and several times what MulT's attention does besides. Here every mask
comes from a stream of its own, 16 random bits to an entry, 0.5 ns each. Its seed is drawn from PyTorch's
generator, so `torch.manual_seed` determines it as before. On other devices PyTorch's own dropout is used.

NOTE[DIFF] on the CPU, probabilities are rounded to multiples of 2^-16; kept entries are scaled by what the
rounded one asks for, so that the expectation is exact.
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
    """A stream of masks: 1 where an entry is kept, 0 where it is dropped, with probability p (rounded).

    seed: of the stream; the same seed, probability and order of shapes give the same masks.
    """

    def __init__(self, p: float, seed: int):
        self.dropped = round(p * LEVELS)
        self.scale = LEVELS / (LEVELS - self.dropped) if self.dropped < LEVELS else 0.0
        self._bits = np.random.SFC64(seed)

    def next(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """The next mask, of zeros and ones."""
        if self.dropped == LEVELS:  # beyond what 16 bits can be compared with
            return torch.zeros(*shape, dtype=dtype)
        n = math.prod(shape)
        words: Any = self._bits.random_raw(-(-n // 4))
        bits = torch.from_numpy(words.view(np.int16))[:n]
        mask = torch.empty(n, dtype=dtype)
        return torch.ge(bits, self.dropped - LEVELS // 2, out=mask).view(*shape)


def draw_seed() -> int:
    """A seed from PyTorch's generator of the CPU, in [0, 2^63 - 1)."""
    return int(torch.randint(2**63 - 1, ()))


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`, with the masks of this module on the CPU. Any shape."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop entries out in training."""
        if not self.training or not self.p:
            return x
        if not cpu.on_cpu(x):
            return F.dropout(x, self.p)
        masks = Masks(self.p, draw_seed())
        return x * masks.next(x.shape, x.dtype).mul_(masks.scale)

"""Last state of an LSTM, which skips padded steps on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from backbones import cpu

# Number of elements in a batch below which packing costs more than it saves.
SMALL = 100_000


def last_state(lstm: nn.LSTM, x: Tensor, lengths: Tensor) -> Tensor:
    """Return the state at the last valid step. Shape: x (B, T, width), lengths (B,) -> (B, hidden)."""
    if cpu.on_cpu(x) and x.numel() > SMALL:
        # In MOSI, three of four steps are padding.
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return lstm(packed)[1][0][0]
    return lstm(x)[0][torch.arange(len(x), device=x.device), lengths - 1]

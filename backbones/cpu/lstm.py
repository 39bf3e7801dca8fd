"""The last state of an LSTM, without steps of padding on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from backbones import cpu

# Numbers in a batch of sequences below which packing costs more than it saves.
SMALL = 100_000


def last_state(lstm: nn.LSTM, x: Tensor, lengths: Tensor) -> Tensor:
    """The state at the last valid step. Shape: x (B, T, width), lengths (B,) -> (B, hidden)."""
    if cpu.on_cpu(x) and x.numel() > SMALL:
        # Three of four steps are padding at MOSI's lengths.
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return lstm(packed)[1][0][0]
    return lstm(x)[0][torch.arange(len(x), device=x.device), lengths - 1]

"""States of LSTMs in full precision; the last state skips padded steps on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from backbones import cpu
from backbones.precision import full_precision

# Number of elements in a batch below which packing costs more than it saves.
SMALL = 100_000


def all_states(lstm: nn.LSTM, x: Tensor) -> Tensor:
    """Return the states at all steps, in the weights' precision. Shape: (B, T, width) -> (B, T, hidden)."""
    # Autocast would run cuDNN's LSTMs in float16 even where it is set to bfloat16 (PyTorch,
    # aten/src/ATen/cudnn/AutocastRNN.cpp); float16 needs gradient scaling.
    with full_precision(x):
        states: Tensor = lstm(_as_weights(lstm, x))[0]
    return states


def last_state(lstm: nn.LSTM, x: Tensor, lengths: Tensor) -> Tensor:
    """Return the state at the last valid step. Shape: x (B, T, width), lengths (B,) -> (B, hidden)."""
    if cpu.on_cpu(x) and x.numel() > SMALL:
        # In MOSI, three of four steps are padding.
        packed = pack_padded_sequence(_as_weights(lstm, x), lengths, batch_first=True, enforce_sorted=False)
        with full_precision(x):
            final: Tensor = lstm(packed)[1][0][0]
        return final
    return all_states(lstm, x)[torch.arange(len(x), device=x.device), lengths - 1]


def _as_weights(lstm: nn.LSTM, x: Tensor) -> Tensor:
    """Convert to the dtype of the weights; no copy if it is that already."""
    weight: Tensor = lstm.weight_ih_l0  # type: ignore[assignment]
    return x.to(weight.dtype)

"""Layers shared by several backbones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.batch import Latents
from backbones.cpu.dropout import Dropout
from backbones.cpu.lstm import all_states, last_state

POOLS = ("padded_mean", "masked_mean", "kept_mean")


class BatchNorm(nn.BatchNorm1d):
    """BatchNorm1d that uses its running statistics for a training batch of one. Shape: (B, D) -> (B, D)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise. Shape: as for the class."""
        # One example has no variance, and `nn.BatchNorm1d` raises an error.
        if self.training and len(x) == 1:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(x)


def time_mean(inputs: Latents, modality: str, pool: str) -> Tensor:
    """Compute the mean over time. Shape: (B, T, D) -> (B, D).

    pool: "padded_mean" divides by T, as for the published numbers; "masked_mean" divides by the length;
    "kept_mean" divides by the number of steps that occlusion left, and gives 0 if there are none.
    """
    values = inputs.values[modality]
    if pool == "padded_mean":
        return values.mean(1)
    count = inputs.lengths[modality]
    if pool == "kept_mean" and modality in inputs.kept:
        count = inputs.kept[modality].sum(1)
    return values.sum(1) / count.clamp_min(1)[:, None]


def at_last_step(states: Tensor, lengths: Tensor, padding: str) -> Tensor:
    """Select the last valid state ("valid") or the last padded one ("reference"). (B, T, H) -> (B, H)."""
    if padding == "reference":
        return states[:, -1]
    return states[torch.arange(len(states), device=states.device), lengths - 1]


class MeanSubnet(nn.Module):
    """Audio and vision sub-network of TFN and LMF: BatchNorm, dropout, three linear layers with ReLU.

    Shape: (B, width) -> (B, hidden).
    """

    def __init__(self, width: int, hidden: int, dropout: float):
        super().__init__()
        self.norm = BatchNorm(width)
        self.dropout = Dropout(dropout)
        self.layers = nn.ModuleList(nn.Linear(size, hidden) for size in (width, hidden, hidden))

    def forward(self, x: Tensor) -> Tensor:
        """Encode vectors. Shape: (B, width) -> (B, hidden)."""
        x = self.dropout(self.norm(x))
        for layer in self.layers:
            x = F.relu(layer(x))
        return x


class TextSubnet(nn.Module):
    """Text sub-network of TFN and LMF: one-layer LSTM, its state at the last valid step, linear layer.

    Shape: (B, T, width), lengths (B,) -> (B, out).
    """

    def __init__(self, width: int, hidden: int, out: int, padding: str):
        super().__init__()
        self.lstm = nn.LSTM(width, hidden, batch_first=True)
        self.linear = nn.Linear(hidden, out)
        self.padding = padding

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Encode sequences. Shape: (B, T, width) -> (B, out)."""
        # NOTE[DIFF] the reference reads the padded end of the sequence; `padding: reference` restores it.
        if self.padding == "reference":
            return self.linear(all_states(self.lstm, x)[:, -1])
        return self.linear(last_state(self.lstm, x, lengths))


class SubNetworks(nn.Module):
    """Three sub-networks of TFN and LMF. Shape: inputs (B, T_m, D_m) -> vectors (B, h_m)."""

    def __init__(self, text: TextSubnet, audio: MeanSubnet, vision: MeanSubnet, pool: str):
        super().__init__()
        self.text, self.audio, self.vision = text, audio, vision
        self.pool = pool

    def forward(self, inputs: Latents) -> Latents:
        """Encode each modality separately."""
        return Latents(
            {
                "text": self.text(inputs.values["text"], inputs.lengths["text"]),
                "audio": self.audio(time_mean(inputs, "audio", self.pool)),
                "vision": self.vision(time_mean(inputs, "vision", self.pool)),
            }
        )


def with_one(x: Tensor) -> Tensor:
    """Prepend a 1, which adds the lower-order terms to a tensor product. Shape: (B, D) -> (B, D + 1)."""
    return F.pad(x, (1, 0), value=1.0)

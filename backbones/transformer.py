"""Pre-norm Transformer encoder of MulT (Tsai et al., ACL 2019) and GLoMo, self- or cross-modal.

Target and source (if any) are scaled by sqrt(width), then positions (optional) are added and dropout is
applied. Each layer is LayerNorm, attention, residual, LayerNorm, width -> 4 width -> width with ReLU,
residual; a final LayerNorm follows. Linear weights are initialised Xavier-uniform, biases with 0. One matrix
projects queries, keys and values; as in the reference, it is initialised as a whole.

NOTE[DIFF] padded keys are masked; the reference attends to them. Without lengths, nothing is masked.
NOTE[DIFF] keys and values share one dropout of the source; the reference drops them out independently, which
needs a second normalisation of the source in every layer.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.batch import valid_steps
from backbones.cpu.attention import Layout, make_layout
from backbones.cpu.dropout import Dropout


class Dropouts(NamedTuple):
    """Dropout probabilities of attention weights, feed-forward units, residuals and inputs."""

    attention: float = 0.0
    relu: float = 0.0
    residual: float = 0.0
    embed: float = 0.0


class TransformerEncoder(nn.Module):
    """Encoder with attention from a target to itself or to a source.

    positions: add sinusoidal positions to the valid steps. band: a query attends to keys up to its own index
    plus |T_target - T_source|, so self-attention is causal.
    Shape: target (B, T, width), source (B, S, width), lengths (B,), at least 1 -> (B, T, width), undefined
    in padded steps.
    """

    def __init__(
        self,
        width: int,
        n_heads: int,
        n_layers: int,
        dropouts: Dropouts,
        positions: bool = False,
        band: bool = False,
    ):
        super().__init__()
        self.layers = nn.ModuleList([EncoderLayer(width, n_heads, dropouts) for _ in range(n_layers)])
        self.norm = nn.LayerNorm(width)
        self.embed_dropout = Dropout(dropouts.embed)
        self.scale = math.sqrt(width)
        self.n_heads, self.positions, self.band = n_heads, positions, band

    def forward(
        self,
        target: Tensor,
        target_lengths: Tensor | None = None,
        source: Tensor | None = None,
        source_lengths: Tensor | None = None,
    ) -> Tensor:
        """Encode the target, which attends to itself if there is no source; None lengths: all steps valid."""
        keys = target if source is None else source
        reach = abs(target.shape[1] - keys.shape[1]) if self.band else None
        layout = make_layout(
            target,
            target_lengths,
            keys,
            target_lengths if source is None else source_lengths,
            reach,
            self.n_heads,
        )
        x = self.embed_dropout(layout.targets.pack(self.embed(target, target_lengths)))
        y = None
        if source is not None:
            y = self.embed_dropout(layout.sources.pack(self.embed(source, source_lengths)))
        for layer in self.layers:
            x = layer(x, y, layout)
        return layout.targets.unpack(self.norm(x))

    def embed(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Scale and add positions. Shape: (B, T, width) -> (B, T, width)."""
        embedded = self.scale * x
        if self.positions:
            table = sinusoids(x.shape[1], x.shape[2], x.device).to(x.dtype)
            if lengths is not None:
                table = table * valid_steps(lengths, x.shape[1])[..., None]
            embedded = embedded + table
        return embedded


class EncoderLayer(nn.Module):
    """One layer; its first LayerNorm also normalises the source. Shape: as packed by the layout."""

    def __init__(self, width: int, n_heads: int, dropouts: Dropouts):
        super().__init__()
        self.attention = Attention(width, n_heads, dropouts.attention)
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.widen, self.narrow = xavier_linear(width, 4 * width), xavier_linear(4 * width, width)
        self.relu_dropout = Dropout(dropouts.relu)
        self.residual_dropout = Dropout(dropouts.residual)

    def forward(self, x: Tensor, source: Tensor | None, layout: Layout) -> Tensor:
        """Apply the layer. Shape: x (..., width), source (..., width) or None -> as x."""
        keys = None if source is None else self.norm_1(source)
        x = x + self.residual_dropout(self.attention(self.norm_1(x), keys, layout))
        hidden = self.relu_dropout(F.relu(self.widen(self.norm_2(x))))
        return x + self.residual_dropout(self.narrow(hidden))


class Attention(nn.Module):
    """Multi-head attention. Shape: as packed by the layout, (..., width)."""

    def __init__(self, width: int, n_heads: int, dropout: float):
        super().__init__()
        self.projection = xavier_linear(width, 3 * width)  # rows: queries, keys, values
        self.output = xavier_linear(width, width)
        self.n_heads, self.dropout = n_heads, dropout

    def forward(self, x: Tensor, source: Tensor | None, layout: Layout) -> Tensor:
        """Attend from x to the source, or to x itself if the source is None."""
        if source is None:
            queries, keys, values = self.projection(x).chunk(3, -1)
        else:
            weight, bias, width = self.projection.weight, self.projection.bias, x.shape[-1]
            queries = F.linear(x, weight[:width], bias[:width])
            keys, values = F.linear(source, weight[width:], bias[width:]).chunk(2, -1)
        dropout = self.dropout if self.training else 0.0
        return self.output(layout.attend(queries, keys, values, dropout))


def sinusoids(steps: int, width: int, device: torch.device) -> Tensor:
    """Compute encodings of positions 1 to steps: sines, cosines, and a 0 if the width is odd.

    The width // 2 frequencies decrease geometrically from 1 to 1/10000. Shape: (steps, width), float32.
    """
    half = width // 2
    frequencies = torch.exp(torch.arange(half, device=device) * (-math.log(1e4) / max(half - 1, 1)))
    angles = torch.arange(1, steps + 1, device=device)[:, None] * frequencies
    return F.pad(torch.cat([angles.sin(), angles.cos()], 1), (0, width % 2))


def xavier_linear(inputs: int, outputs: int) -> nn.Linear:
    """Create a linear layer with Xavier-uniform weights and zero biases."""
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer

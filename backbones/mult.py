"""MulT: Multimodal Transformer (Tsai et al., ACL 2019, arXiv 1906.00295).

What it computes: 1-D convolutions (no padding, no bias; dropout on raw text) map each modality from
(B, T_m, D_m) to (B, T_m', d), T_m' = T_m - kernel + 1. Each target modality attends to each of the two others
in a cross-modal encoder of n_layers layers (backbones/transformer.py), which gives six outputs (B, T_m', d).
The two outputs of a target are concatenated (B, T_m', 2d) and read by a memory encoder of max(n_layers, 3)
layers, whose state at the last step summarises the target. A query attends to keys up to its own index plus
|T_q' - T_k'|, so memory encoders are causal. The three summaries are concatenated (B, 6d) and go through a
residual block, 6d -> 6d -> 6d; the head is linear.

Mix point (layer 1): the convolutions' outputs, sequences (B, T_m', d) with max(1, length - kernel + 1) valid
steps, zero in padded steps. Layer 2: the output of the residual block (B, 6d).
Losses: L1 on the label. Optimizer: Adam, learning rate divided by 10 on plateaus of the validation loss;
gradients summed over 8 batches, each entry clipped after every batch; early stopping after 8 epochs.
Defaults per dataset: MMSA's config_regression.json (thuiar/MMSA, commit a94e65d). Cross-modal encoders use
the attention dropout of their source, memory encoders that of text.

NOTE[DIFF] encoders add no positions, as in MMSA's release; those of the paper do (`positions: true`; with
`padding: reference`, padded steps get positions, too, but not in the authors' code).
NOTE[DIFF] padded keys are masked, and the summary is the state at the last valid step. The reference masks
nothing and reads the padded end; `padding: reference` restores both and mixes padded steps like valid ones.
NOTE[DIFF] keys and values of an encoder share one dropout of the source (backbones/transformer.py).
NOTE[DIFF] sequences shorter than the kernel are padded to its size; the reference fails on them.
NOTE[DIFF] features of width d are convolved too; the reference passes them on unchanged.
NOTE[DIFF] an epoch's last batches count even if they are fewer than 8; the reference drops their gradients.
NOTE[DIFF] weight_decay is 0; the reference lists one per dataset but does not pass it to its optimizer.
NOTE[DIFF] max_epochs = 200 limits the training; the reference only stops early. Its validation loss is the
mean over the batches of a shuffled split, rounded to four digits; ours is that of the split, unrounded.
NOTE[DIFF] the reference trains no text encoder; with `text=bert`, its rates are this project's choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.base import Backbone, BackboneSettings, Fused, Sizes, by_dataset, by_modality
from backbones.batch import MODALITIES, Latents, valid_steps
from backbones.blocks import at_last_step
from backbones.cpu.dropout import Dropout
from backbones.settings import check
from backbones.transformer import Dropouts, TransformerEncoder


@dataclass(frozen=True)
class MulTSettings(BackboneSettings):
    """Settings of MulT; None: the published value for the dataset.

    latent_dim: d, divisible by n_heads. n_layers: layers of the cross-modal encoders. *_kernel: kernel sizes
    of the convolutions. text_dropout: on raw text. *_attn_dropout: on attention weights, by source modality.
    relu_dropout, residual_dropout, embed_dropout: in the encoders. output_dropout: in the residual block.
    positions: add sinusoidal positions.
    """

    grad_clip: float | None = None
    gradient_accumulation: int | None = 8
    schedule: str = "plateau"
    plateau_patience: int | None = None
    latent_dim: int | None = None
    n_heads: int | None = None
    n_layers: int | None = None
    text_kernel: int | None = None
    audio_kernel: int | None = None
    vision_kernel: int | None = None
    text_dropout: float | None = None
    text_attn_dropout: float | None = None
    audio_attn_dropout: float | None = None
    vision_attn_dropout: float | None = None
    relu_dropout: float | None = None
    residual_dropout: float | None = None
    embed_dropout: float | None = None
    output_dropout: float | None = None
    positions: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.latent_dim is not None and self.n_heads is not None:
            divisible = self.latent_dim % self.n_heads == 0
            check(self, "latent_dim", divisible, f"divisible by n_heads = {self.n_heads}")


_PUBLISHED = {  # mosi, mosei, sims, simsv2
    "batch_size": (16, 4, 16, 16),
    "learning_rate": (0.002, 0.0005, 0.002, 0.0005),
    "weight_decay": (0.0, 0.0, 0.0, 0.0),
    "plateau_patience": (5, 20, 10, 10),
    "grad_clip": (0.6, 0.6, 0.6, 1.0),
    "latent_dim": (50, 30, 50, 30),
    "n_heads": (10, 6, 10, 6),
    "n_layers": (4, 4, 2, 4),
    "text_kernel": (5, 5, 5, 5),
    "audio_kernel": (5, 1, 1, 3),
    "vision_kernel": (5, 3, 1, 1),
    "text_dropout": (0.5, 0.3, 0.3, 0.5),
    "text_attn_dropout": (0.3, 0.4, 0.2, 0.1),
    "audio_attn_dropout": (0.2, 0.0, 0.1, 0.2),
    "vision_attn_dropout": (0.0, 0.0, 0.0, 0.0),
    "relu_dropout": (0.0, 0.0, 0.0, 0.1),
    "residual_dropout": (0.0, 0.0, 0.2, 0.0),
    "embed_dropout": (0.2, 0.0, 0.1, 0.2),
    "output_dropout": (0.5, 0.5, 0.1, 0.3),
}


class MulT(Backbone):
    """Multimodal Transformer; the module docstring describes the model."""

    name = "mult"
    title = "MulT"
    citation = "Tsai et al., Multimodal Transformer for Unaligned Multimodal Language Sequences, ACL 2019"
    Settings = MulTSettings
    published = by_dataset(_PUBLISHED)

    def __init__(self, settings: MulTSettings, sizes: Sizes):
        super().__init__(settings, sizes)
        s: Any = settings  # resolved: no field is None
        d, heads, layers = s.latent_dim, s.n_heads, s.n_layers
        self.convolutions = nn.ModuleDict(
            {m: nn.Conv1d(sizes.widths[m], d, getattr(s, f"{m}_kernel"), bias=False) for m in MODALITIES}
        )
        dropouts = {
            m: Dropouts(getattr(s, f"{m}_attn_dropout"), s.relu_dropout, s.residual_dropout, s.embed_dropout)
            for m in MODALITIES
        }
        self.cross, self.memories = nn.ModuleDict(), nn.ModuleDict()
        for target in MODALITIES:
            for source in others(target):
                self.cross[f"{target}_from_{source}"] = TransformerEncoder(
                    d, heads, layers, dropouts[source], s.positions, band=True
                )
            self.memories[target] = TransformerEncoder(
                2 * d, heads, max(layers, 3), dropouts["text"], s.positions, band=True
            )
        self.text_dropout, self.output_dropout = Dropout(s.text_dropout), nn.Dropout(s.output_dropout)
        self.residual_1, self.residual_2 = nn.Linear(6 * d, 6 * d), nn.Linear(6 * d, 6 * d)
        self.output = nn.Linear(6 * d, 1)

    @property
    def latent_widths(self) -> dict[str, int]:
        """Widths of the modalities' sequences."""
        d = self.settings.latent_dim
        return by_modality(d, d, d)

    def encode(self, inputs: Latents) -> Latents:
        """Convolve each modality. Shape: (B, T_m, D_m) -> (B, T_m', d)."""
        values, lengths = {}, {}
        for m in MODALITIES:
            x, convolution = inputs.values[m], self.convolutions[m]
            projected = convolve(convolution, self.text_dropout(x) if m == "text" else x)
            lengths[m] = self._lengths_after(convolution, inputs.lengths[m], projected.shape[1])
            values[m] = projected * valid_steps(lengths[m], projected.shape[1])[..., None]
        return Latents(values, lengths)

    def _lengths_after(self, convolution: Any, lengths: Tensor, steps: int) -> Tensor:
        """Compute the valid steps of the convolution's output. Shape: (B,) -> (B,)."""
        if self.settings.padding == "reference":
            return torch.full_like(lengths, steps)
        return (lengths - convolution.kernel_size[0] + 1).clamp_min(1)

    def fuse(self, latents: Latents, n_clean: int) -> Fused:
        """Fuse the sequences. Shape: (B, T_m', d) -> (B, 6d)."""
        summary = torch.cat([self._summary(latents, m) for m in MODALITIES], 1)
        hidden = self.output_dropout(F.relu(self.residual_1(summary)))
        return Fused(summary + self.residual_2(hidden))

    def _summary(self, latents: Latents, target: str) -> Tensor:
        """Summarise a target after attention to the other modalities. Shape: (B, T_m', d) -> (B, 2d)."""
        x, lengths = latents.values, latents.lengths
        attended = [
            self.cross[f"{target}_from_{source}"](x[target], lengths[target], x[source], lengths[source])
            for source in others(target)
        ]
        states = self.memories[target](torch.cat(attended, -1), lengths[target])
        return at_last_step(states, lengths[target], self.settings.padding)

    def head(self, representation: Tensor) -> Tensor:
        """Predict sentiment. Shape: (B, 6d) -> (B,)."""
        return self.output(representation)[:, 0]


def others(target: str) -> list[str]:
    """List the sources of a target: the other modalities in their usual order."""
    return [m for m in MODALITIES if m != target]


def convolve(convolution: nn.Module, x: Tensor) -> Tensor:
    """Convolve over time, padding inputs shorter than the kernel. Shape: (B, T, D) -> (B, T', d)."""
    assert isinstance(convolution, nn.Conv1d)
    missing = max(convolution.kernel_size[0] - x.shape[1], 0)
    return convolution(F.pad(x.transpose(1, 2), (0, missing))).transpose(1, 2)

"""MISA: Modality-Invariant and -Specific Representations (Hazarika et al., ACM MM 2020, arXiv 2005.03545).

What it computes: text is the mean of its valid states (B, D_t). Audio and vision go through two stacked
bidirectional LSTMs of hidden size D_m with LayerNorm(2 D_m) between them; the final states of both are
concatenated (B, 4 D_m). A linear layer, ReLU and LayerNorm map each modality to z^m (B, d). A private encoder
per modality and a shared encoder (linear, sigmoid) give p^m and s^m (B, d). One post-norm transformer layer
(2 heads, feed-forward 2048) processes these six vectors as a sequence (B, 6, d); it is followed by flattening
(B, 6d), linear to 3d, dropout and ReLU; the head is linear.

Mix point (layer 1): z^m (B, d). Layer 2: the output of the ReLU (B, 3d).
Losses: MSE on the label + diff_weight * difference (sum of soft orthogonality over the three pairs p^m, s^m
and the three pairs of p) + sim_weight * similarity (mean central moment discrepancy of 5 moments between the
three pairs of s) + recon_weight * reconstruction (mean MSE of a linear layer on p^m + s^m against z^m). All
but the first use clean examples only. `use_cmd_sim: false` is the paper's adversarial variant, in which a
discriminator of the modality of each s^m, with gradient reversal, replaces the discrepancy.
Optimizer: Adam, gradients of two batches summed, each entry clipped; early stopping after 8 epochs.
Defaults per dataset: MMSA's config_regression.json (thuiar/MMSA, commit a94e65d). MMSA's trainer ignores the
weight_decay and sp_weight listed there; here, weight_decay is 0 and sp_weight does not exist.

NOTE[DIFF] text consists of fixed features by default. The reference accepts BERT only and trains it in the
same optimizer, as `text=bert` does: learning rate 1e-4, no weight decay. Published results are with BERT.
NOTE[DIFF] audio and vision are read up to their own lengths. The reference packs them by the length of text,
so it only reads the first steps of unaligned clips (`padding: reference` restores this).
NOTE[DIFF] sequences are not packed; an index reverses the valid steps for the backward direction. The
arithmetic is the same, but lengths are not copied to the host, and a training step on clips of different
lengths is several times as fast on a CPU.
NOTE[DIFF] the reference's linear layer to 4 classes and its LayerNorm for text, both unused, are left out.
NOTE[DIFF] an epoch's last batch counts even if it has no partner; the reference drops its gradients.
NOTE[DIFF] 1e-12 is added under the discrepancy's square roots, whose gradient is NaN for equal batches.
NOTE[DIFF] max_epochs = 200 limits the training; the reference only stops early. Its validation loss is the
mean over the batches of a shuffled split, rounded to four digits; ours is that of the split, unrounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.base import Backbone, BackboneSettings, Fused, Sizes, by_dataset, by_modality
from backbones.batch import MODALITIES, Latents
from backbones.blocks import at_last_step, time_mean
from backbones.cpu.dropout import Dropout
from backbones.cpu.lstm import all_states
from backbones.settings import check

MOMENTS = 5


@dataclass(frozen=True)
class MISASettings(BackboneSettings):
    """Settings of MISA; None: the published value for the dataset.

    latent_dim: width d of the latents. transformer_*: number of heads, feed-forward width and dropout
    probability of the transformer layer. fusion_dropout: dropout probability after it. *_weight: weights of
    the losses; reverse_grad_weight: factor of the reversed gradient. use_cmd_sim: measure similarity by
    central moment discrepancy; otherwise by a discriminator.
    """

    criterion: str = "mse"
    gradient_accumulation: int | None = 2
    grad_clip: float | None = None
    latent_dim: int | None = None
    transformer_heads: int = 2
    transformer_hidden: int = 2048
    transformer_dropout: float = 0.1
    fusion_dropout: float | None = None
    diff_weight: float | None = None
    sim_weight: float | None = None
    recon_weight: float | None = None
    use_cmd_sim: bool = True
    reverse_grad_weight: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        whole = not (self.latent_dim or 0) % self.transformer_heads
        check(self, "latent_dim", whole, f"a multiple of transformer_heads={self.transformer_heads}")


def reversal(lengths: Tensor, steps: int) -> Tensor:
    """Return an index that reverses the valid steps and keeps the padding. Shape: (B,) -> (B, steps)."""
    step = torch.arange(steps, device=lengths.device)
    index = lengths[:, None] - 1 - step
    return torch.where(index >= 0, index, step)


class _Reverse(torch.autograd.Function):
    """Rows by an index that is its own inverse, so that the gradient needs no sum over equal rows.

    On CUDA, `torch.take_along_dim` sorts for it. Shape: x (B, T, D), index (B, T, 1) -> as x.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> Tensor:
        """Select the rows."""
        ctx.save_for_backward(index)
        return torch.take_along_dim(x, index, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Select the rows of the gradient."""
        (index,) = ctx.saved_tensors
        return reverse(gradient, index), None


def reverse(x: Tensor, index: Tensor) -> Tensor:
    """Reverse the valid steps, given the index of `reversal`. Shape: (B, T, D), (B, T, 1) -> (B, T, D)."""
    reversed_steps: Tensor = _Reverse.apply(x, index)
    return reversed_steps


class BidirectionalLSTM(nn.Module):
    """Bidirectional LSTM over the valid steps. Shape: (B, T, width) -> states (B, T, 2 hidden)."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.ahead = nn.LSTM(width, hidden, batch_first=True)
        self.back = nn.LSTM(width, hidden, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return states (B, T, 2 hidden), undefined in padded steps, and both final states (B, 2 hidden)."""
        index = reversal(lengths, x.shape[1])[..., None]
        ahead = all_states(self.ahead, x)
        back = all_states(self.back, reverse(x, index))
        final = [at_last_step(states, lengths, "valid") for states in (ahead, back)]
        return torch.cat([ahead, reverse(back, index)], -1), torch.cat(final, -1)


class RecurrentSubnet(nn.Module):
    """Audio and vision encoder: two bidirectional LSTMs, LayerNorm between them. (B, T, D) -> (B, 4 D)."""

    def __init__(self, width: int):
        super().__init__()
        self.first = BidirectionalLSTM(width, width)
        self.norm = nn.LayerNorm(2 * width)
        self.second = BidirectionalLSTM(2 * width, width)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return the concatenated final states of both LSTMs."""
        states, final = self.first(x, lengths)
        return torch.cat([final, self.second(self.norm(states), lengths)[1]], -1)


class Discriminator(nn.Module):
    """Classifier of the modality of shared vectors, with gradient reversal. Scalar loss."""

    def __init__(self, width: int, dropout: float, reverse_grad_weight: float):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), Dropout(dropout), nn.Linear(width, len(MODALITIES))
        )
        self.reverse_grad_weight = reverse_grad_weight

    def forward(self, shared: Mapping[str, Tensor]) -> Tensor:
        """Compute the mean cross-entropy. Shape: shared[m] (n, d) -> scalar."""
        x = torch.cat([shared[m] for m in MODALITIES])
        # This has the value of x and the gradient of -reverse_grad_weight * x.
        x = x.detach() - self.reverse_grad_weight * (x - x.detach())
        target = torch.arange(len(MODALITIES), device=x.device).repeat_interleave(len(x) // len(MODALITIES))
        return F.cross_entropy(self.layers(x), target)


def soft_orthogonality(x: Tensor, y: Tensor) -> Tensor:
    """Compute the mean squared entry of X^T Y after centring over the batch and scaling rows to norm 1.

    As in the reference, the norms carry no gradient. Shape: (n, d), (n, d) -> scalar.
    """
    x, y = x - x.mean(0), y - y.mean(0)
    x, y = (z / (z.norm(dim=1, keepdim=True).detach() + 1e-6) for z in (x, y))
    return (x.T @ y).square().mean()


def central_moment_discrepancy(x: Tensor, y: Tensor) -> Tensor:
    """Sum the distances of means and of central moments 2 to 5. Shape: (n, d), (n, d) -> scalar."""

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return ((a - b).square().sum() + 1e-12).sqrt()

    total = distance(x.mean(0), y.mean(0))
    x, y = x - x.mean(0), y - y.mean(0)
    for moment in range(2, MOMENTS + 1):
        total = total + distance(x.pow(moment).mean(0), y.pow(moment).mean(0))
    return total


class MISA(Backbone):
    """Modality-Invariant and -Specific Representations; the module docstring describes the model."""

    name = "misa"
    title = "MISA"
    citation = (
        "Hazarika et al., MISA: Modality-Invariant and -Specific Representations for "
        "Multimodal Sentiment Analysis, ACM MM 2020"
    )
    Settings = MISASettings
    published = by_dataset(
        {
            "batch_size": (16, 64, 64, 16),
            "learning_rate": (0.0001, 0.0001, 0.0001, 0.0001),
            "weight_decay": (0.0, 0.0, 0.0, 0.0),
            "grad_clip": (0.8, 0.8, 1.0, 0.8),
            "latent_dim": (128, 128, 128, 64),
            "fusion_dropout": (0.2, 0.5, 0.0, 0.5),
            "diff_weight": (0.1, 0.3, 0.3, 0.5),
            "sim_weight": (0.3, 0.8, 1.0, 1.0),
            "recon_weight": (1.0, 1.0, 0.8, 0.5),
            "reverse_grad_weight": (0.8, 0.8, 0.5, 0.5),
        }
    )
    published_text = {"learning_rate": 1e-4, "weight_decay": 0.0}

    def __init__(self, settings: MISASettings, sizes: Sizes):
        super().__init__(settings, sizes)
        s: Any = settings  # resolved: no field is None
        d, widths = s.latent_dim, sizes.widths
        self.recurrent = nn.ModuleDict({m: RecurrentSubnet(widths[m]) for m in ("audio", "vision")})
        pooled = by_modality(widths["text"], 4 * widths["audio"], 4 * widths["vision"])
        self.project = nn.ModuleDict(
            {m: nn.Sequential(nn.Linear(pooled[m], d), nn.ReLU(), nn.LayerNorm(d)) for m in MODALITIES}
        )
        self.private = nn.ModuleDict({m: nn.Sequential(nn.Linear(d, d), nn.Sigmoid()) for m in MODALITIES})
        self.shared = nn.Sequential(nn.Linear(d, d), nn.Sigmoid())
        self.reconstruct = nn.ModuleDict({m: nn.Linear(d, d) for m in MODALITIES})
        self.transformer = nn.TransformerEncoderLayer(
            d, s.transformer_heads, s.transformer_hidden, s.transformer_dropout, batch_first=True
        )
        self.fusion = nn.Sequential(nn.Linear(6 * d, 3 * d), Dropout(s.fusion_dropout), nn.ReLU())
        self.output = nn.Linear(3 * d, 1)
        if not s.use_cmd_sim:
            self.discriminator = Discriminator(d, s.fusion_dropout, s.reverse_grad_weight)

    @property
    def latent_widths(self) -> dict[str, int]:
        """Width d for each modality."""
        d = self.settings.latent_dim
        return by_modality(d, d, d)

    def encode(self, inputs: Latents) -> Latents:
        """Encode sequences as vectors. Shape: (B, T_m, D_m) -> (B, d)."""
        pooled = {"text": time_mean(inputs, "text", "masked_mean")}
        for m, subnet in self.recurrent.items():
            x, lengths = inputs.values[m], inputs.lengths[m]
            if self.settings.padding == "reference":
                lengths = inputs.lengths["text"].clamp_max(x.shape[1])
            pooled[m] = subnet(x, lengths)
        return Latents({m: self.project[m](pooled[m]) for m in MODALITIES})

    def fuse(self, latents: Latents, n_clean: int) -> Fused:
        """Fuse (B, d) to (B, 3d), with the weighted auxiliary losses of the first n_clean rows."""
        private = {m: self.private[m](latents.values[m]) for m in MODALITIES}
        shared = {m: self.shared(latents.values[m]) for m in MODALITIES}
        tokens = torch.stack([*private.values(), *shared.values()], 1)  # (B, 6, d)
        clean = ({m: x[:n_clean] for m, x in part.items()} for part in (latents.values, private, shared))
        return Fused(self.fusion(self.transformer(tokens).flatten(1)), self._auxiliary(*clean))

    def _auxiliary(
        self, latents: Mapping[str, Tensor], private: Mapping[str, Tensor], shared: Mapping[str, Tensor]
    ) -> Tensor:
        """Sum the weighted difference, similarity and reconstruction. Shape: (n, d) each -> scalar."""
        s = self.settings
        pairs = [(private[m], shared[m]) for m in MODALITIES] + list(combinations(private.values(), 2))
        difference = sum(soft_orthogonality(x, y) for x, y in pairs)
        errors = [F.mse_loss(self.reconstruct[m](private[m] + shared[m]), latents[m]) for m in MODALITIES]
        reconstruction = torch.stack(errors).mean()
        return (
            s.diff_weight * difference
            + s.sim_weight * self._similarity(shared)
            + s.recon_weight * reconstruction
        )

    def _similarity(self, shared: Mapping[str, Tensor]) -> Tensor:
        """Return the mean discrepancy of pairs, or the discriminator's loss. Shape: (n, d) each -> scalar."""
        if not self.settings.use_cmd_sim:
            loss: Tensor = self.discriminator(shared)
            return loss
        pairs = combinations((shared[m] for m in MODALITIES), 2)
        return torch.stack([central_moment_discrepancy(x, y) for x, y in pairs]).mean()

    def head(self, representation: Tensor) -> Tensor:
        """Predict sentiment. Shape: (B, 3d) -> (B,)."""
        return self.output(representation)[:, 0]

"""GLoMo: Global-Local Modal fusion (Zhuang et al., ACM MM 2024, doi 10.1145/3664647.3681527).

What it computes, with d = model_dim and G = granularity: a coarse vector (B, d) and a fine map (B, G, d) per
modality. Text: coarse = linear layer on the first token's last state; fine = the states of the last two
layers, concatenated in time (last layer first), convolved (kernel 3) to d and adaptively max-pooled to G
steps. Audio, vision: convolution to d, then a pre-norm Transformer encoder with sinusoidal positions
(transformer.py); coarse = maximum over time, fine = adaptive max-pool. A sparsely gated mixture of experts
(experts.py) maps each flattened fine map (B, G d) to (B, d).

Mix point (layer 1): coarse and fine vector of each modality, concatenated (B, 2d), so that both use the same
pairs and lambda. Fusion: the six vectors go through post-norm Transformer layers as a sequence. Weights
are computed over the three coarse and the three fine vectors. f_all = linear layer on both weighted sums;
f_m = linear layer on the two vectors of modality m. Layer 2: f_all and the sum of the f_m with the coarse
weights, concatenated (B, 2d); the head is linear.

Losses: L1 on the label + balance_weight * (importance and load losses of the three mixtures, in training, on
clean rows). Optimizer: AdamW; biases and BERT's LayerNorms have no weight decay, the other LayerNorms do.
Linear layers are initialised as in BERT, weights from N(0, 0.02^2) and biases 0, except for the joint
projections of queries, keys and values (Xavier-uniform).
Defaults, the same for every dataset: the command line of MS-Mix's released trainer (commit 1746664).
Text features replace the states of both layers; their first step replaces the first token. With fewer steps
than G, the bins of the adaptive pool overlap; with one step, all bins hold that step.

NOTE[DIFF] text consists of fixed features by default. The reference always trains BERT in the same
optimizer, as `text=bert` does: learning rate 4e-5, weight decay 1e-4. Published results are with BERT.
NOTE[DIFF] audio and vision have their own steps. The reference's are word by word, repeated for each of at
most 60 BERT tokens, and zero at [CLS] and [SEP]; its features are others (audio 74 wide, vision 47 or 35).
NOTE[DIFF] attention and pooling ignore padded steps. With `padding: reference` nothing is masked and, as in
the reference, a step gets a position if the convolution's first channel is not 0, up to one step beyond the
clip; but BERT's states at padded tokens are 0 here, not in the reference.
NOTE[DIFF] the learning rate is constant and one optimizer is used for the whole run. The reference creates a
new optimizer, without moments, in every epoch, and divides the rate by 10 from the 81st epoch on.
NOTE[DIFF] training stops after 8 epochs without a lower validation loss, and the best epoch counts. The
reference trains 100 epochs and reports the one with the best mean of six test metrics.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from backbones.base import KINDS, Backbone, BackboneSettings, Fused, Sizes, by_modality
from backbones.batch import MODALITIES, Latents, valid_steps
from backbones.cpu.dropout import Dropout
from backbones.experts import WEIGHT_DEVIATION, SparseExperts
from backbones.settings import check
from backbones.transformer import Dropouts, TransformerEncoder, sinusoids


@dataclass(frozen=True)
class GLoMoSettings(BackboneSettings):
    """Settings of GLoMo; None: the published value for the dataset.

    model_dim: width d after the convolutions. n_heads: heads of every attention layer. encoder_layers:
    Transformer layers of audio and vision. fusion_layers, feedforward_dim: number and feed-forward width of
    the fusion's Transformer layers. granularity: G, steps of a fine map. n_experts: experts per modality, of
    which each example uses top_k. *_dropout: in the encoders (attention, relu, residual, embed), the fusion's
    layers and the weights over three vectors (weighting). balance_weight: weight of the experts' losses.
    """

    optimizer: str = "adamw"
    max_epochs: int = 100
    model_dim: int = 96
    n_heads: int = 16
    encoder_layers: int = 2
    fusion_layers: int = 2
    feedforward_dim: int = 2048
    granularity: int = 3
    n_experts: int = 3
    top_k: int = 2
    attention_dropout: float = 0.5
    relu_dropout: float = 0.3
    residual_dropout: float = 0.3
    embed_dropout: float = 0.2
    fusion_dropout: float = 0.1
    weighting_dropout: float = 0.3
    balance_weight: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "granularity", self.granularity >= 1, "at least 1")
        check(self, "n_experts", self.n_experts >= 1, "at least 1")
        check(self, "top_k", 1 <= self.top_k <= self.n_experts, f"in 1 .. n_experts = {self.n_experts}")
        whole = self.model_dim % self.n_heads == 0
        check(self, "model_dim", whole, f"a multiple of n_heads = {self.n_heads}")


class GLoMo(Backbone):
    """Global-Local Modal fusion; the module docstring describes the model."""

    name = "glomo"
    title = "GLoMo"
    citation = "Zhuang et al., GLoMo: Global-Local Modal Fusion for Multimodal Sentiment Analysis, MM 2024"
    Settings = GLoMoSettings
    published = {like: {"batch_size": 64, "learning_rate": 4e-5, "weight_decay": 1e-4} for like in KINDS}
    published_text = {"learning_rate": 4e-5, "weight_decay": 1e-4}
    text_layers = 2

    def __init__(self, settings: GLoMoSettings, sizes: Sizes):
        super().__init__(settings, sizes)
        s, d = settings, settings.model_dim
        kinds = by_modality(TextBranch, SequenceBranch, SequenceBranch)
        self.branches = nn.ModuleDict({m: kind(sizes.widths[m], s) for m, kind in kinds.items()})
        self.experts = nn.ModuleDict(
            {m: SparseExperts(s.granularity * d, d, s.n_experts, s.top_k) for m in MODALITIES}
        )
        fusion = (d, s.n_heads, s.feedforward_dim, s.fusion_dropout)
        self.fusion = nn.ModuleList(
            nn.TransformerEncoderLayer(*fusion, batch_first=True) for _ in range(s.fusion_layers)
        )
        self.coarse_weights = WeightsOverThree(d, s.weighting_dropout)
        self.fine_weights = WeightsOverThree(d, s.weighting_dropout)
        self.join_all = nn.Linear(2 * d, d)
        self.join = nn.ModuleDict({m: nn.Linear(2 * d, d) for m in MODALITIES})
        self.output = nn.Linear(2 * d, 1)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear) and not name.endswith("attention.projection"):
                nn.init.normal_(module.weight, std=WEIGHT_DEVIATION)
                nn.init.zeros_(module.bias)

    @property
    def latent_widths(self) -> dict[str, int]:
        """Widths of the concatenated coarse and fine vectors."""
        return dict.fromkeys(MODALITIES, 2 * self.settings.model_dim)

    def encode(self, inputs: Latents) -> Latents:
        """Encode (B, T_m, D_m) as (B, 2d); in training, the auxiliary loss balances the experts."""
        values, balance = {}, []
        for m in MODALITIES:
            coarse, fine = self.branches[m](inputs.values[m], inputs.lengths[m])
            expert, gates = self.experts[m](fine.flatten(1))
            values[m] = torch.cat([coarse, expert], 1)
            balance.append(gates.balance_loss())
        weighted = self.settings.balance_weight * torch.stack(balance).sum()
        return Latents(values, auxiliary=weighted if self.training else None)

    def fuse(self, latents: Latents, n_clean: int) -> Fused:
        """Fuse (B, 2d) to (B, 2d); the auxiliary loss is the encoder's."""
        vectors = torch.stack([latents.values[m] for m in MODALITIES], 1)  # (B, 3, 2d)
        # Coarse vectors first; the order has no effect, because there are no positions.
        six = torch.cat(vectors.chunk(2, -1), 1)
        for layer in self.fusion:
            six = layer(six)
        coarse, fine = six[:, :3], six[:, 3:]
        by_coarse, by_fine = self.coarse_weights(coarse), self.fine_weights(fine)  # (B, 3)
        f_all = self.join_all(torch.cat([weighted_sum(by_coarse, coarse), weighted_sum(by_fine, fine)], 1))
        both = torch.cat([coarse, fine], -1)
        each = torch.stack([self.join[m](both[:, i]) for i, m in enumerate(MODALITIES)], 1)
        return Fused(torch.cat([f_all, weighted_sum(by_coarse, each)], 1), latents.auxiliary)

    def head(self, representation: Tensor) -> Tensor:
        """Predict sentiment. Shape: (B, 2d) -> (B,)."""
        return self.output(representation)[:, 0]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return groups with and without weight decay."""
        return _decay_groups(self.own_parameters())

    def text_parameter_groups(self) -> list[dict[str, Any]]:
        """Return the same two groups of a fine-tuned text encoder."""
        if not isinstance(self.text_encoder, nn.Module):
            return []
        return _decay_groups(self.text_encoder.named_parameters())


def _decay_groups(parameters: Iterable[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
    """Return groups with and without weight decay, chosen by name as in the reference."""
    groups: dict[bool, list[nn.Parameter]] = {False: [], True: []}
    for name, p in parameters:
        groups["bias" in name or "LayerNorm.weight" in name].append(p)
    return [{"params": groups[False]}, {"params": groups[True], "weight_decay": 0.0}]


class TextBranch(nn.Module):
    """Coarse and fine text encoder. Shape: (B, T, width or 2 width), lengths (B,) -> (B, d), (B, G, d)."""

    def __init__(self, width: int, settings: GLoMoSettings):
        super().__init__()
        self.coarse = nn.Linear(width, settings.model_dim)
        self.convolution = nn.Conv1d(width, settings.model_dim, 3, padding=1, bias=False)
        self.granularity, self.padding = settings.granularity, settings.padding

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode the states of one or two text layers, side by side in width, the last one at the end."""
        width = self.coarse.in_features
        before, last = x[..., :width], x[..., -width:]
        if self.padding == "reference":
            joined, joined_lengths = torch.cat([last, before], 1), torch.full_like(lengths, 2 * x.shape[1])
        else:
            joined, joined_lengths = append(last, before, lengths), 2 * lengths
        fine = self.convolution(joined.transpose(1, 2)).transpose(1, 2)
        return self.coarse(last[:, 0]), max_pool(fine, joined_lengths, self.granularity)


class SequenceBranch(nn.Module):
    """Coarse and fine encoder of audio or vision. Shape: (B, T, width), lengths (B,) -> (B, d), (B, G, d)."""

    def __init__(self, width: int, settings: GLoMoSettings):
        super().__init__()
        s = settings
        self.convolution = nn.Conv1d(width, s.model_dim, 3, padding=1, bias=False)
        dropouts = Dropouts(s.attention_dropout, s.relu_dropout, s.residual_dropout, s.embed_dropout)
        self.encoder = TransformerEncoder(s.model_dim, s.n_heads, s.encoder_layers, dropouts)
        self.granularity, self.padding = s.granularity, s.padding

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Convolve, add positions to the valid steps, encode, pool."""
        x = self.convolution(x.transpose(1, 2)).transpose(1, 2)
        # As in fairseq, the reference takes a first channel of 0 for padding.
        reference = self.padding == "reference"
        placed = x[..., 0] != 0 if reference else valid_steps(lengths, x.shape[1])
        # Without lengths, the encoder would add positions to all steps. It scales its input by sqrt(d).
        positions = sinusoids(x.shape[1], x.shape[2], x.device) / math.sqrt(x.shape[2])
        x = x + positions * placed[..., None]
        if reference:
            states, lengths = self.encoder(x), torch.full_like(lengths, x.shape[1])
        else:
            states = self.encoder(x, lengths)
        return max_pool(states, lengths, 1)[:, 0], max_pool(states, lengths, self.granularity)


class WeightsOverThree(nn.Module):
    """Attention weights of three vectors, which depend on all three. Shape: (B, 3, d) -> (B, 3), sum 1."""

    def __init__(self, d: int, dropout: float):
        super().__init__()
        self.hidden, self.output = nn.Linear(3 * d, d), nn.Linear(d, 3)
        self.dropout = Dropout(dropout)
        self.scale = d**-0.5

    def forward(self, x: Tensor) -> Tensor:
        """Compute the weights. Shape: (B, 3, d) -> (B, 3)."""
        hidden = self.dropout(self.hidden(x.flatten(1))).relu()
        return (self.output(hidden) * self.scale).softmax(1)


def weighted_sum(weights: Tensor, vectors: Tensor) -> Tensor:
    """Compute weighted sums of vectors. Shape: (B, n), (B, n, d) -> (B, d)."""
    return (weights[..., None] * vectors).sum(1)


def append(first: Tensor, second: Tensor, lengths: Tensor) -> Tensor:
    """Append the second sequence to the valid steps of the first one, then pad with zeros.

    Shape: (B, T, D) twice, zero beyond lengths (B,) -> (B, 2T, D).
    """
    steps = first.shape[1]
    positions, ends = torch.arange(2 * steps, device=first.device), lengths[:, None]
    # Positions after both sequences read the zero padding of the second one.
    source = torch.where(positions < ends, positions, (positions - ends + steps).clamp_max(2 * steps - 1))
    both = torch.cat([first, second], 1)
    return both.gather(1, source[..., None].expand_as(both))


def max_pool(x: Tensor, lengths: Tensor, bins: int) -> Tensor:
    """Apply `nn.AdaptiveMaxPool1d` to the valid steps of each sequence. Shape: (B, T, D) -> (B, bins, D).

    Bin i of a sequence of L steps covers the steps floor(i L / bins) to ceil((i + 1) L / bins) - 1, which is
    at least one step even if L < bins.
    """
    steps, ends = torch.arange(x.shape[1], device=x.device), lengths[:, None]
    pooled = []
    for i in range(bins):
        inside = (steps >= i * ends // bins) & (steps < ((i + 1) * ends + bins - 1) // bins)
        pooled.append(x.masked_fill(~inside[..., None], -math.inf).amax(1))
    return torch.stack(pooled, 1)

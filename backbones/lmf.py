"""LMF: Low-rank Multimodal Fusion (Liu et al., ACL 2018, arXiv 1806.00064).

What it computes: the sub-networks of TFN with text_out = text_hidden / 2; then a low-rank form of the outer
product with factors W^m (r, h_m + 1, 1) per modality. The product over modalities of (1, z^m) W^m gives r
numbers per clip; their weighted sum plus a bias is the prediction.

Mix point (layer 1): the sub-networks' outputs (B, h_m), before the 1 is prepended. Layer 2: the weighted
sum of the rank products (B, 1); the head adds the bias.
Losses: L1 on the label. Optimizer: Adam, factor_lr for the factors; early stopping after 8 epochs.
Defaults per dataset: MMSA's config_regression.json (thuiar/MMSA, commit a94e65d). The model has no dropout
after the mix point, because the reference defines its post-fusion dropout but never uses it.

NOTE[DIFF] text is read at the last valid step, not at the padded end (`padding: reference` restores this).
NOTE[DIFF] the fusion weights and bias are trained; the reference does not pass them to its optimizer.
NOTE[DIFF] max_epochs = 200 limits the training; the reference only stops early. Its validation loss is the
mean over the batches of a shuffled split, rounded to four digits; ours is that of the split, unrounded.
NOTE[DIFF] the reference trains no text encoder; with `text=bert`, its rates are this project's choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from backbones.base import Backbone, BackboneSettings, Fused, Sizes, by_dataset, by_modality
from backbones.batch import MODALITIES, Latents
from backbones.blocks import POOLS, MeanSubnet, SubNetworks, TextSubnet, with_one
from backbones.settings import check


@dataclass(frozen=True)
class LMFSettings(BackboneSettings):
    """Settings of LMF; None: the published value for the dataset.

    *_hidden: widths; the text output has half of text_hidden. rank: r. *_dropout: probabilities. factor_lr:
    learning rate of the factors. pool: "padded_mean" | "masked_mean" | "kept_mean", for audio and vision.
    """

    text_hidden: int | None = None
    audio_hidden: int | None = None
    vision_hidden: int | None = None
    rank: int | None = None
    audio_dropout: float | None = None
    vision_dropout: float | None = None
    factor_lr: float | None = None
    pool: str = "padded_mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "text_hidden", self.text_hidden is None or self.text_hidden >= 2, "at least 2")
        check(self, "pool", self.pool in POOLS, f"one of {', '.join(POOLS)}")


class LMF(Backbone):
    """Low-rank Multimodal Fusion; the module docstring describes the model."""

    name = "lmf"
    title = "LMF"
    citation = "Liu et al., Efficient Low-rank Multimodal Fusion with Modality-Specific Factors, ACL 2018"
    Settings = LMFSettings
    published = by_dataset(
        {
            "batch_size": (64, 32, 64, 32),
            "learning_rate": (0.001, 0.001, 0.002, 0.002),
            "factor_lr": (0.001, 0.001, 0.0005, 0.0005),
            "weight_decay": (0.005, 0.001, 0.005, 0.0001),
            "text_hidden": (128, 128, 64, 64),
            "audio_hidden": (16, 16, 16, 32),
            "vision_hidden": (128, 128, 64, 64),
            "rank": (3, 4, 4, 4),
            "audio_dropout": (0.3, 0.2, 0.2, 0.3),
            "vision_dropout": (0.3, 0.2, 0.2, 0.3),
        }
    )

    def __init__(self, settings: LMFSettings, sizes: Sizes):
        super().__init__(settings, sizes)
        s: Any = settings  # resolved: no field is None
        width = sizes.widths
        self.subnets = SubNetworks(
            TextSubnet(width["text"], s.text_hidden, s.text_hidden // 2, s.padding),
            MeanSubnet(width["audio"], s.audio_hidden, s.audio_dropout),
            MeanSubnet(width["vision"], s.vision_hidden, s.vision_dropout),
            s.pool,
        )
        self.factors = nn.ParameterDict(
            {m: torch.empty(s.rank, h + 1, 1) for m, h in self.latent_widths.items()}
        )
        self.weights = nn.Parameter(torch.empty(1, s.rank))
        self.bias = nn.Parameter(torch.zeros(1, 1))
        for parameter in (*self.factors.values(), self.weights):
            nn.init.xavier_normal_(parameter)

    @property
    def latent_widths(self) -> dict[str, int]:
        """Widths of the modalities' vectors."""
        s = self.settings
        return by_modality(s.text_hidden // 2, s.audio_hidden, s.vision_hidden)

    def encode(self, inputs: Latents) -> Latents:
        """Encode sequences as vectors. Shape: (B, T_m, D_m) -> (B, h_m)."""
        return self.subnets(inputs)

    def fuse(self, latents: Latents, n_clean: int) -> Fused:
        """Fuse the vectors. Shape: (B, h_m) -> (B, 1)."""
        product: Any = 1.0
        for m in MODALITIES:
            product = product * (with_one(latents.values[m]) @ self.factors[m])  # (r, B, 1)
        return Fused((self.weights @ product[..., 0]).T)

    def head(self, representation: Tensor) -> Tensor:
        """Predict sentiment. Shape: (B, 1) -> (B,)."""
        return (representation + self.bias)[:, 0]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return two groups; the factors have the learning rate factor_lr."""
        factors = set(self.factors.values())
        main = [p for _, p in self.own_parameters() if p not in factors]
        return [{"params": main}, {"params": list(self.factors.values()), "lr": self.settings.factor_lr}]

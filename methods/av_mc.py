"""av_mc: audio mixed alone, or vision mixed alone (Liu et al., ICMI 2022, arXiv 2209.02604).

How to use: `methods=[av_mc]`. Each batch draws a partner j for every example i and one lambda, once for audio
and once for vision. Each example has one of the two modalities m, which a fair coin chooses, mixed:
    lambda^m ~ Beta(alpha, alpha),  z~^m = lambda^m z_i^m + (1 - lambda^m) z_j^m
    y~ = lambda^m y_i + (1 - lambda^m) y_j
at the latents before fusion; the other modalities keep their own example. `only: [audio]` mixes audio alone.
Suggested settings: alpha = 1.0 (the authors' code, thuiar/ch-sims-v2).
When it hurts: the label moves although text stays; where text decides the sentiment, the label is wrong.
Attribution: the authors' code was read for its random draws and losses; no code was copied.

NOTE[DIFF] mixed examples pass the fusion, and the mixed multimodal label is their target. The authors give
mixed audio and vision to unimodal classifiers, with the mixed outputs of these as targets, and add losses on
unimodal labels, which most data sets lack.
NOTE[DIFF] a coin chooses the modality, so that there are as many mixed examples as in other methods; the
authors mix the audio and the vision of each example, in two losses.
NOTE[DIFF] alpha = 0 draws lambda = 0 or 1, the limit of the distribution; the authors set lambda = 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from backbones.batch import Latents
from backbones.settings import check, check_not_negative
from methods.base import (
    Draw,
    Method,
    MethodSettings,
    Mixed,
    Network,
    draw_beta,
    draw_permutation_pairs,
    mix,
    pair_weights,
)

CANDIDATES = ("audio", "vision")


@dataclass(frozen=True)
class AVMCSettings(MethodSettings):
    """Settings; alpha: of Beta(alpha, alpha), >= 0. At least one of audio and vision is mixed."""

    alpha: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(self, "alpha")
        check(self, "only", bool(set(self.only) & set(CANDIDATES)), "a list with audio or vision for av_mc")


class AVMC(Method):
    """Mixing of audio or vision alone; the module docstring describes the method."""

    name = "av_mc"
    title = "AV-MC"
    citation = (
        "Liu et al., Make Acoustic and Visual Cues Matter: CH-SIMS v2.0 Dataset and AV-Mixup Consistent "
        "Module, ICMI 2022"
    )
    Settings = AVMCSettings

    def draw(self, generator: np.random.Generator, labels: np.ndarray) -> Draw:
        """Draw pairs and one lambda for each candidate, and the modality that each example has mixed.

        Shape: "indices" and "weights" (n, 2), those of the drawn modality; "modality" (n,), its position in
        `CANDIDATES`.
        """
        n = len(labels)
        eligible = [k for k, m in enumerate(CANDIDATES) if m in self.settings.only]
        modality = generator.choice(eligible, n)
        pairs = np.stack([draw_permutation_pairs(generator, n) for _ in CANDIDATES])
        lam = draw_beta(generator, self.settings.alpha, len(CANDIDATES))[modality]
        indices = pairs[modality, np.arange(n)]
        return Draw(1, {"indices": indices, "weights": pair_weights(lam), "modality": modality})

    def forward(
        self, latents: Latents, labels: Tensor, draw: Mapping[str, Tensor], network: Network | None = None
    ) -> Mixed:
        """Mix the drawn modality of each example, and its label."""
        drawn = draw["weights"]
        own = drawn.new_tensor([1.0, 0.0]).expand_as(drawn)
        weights = dict.fromkeys(latents.values, own)
        for k, m in enumerate(CANDIDATES):
            weights[m] = drawn.where((draw["modality"] == k)[:, None], own)
        return mix(latents, labels, draw["indices"], weights, drawn)

"""av_mc: audio alone and vision alone are mixed (AV-MC: Liu et al., ICMI 2022, the CH-SIMS v2.0 paper).

How to use: `methods=[av_mc]`. From each batch two sets of B mixed examples are made before fusion. In one,
only the audio is mixed, in the other only the vision; the other modalities stay the example's own:
    lambda ~ Beta(alpha, alpha),
    z~^m = lambda z_i^m + (1 - lambda) z_j^m,  y~ = lambda y_i + (1 - lambda) y_j
Each set has one lambda and one permutation of its own. `only: [audio]` or `[vision]` makes one set alone.
Suggested settings: alpha = 1.0 (the authors' code, thuiar/ch-sims-v2).
When it hurts: text decides most labels in these data sets, and a mixed label contradicts the text that stays.
A step makes twice as many mixed examples as with other methods.
Attribution: the authors' code was read for its random draws and for what is mixed; no code was copied.

NOTE[DIFF] mixed examples pass the whole network, and their target is the mixed label. The authors pass them
through a head of the mixed modality alone, whose target is the mixture of that head's own predictions (hence
"consistent"), and so need no labels; backbones here have no such heads.
NOTE[DIFF] the authors also train heads on unimodal labels and use unlabelled clips; there is neither here.
NOTE[DIFF] `mode: append` with one weight xi1; the authors weigh the sets like the unimodal losses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
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

MIXED = ("audio", "vision")


@dataclass(frozen=True)
class AVMCSettings(MethodSettings):
    """Settings; alpha (paper: \\alpha): of Beta(alpha, alpha), >= 0."""

    alpha: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(self, "alpha")
        check(self, "only", bool(mixed_by(self)), "a list with audio or vision, or null")


def mixed_by(settings: AVMCSettings) -> list[str]:
    """Return the modalities of which a set of mixed examples is made."""
    return [m for m in MIXED if settings.only is None or m in settings.only]


class AVMC(Method):
    """Mixing of audio alone and of vision alone; the module docstring describes the method."""

    name = "av_mc"
    title = "AV-MC"
    citation = (
        "Liu et al., Make Acoustic and Visual Cues Matter: CH-SIMS v2.0 Dataset and AV-Mixup Consistent "
        "Module, ICMI 2022"
    )
    Settings = AVMCSettings

    def draw(self, generator: np.random.Generator, labels: np.ndarray) -> Draw:
        """Draw pairs from one permutation, and one lambda, for each set; "own" marks the rows of a set."""
        n, sets = len(labels), mixed_by(self.settings)
        pairs = [draw_permutation_pairs(generator, n) for _ in sets]
        weights = [
            pair_weights(np.broadcast_to(draw_beta(generator, self.settings.alpha, 1), n)) for _ in sets
        ]
        arrays = {"indices": np.concatenate(pairs), "weights": np.concatenate(weights)}
        rows = np.repeat(sets, n)
        return Draw(1, {**arrays, **{m: rows == m for m in sets}})

    def forward(
        self, latents: Latents, labels: Tensor, draw: Mapping[str, Tensor], network: Network | None = None
    ) -> Mixed:
        """Mix each modality in the rows of its set; the label is mixed in all rows."""
        shared = draw["weights"]
        own = torch.zeros_like(shared)
        own[:, 0] = 1
        weights = {
            m: torch.where(draw[m][:, None], shared, own) if m in draw else own for m in latents.values
        }
        return mix(latents, labels, draw["indices"], weights, shared)

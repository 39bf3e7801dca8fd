"""mixup: convex combinations of inputs (Zhang et al., ICLR 2018, arXiv 1710.09412).

How to use: `methods=[mixup]`. The inputs of all modalities and the labels are mixed with one permutation:
    lambda ~ Beta(alpha, alpha),  x~ = lambda x_i + (1 - lambda) x_j,  y~ = lambda y_i + (1 - lambda) y_j
at layer 0. With a BERT text encoder, its output is mixed, because tokens cannot be.
Suggested settings: alpha = 1.0, one lambda per batch (the authors' code, facebookresearch/mixup-cifar10).
When it hurts: unaligned sequences are averaged step by step, so an event in one clip is mixed with unrelated
content of the other; the encoder runs twice.
Attribution: the authors' code was read for its random draws; no code was copied.

NOTE[DIFF] `mode: append` by default for all methods, so that they have the same number of loss terms; the
authors train on mixed examples alone (`mode: replace`).
NOTE[DIFF] one mixed label is the target. The authors mix two cross-entropies, which is equivalent for
cross-entropy but not for the L1 loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backbones.settings import check_not_negative
from methods.base import Draw, Method, MethodSettings, draw_beta, draw_permutation_pairs, pair_weights


@dataclass(frozen=True)
class MixupSettings(MethodSettings):
    """Settings; alpha (paper: \\alpha): of Beta(alpha, alpha), >= 0; per_sample: one lambda per example."""

    alpha: float = 1.0
    per_sample: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(self, "alpha")


class Mixup(Method):
    """Mixing of inputs; the module docstring describes the method."""

    name = "mixup"
    title = "Mixup"
    citation = "Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018"
    Settings = MixupSettings

    def draw(self, generator: np.random.Generator, labels: np.ndarray) -> Draw:
        """Draw pairs from one permutation, and one lambda per batch or per example."""
        n = len(labels)
        lam = draw_beta(generator, self.settings.alpha, n if self.settings.per_sample else 1)
        weights = pair_weights(np.broadcast_to(lam, n))
        return Draw(0, {"indices": draw_permutation_pairs(generator, n), "weights": weights})

"""manifold_mixup: convex combinations of hidden states (Verma et al., ICML 2019, arXiv 1806.05236).

How to use: `methods=[manifold_mixup]`. Each batch draws a layer from `layers` and mixes its states:
    lambda ~ Beta(alpha, alpha), z~^m = lambda z_i^m + (1 - lambda) z_j^m, y~ = lambda y_i + (1 - lambda) y_j
with one lambda and one in-batch permutation for all modalities. Layer 0 is the inputs, 1 the backbone's
latents before fusion, 2 its fused representation before the head.
Suggested settings: alpha = 2.0 (the authors' code, vikasverma1077/manifold_mixup); `layers: [1]`.
When it hurts: with large alpha and few examples, the mixed labels concentrate around the mean.
Attribution: the authors' code was read for its random draws; no code was copied.

NOTE[DIFF] `layers: [1]` by default, because the MS-Mix study compares methods on latents (according to a
secondary source); the authors use [0, 1, 2].
NOTE[DIFF] `mode: append` by default for all methods; the authors train on mixed examples alone (`replace`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from backbones.settings import check, check_not_negative
from methods.base import Draw, Method, MethodSettings, draw_beta, draw_permutation_pairs, pair_weights


@dataclass(frozen=True)
class ManifoldMixupSettings(MethodSettings):
    """Settings; alpha (paper: \\alpha): of Beta(alpha, alpha), >= 0; layers: a subset of 0, 1, 2."""

    alpha: float = 2.0
    layers: list[int] = field(default_factory=lambda: [1])

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(self, "alpha")
        eligible = bool(self.layers) and set(self.layers) <= {0, 1, 2}
        check(self, "layers", eligible, "a non-empty list of 0, 1 and 2")
        # At layer 2, the modalities are one representation.
        check(self, "layers", self.only is None or 2 not in self.layers, "a list of 0 and 1 with only")


class ManifoldMixup(Method):
    """Mixing of hidden states; the module docstring describes the method."""

    name = "manifold_mixup"
    title = "Manifold Mixup"
    citation = (
        "Verma et al., Manifold Mixup: Better Representations by Interpolating Hidden States, ICML 2019"
    )
    Settings = ManifoldMixupSettings

    def draw(self, generator: np.random.Generator, labels: np.ndarray) -> Draw:
        """Draw a layer, one lambda, and pairs from one permutation."""
        n = len(labels)
        layer = int(generator.choice(list(self.settings.layers)))
        weights = pair_weights(np.broadcast_to(draw_beta(generator, self.settings.alpha, 1), n))
        return Draw(layer, {"indices": draw_permutation_pairs(generator, n), "weights": weights})

"""c_mixup: mixup for regression, partners of similar labels (Yao et al., NeurIPS 2022, arXiv 2210.05775).

How to use: `methods=[c_mixup]`. Example i draws its partner j with
    P(j | i) proportional to exp(-(y_i - y_j)^2 / (2 sigma^2))
and is mixed as in mixup, z~^m = lambda z_i^m + (1 - lambda) z_j^m, y~ = lambda y_i + (1 - lambda) y_j, with
one lambda ~ Beta(alpha, alpha) per batch, at the latents before fusion. An example may be its own partner.
sigma = inf draws partners uniformly; sigma = 0 draws partners of equal label.
Suggested settings: alpha = 2 (the authors' code, huaxiuyao/C-Mixup); tune sigma for each dataset, as the
authors do.
When it hurts: with a small sigma and few examples, most partners are the example itself or have nearly its
label, so little is mixed; with a large sigma, the method is Manifold Mixup with repeated partners.
Attribution: the authors' code was read for its random draws; no code was copied.

NOTE[DIFF] partners come from the batch. The authors draw them from the whole training set (their batch
variant joins two batches), which would have to be encoded for every draw.
NOTE[DIFF] sigma = s / 6 by default, where s is the label range; the authors give a value for each dataset.
NOTE[DIFF] latents are mixed; the authors mix inputs or, for some datasets, hidden states.
NOTE[DIFF] `mode: append` by default for all methods; the authors train on mixed examples alone (`replace`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backbones.settings import check, check_not_negative
from methods.base import Draw, Method, MethodSettings, draw_beta, pair_weights


@dataclass(frozen=True)
class CMixupSettings(MethodSettings):
    """Settings; alpha (paper: \\alpha): of Beta(alpha, alpha), >= 0. sigma (paper: \\sigma): width of the
    kernel in label units, >= 0 or infinite; None: s / 6."""

    alpha: float = 2.0
    sigma: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(self, "alpha")
        check(self, "sigma", self.sigma is None or self.sigma >= 0, ">= 0 or null")


def partner_probabilities(labels: np.ndarray, sigma: float) -> np.ndarray:
    """Compute P(j | i); rows sum to 1. Shape: labels (B,) -> (B, B)."""
    distance = np.abs(labels[:, None].astype(np.float64) - labels)
    # Each row has distance 0 to itself, so its largest exponent is 0 for any sigma, even for sigma = 0.
    with np.errstate(over="ignore", under="ignore"):
        kernel = np.exp(-0.5 * (distance / max(sigma, np.finfo(np.float64).tiny)) ** 2)
    return kernel / kernel.sum(1, keepdims=True)


def draw_partners(generator: np.random.Generator, probabilities: np.ndarray) -> np.ndarray:
    """Draw one partner per row, never one of probability 0. Shape: (B, B) -> (B,)."""
    cumulative = probabilities.cumsum(1)
    threshold = generator.random(len(probabilities)) * cumulative[:, -1]
    return (cumulative > threshold[:, None]).argmax(1)


class CMixup(Method):
    """Mixing of similar labels; the module docstring describes the method."""

    name = "c_mixup"
    title = "C-Mixup"
    citation = "Yao et al., C-Mixup: Improving Generalization in Regression, NeurIPS 2022"
    Settings = CMixupSettings

    def draw(self, generator: np.random.Generator, labels: np.ndarray) -> Draw:
        """Draw one lambda for the batch, and a partner of similar label for each example."""
        n, sigma = len(labels), self.settings.sigma
        sigma = self.label_scale / 6 if sigma is None else sigma
        weights = pair_weights(np.broadcast_to(draw_beta(generator, self.settings.alpha, 1), n))
        partners = draw_partners(generator, partner_probabilities(labels, sigma))
        return Draw(1, {"indices": np.stack([np.arange(n), partners], 1), "weights": weights})

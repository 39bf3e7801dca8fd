"""ms_mix_released: MS-Mix as its released code computes it (Zhu et al., arXiv 2510.11579; 2-D function).

How to use: `methods=[ms_mix_released]` to compare with the released code; the method itself is `ms_mix`.
- Pairs: S = mean_m cos(z_i^m, z_j^m), S' = min-max of S off the diagonal. n = B ordered pairs with
  s'_ij > delta are drawn without replacement; (i, j) and (j, i) both count. If there are fewer than n, the
  min(2n, number of pairs) most similar pairs i < j replace them all.
- Ratios: I^m = 3 tanh(predictor(z^m)), w = |I^m| min-max normalised over the batch,
  lambda^m = (lambda_base + (w_i + 1e-8) / (w_i + w_j + 2e-8)) / 2, lambda^L = mean_m lambda^m.
- Mixed loss: lambda^L (p - y_i)^2 + (1 - lambda^L) (p - y_j)^2; its gradient also trains lambda^L.
- Penalty: beta / B sum_m KL(p_Y || p_m), p = softmax over the batch of |y| / 3 or |I^m| / 3, plus 1e-8.
L = L_task + xi1 L_mix + xi2 L_penalty.
Suggested settings: the released ones, which are the defaults.
When it hurts: the penalty depends on the batch size. The weakest example of a batch always has w = 0, so
ratios depend on the other examples, and nearly equal intensities give very large gradients. A predictor can
lower the loss by changing the ratio of the label.
Attribution: the released code was read; no code was copied.

NOTE[DIFF] the 2-D function does not accept sequences; here, S and I use the mean over valid steps, and a
weight applies to every step.
NOTE[DIFF] for B < 5 there may be fewer pairs than n. The release then adds self pairs and reversed pairs;
here, the last pair is repeated. A batch of one, on which the release fails, is not mixed.
NOTE[DIFF] the predictor is zero-padded to a multiple of 8, the release's to a multiple of `heads`; widths
above 2000 are not reduced.
NOTE[DIFF] S is computed in float64, because min-max would scale up float32 rounding between equal directions.
NOTE[DIFF] the clean loss is the backbone's; evaluation neither mixes nor reads labels.
NOTE[DIFF] unless `mix_loss` is split_mse, lambda^L is detached in the target, as in `ms_mix`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.batch import Latents
from backbones.settings import check, check_not_negative
from methods.base import Draw, Method, MethodSettings, Mixed, Network, draw_beta, mix, pair_weights
from methods.ms_mix import IntensityPredictor, intensity_weights, mean_cosine, min_max

LABEL_RANGE = 3.0  # as in the release, for all datasets


@dataclass(frozen=True)
class MSMixReleasedSettings(MethodSettings):
    """Settings; delta: threshold on S', in [0, 1]. alpha: of lambda_base, >= 0. heads: 1, 2, 4 or 8.
    xi2: weight of the penalty; beta: factor of the penalty before division by B; both >= 0."""

    mix_loss: str = "split_mse"
    delta: float = 0.4
    alpha: float = 2.0
    heads: int = 4
    xi2: float = 0.5
    beta: float = 1000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "delta", 0 <= self.delta <= 1, "in [0, 1]")
        check_not_negative(self, "alpha", "xi2", "beta")
        check(self, "heads", self.heads in (1, 2, 4, 8), "1, 2, 4 or 8")


def mean_over_time(latents: Latents) -> dict[str, Tensor]:
    """Reduce sequences and fixed tokens to their mean. Shape: -> (B, D_m) each."""
    vectors = latents.vectors()
    fixed = {m: x.mean(1) for m, x in latents.values.items() if x.ndim == 3 and m not in latents.lengths}
    return {**vectors, **fixed}


def choose_ordered_pairs(similarity: Tensor, keys: Tensor, delta: float, n: int) -> Tensor:
    """Choose the n candidate pairs with the largest keys, without synchronising with the device.

    Shape: similarity (P,) of the pairs i < j in the order of `torch.triu_indices`; keys (2P,) in [0, 1), of
    these pairs and then of the reversed pairs -> indices (n, 2).
    """
    size = round((1 + (1 + 8 * len(similarity)) ** 0.5) / 2)
    pairs = torch.triu_indices(size, size, 1, device=similarity.device).T
    above = similarity > delta
    rank = similarity.argsort(descending=True, stable=True).argsort()
    both = torch.cat([above, above])
    top = torch.cat([rank < 2 * n, torch.zeros_like(above)])
    candidate = torch.where(both.sum() >= n, both, top)
    order = torch.where(candidate, keys, -1.0).argsort(descending=True, stable=True)
    position = torch.arange(n, device=keys.device).minimum(candidate.sum() - 1)
    return torch.cat([pairs, pairs.flip(1)])[order[position]]


def relative_intensity(intensity: Tensor) -> Tensor:
    """Compute w, |I| min-max normalised over the batch. Shape: (B,) -> (B,)."""
    w = intensity.abs()
    return (w - w.min()) / (w.max() - w.min() + 1e-8)


def released_penalty(intensities: Mapping[str, Tensor], labels: Tensor) -> Tensor:
    """Compute sum_m KL(p_Y || p_m) / B. Shape: I^m (B,), labels (B,) -> scalar."""

    def shares(x: Tensor) -> Tensor:
        return F.softmax(x.abs() / LABEL_RANGE, 0) + 1e-8

    target = shares(labels)
    terms = [target * (target.log() - shares(i).log()) for i in intensities.values()]
    return torch.stack(terms).sum() / len(labels)


class MSMixReleased(Method):
    """MS-Mix as released; the module docstring describes the method."""

    name = "ms_mix_released"
    title = "MS-Mix (released code)"
    citation = "Zhu et al., MS-Mix: Sentiment-guided adaptive augmentation, arXiv 2510.11579, 2025"
    Settings = MSMixReleasedSettings

    def __init__(self, settings: MSMixReleasedSettings, widths: Mapping[str, int], label_scale: float):
        super().__init__(settings, widths, label_scale)
        self.predictors = nn.ModuleDict(
            {m: IntensityPredictor(w, settings.heads, "tokens", LABEL_RANGE) for m, w in widths.items()}
        )

    def draw(self, generator: np.random.Generator, labels: np.ndarray) -> Draw | None:
        """Draw lambda_base and random sort keys of the ordered pairs; None for B = 1."""
        n = len(labels)
        if n == 1:
            return None
        weights = pair_weights(draw_beta(generator, self.settings.alpha, n))
        return Draw(1, {"weights": weights, "keys": generator.random(n * (n - 1), np.float32)})

    def forward(
        self, latents: Latents, labels: Tensor, draw: Mapping[str, Tensor], network: Network | None = None
    ) -> Mixed:
        """Choose pairs and ratios, mix, and add the penalty."""
        s, base = self.settings, draw["weights"][:, 0]
        with torch.no_grad():
            i, j = torch.triu_indices(len(labels), len(labels), 1, device=labels.device)
            similarity = min_max(mean_cosine(mean_over_time(latents))[i, j])
            indices = choose_ordered_pairs(similarity, draw["keys"], s.delta, len(labels))
        intensities = self.intensities(latents)
        weights = {
            m: intensity_weights(base, relative_intensity(intensity.float()), indices)
            for m, intensity in intensities.items()
        }
        mixed = mix(latents, labels, indices, weights, torch.stack(list(weights.values())).mean(0))
        penalty = s.xi2 * s.beta * released_penalty(intensities, labels)
        return replace(mixed, labels=mixed.labels.detach(), penalty=penalty)

    def intensities(self, latents: Latents) -> dict[str, Tensor]:
        """Predict the signed I^m in [-3, 3], (B,) each."""
        vectors = mean_over_time(latents)
        return {m: predictor(vectors[m], None) for m, predictor in self.predictors.items()}

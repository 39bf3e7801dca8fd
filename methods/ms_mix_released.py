"""ms_mix_released: MS-Mix as its released code computes it (Zhu et al., arXiv 2510.11579).

How to use: `methods=[ms_mix_released]` to compare with the released code; the method itself is `ms_mix`.
The release has a 2-D function for vectors and a 3-D one for sequences; `form: auto` uses the 3-D one on MulT
and ALMT, and the 2-D one on the other backbones. Where they differ, the 3-D one is in square brackets.
- Pairs: S = mean_m cos(z_i^m, z_j^m) [latents flattened], S' = min-max of S off the diagonal. n = B ordered
  pairs with s'_ij > delta are drawn without replacement; (i, j) and (j, i) both count. If there are fewer
  than n, the min(2n, number of pairs) most similar pairs i < j replace them all.
- Ratios: I^m = 3 tanh(predictor(z^m)) [largest over the steps], w = |I^m| min-max normalised over the batch
  [w = I^m], lambda^m = (lambda_base + (w_i + 1e-8) / (w_i + w_j + 2e-8)) / 2, lambda^L = mean_m lambda^m.
- Mixed loss: lambda^L (p - y_i)^2 + (1 - lambda^L) (p - y_j)^2; its gradient also trains lambda^L.
- Penalty: beta / B sum_m KL(p_Y || p_m), p = softmax over the batch of |y| / 3 or |I^m| / 3, plus 1e-8.
L = L_task + xi1 L_mix + xi2 L_penalty.
Suggested settings: the released ones, which are the defaults.
When it hurts: the penalty depends on the batch size. The weakest example of a batch has w = 0, so ratios
depend on the others, and nearly equal intensities give very large gradients. A predictor can lower the loss
by changing the ratio of the label. In the 3-D function, an intensity depends on the whole batch, and weights
of members with opposite signs leave [0, 1] without a limit: mixtures extrapolate and L_mix can be negative.
The check that weights are convex is off there.
Attribution: the released code was read; no code was copied.

NOTE[DIFF] no backbone runs it as released: TFN, LMF, MulT, MISA and GLoMo leave it out, and ALMT imports the
3-D function but calls the 2-D one, which it does not import and which rejects sequences.
NOTE[DIFF] delta = 0.4 for both functions; another commit of the release has 0 in the 2-D one.
NOTE[DIFF] padding, which only MulT has, is masked in attention, maximum and residual. With `form: 2d`, S and
I use the mean over valid steps of sequences; with `form: 3d`, vectors are sequences of one step.
NOTE[DIFF] for B < 5 there may be fewer pairs than n. The release then adds self pairs and reversed pairs;
here, the last pair is repeated. A batch of one, on which the release fails, is not mixed.
NOTE[DIFF] the predictor is zero-padded to a multiple of 8, the release's to a multiple of `heads`; widths
above 2000 are not reduced. S is computed in float64, as min-max would enlarge rounding errors.
NOTE[DIFF] the clean loss is the backbone's; evaluation neither mixes nor reads labels. Unless `mix_loss` is
split_mse, lambda^L is detached in the target, as in `ms_mix`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
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
FORMS = ("auto", "2d", "3d")
MOST_NUMBERS = 2**24  # of the 3-D function's (B, B, T, D) at once


@dataclass(frozen=True)
class MSMixReleasedSettings(MethodSettings):
    """Settings; form: the function, "2d" | "3d" | "auto" (3d for sequences, 2d for vectors). delta:
    threshold on S', in [0, 1]. alpha: of lambda_base, >= 0. heads: 1, 2, 4 or 8. xi2: weight of the penalty;
    beta: factor of the penalty before division by B; both >= 0."""

    mix_loss: str = "split_mse"
    form: str = "auto"
    delta: float = 0.4
    alpha: float = 2.0
    heads: int = 4
    xi2: float = 0.5
    beta: float = 1000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "form", self.form in FORMS, f"one of {', '.join(FORMS)}")
        check(self, "delta", 0 <= self.delta <= 1, "in [0, 1]")
        check_not_negative(self, "alpha", "xi2", "beta")
        check(self, "heads", self.heads in (1, 2, 4, 8), "1, 2, 4 or 8")


def mean_over_time(latents: Latents) -> dict[str, Tensor]:
    """Reduce sequences and fixed tokens to their mean. Shape: -> (B, D_m) each."""
    vectors = latents.vectors()
    fixed = {m: x.mean(1) for m, x in latents.values.items() if x.ndim == 3 and m not in latents.lengths}
    return {**vectors, **fixed}


def flattened(latents: Latents) -> dict[str, Tensor]:
    """Flatten sequences, whose padded steps are 0. Shape: -> (B, T_m * D_m) each."""
    return {m: x.flatten(1) for m, x in latents.values.items()}


class ReleasedPredictor(IntensityPredictor):
    """Intensity predictor of both functions; in the 3-D one, each example joins everyone's attention."""

    def strongest(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """Predict the signed intensity of each step as in the 3-D function, and return the largest.

        The release adds x (B, 1, T, D) to the attention output (B, T, D), which broadcasts to (B, B, T, D),
        and averages the normalised sums over the second axis. Shape: as for the class.
        """
        x = x if x.ndim == 3 else x[:, None]  # (B, T, D)
        x = F.pad(x, (0, self.width - x.shape[2]))
        if valid is None:
            valid = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        attended = self._attend(x, valid)
        # Process in parts, because a test split would need more memory than a training batch.
        parts = x.split(max(MOST_NUMBERS // attended.numel(), 1))
        mean = torch.cat([self._mean_sums(part, attended, valid) for part in parts])  # (B, T, D)
        steps = self.scale * torch.tanh(self.output(mean)[..., 0])  # (B, T)
        return steps.masked_fill(~valid, -math.inf).amax(1)

    def _mean_sums(self, x: Tensor, attended: Tensor, valid: Tensor) -> Tensor:
        """Average over the examples valid at a step. Shape: (P, T, D), (B, T, D), (B, T) -> (P, T, D)."""
        sums = self.norm(attended + x[:, None]) * valid[..., None]  # (P, B, T, D)
        return sums.sum(1) / valid.sum(0).clamp_min(1)[:, None]


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


def relative_weights(base: Tensor, intensity: Tensor, indices: Tensor) -> Tensor:
    """Compute the 2-D weights, of |I| min-max normalised over the batch; shapes as `intensity_weights`."""
    w = intensity.abs()
    return intensity_weights(base, (w - w.min()) / (w.max() - w.min() + 1e-8), indices)


def signed_weights(base: Tensor, intensity: Tensor, indices: Tensor) -> Tensor:
    """Compute the 3-D weights, of the signed I, which are outside [0, 1] for members of opposite signs.

    Shape: base (n,), I (B,), indices (n, 2) -> (n, 2).
    """
    w = intensity[indices]
    lam = (base + (w[:, 0] + 1e-8) / (w.sum(1) + 2e-8)) / 2
    return torch.stack([lam, 1 - lam], 1)


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
            {m: ReleasedPredictor(w, settings.heads, "tokens", LABEL_RANGE) for m, w in widths.items()}
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
        s, base, steps = self.settings, draw["weights"][:, 0], self.reads_steps(latents)
        with torch.no_grad():
            i, j = torch.triu_indices(len(labels), len(labels), 1, device=labels.device)
            vectors = flattened(latents) if steps else mean_over_time(latents)
            similarity = min_max(mean_cosine(vectors)[i, j])
            indices = choose_ordered_pairs(similarity, draw["keys"], s.delta, len(labels))
        intensities = self.intensities(latents)
        ratio = signed_weights if steps else relative_weights
        weights = {m: ratio(base, intensity.float(), indices) for m, intensity in intensities.items()}
        label_weights = torch.stack(list(weights.values())).mean(0)
        mixed = mix(latents, labels, indices, weights, label_weights, convex=not steps)
        penalty = s.xi2 * s.beta * released_penalty(intensities, labels)
        return replace(mixed, labels=mixed.labels.detach(), penalty=penalty)

    def reads_steps(self, latents: Latents) -> bool:
        """Return whether the 3-D function is used: if asked for, or, with form "auto", for sequences."""
        auto = any(x.ndim == 3 for x in latents.values.values())
        return auto if self.settings.form == "auto" else self.settings.form == "3d"

    def intensities(self, latents: Latents) -> dict[str, Tensor]:
        """Predict the signed I^m in [-3, 3], (B,) each."""
        if self.reads_steps(latents):
            return {m: p.strongest(latents.values[m], latents.valid(m)) for m, p in self._each()}
        vectors = mean_over_time(latents)
        return {m: predictor(vectors[m], None) for m, predictor in self._each()}

    def _each(self) -> Iterator[tuple[str, ReleasedPredictor]]:
        for m, predictor in self.predictors.items():
            assert isinstance(predictor, ReleasedPredictor)
            yield m, predictor

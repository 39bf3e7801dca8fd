"""advmixup: adversarial masks over features, a reconstruction (Fu et al., TNNLS 2025).

How to use: `methods=[advmixup]`. Pairs come from one in-batch permutation, each with a lambda from
Beta(alpha, alpha), clipped to [margin, 1 - margin]. Each feature of a latent has its own weight, which starts
at lambda and takes one signed gradient step that increases the mixed loss:
    U_0 = logit(lambda),  U = clip(U_0 + eta sign(dL/dU), U_0 - eps, U_0 + eps),  M = sigmoid(U)
    z~^m = M^m * z_i^m + (1 - M^m) * z_j^m,  y~ = lambda~ y_i + (1 - lambda~) y_j
L is the task loss of the mixed latents against the label mixed with lambda; the network is in eval mode.
lambda~ is the mean over modalities of the mean of M. All steps of a sequence share one M.
Suggested settings: none were available; alpha = 1, eta = eps = 0.5 (a weight of 0.5 becomes 0.38 or 0.62).
When it hurts: every step needs a second forward and backward pass through fusion and head; early in training
the loss hardly depends on which features matter.
Attribution: the paper's abstract; no code was copied.

NOTE[DIFF] the paper's text was not available. Its abstract has masks over the features of each sample, found
by adversarial training. This project chose the rest: the draw and clipping of lambda, logits, one signed step
with its size and bound, eval mode, the weight of the label, and the layer.
NOTE[DIFF] eta = eps by default, so the bound has an effect only if one of them is changed.
NOTE[DIFF] `mode: append` by default for all methods.
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


@dataclass(frozen=True)
class AdvMixUpSettings(MethodSettings):
    """Settings; alpha: of Beta(alpha, alpha), >= 0. margin: minimum distance of lambda from 0 and 1, in
    [0, 0.5]. eta: size of the ascent step; eps: bound on the change of the logits; both >= 0."""

    alpha: float = 1.0
    margin: float = 0.05
    eta: float = 0.5
    eps: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(self, "alpha", "eta", "eps")
        check(self, "margin", 0 <= self.margin <= 0.5, "in [0, 0.5]")


def first_logits(lam: Tensor, values: Tensor) -> Tensor:
    """Return U_0, one logit per feature. Shape: (n,), (n, D) or (n, T, D) -> (n, D) or (n, 1, D)."""
    ones = [1] * (values.ndim - 2)
    return torch.logit(lam).view(-1, *ones, 1).repeat(1, *ones, values.shape[-1])


def weights_of(logits: Tensor) -> Tensor:
    """Return the weights (M, 1 - M) of both members. Shape: (n, ...) -> (n, 2, ...)."""
    mask = torch.sigmoid(logits)
    return torch.stack([mask, 1 - mask], 1)


def ascend(logits: Tensor, gradient: Tensor, eta: float, eps: float) -> Tensor:
    """Take one signed ascent step of at most eps. Shape: (n, ...) -> (n, ...)."""
    return torch.clamp(logits + eta * gradient.sign(), logits - eps, logits + eps)


class AdvMixUp(Method):
    """Mixing with adversarial masks; the module docstring describes the method."""

    name = "advmixup"
    title = "AdvMixUp (reconstruction)"
    citation = "Fu et al., AdvMixUp: Adversarial MixUp Regularization for Deep Learning, TNNLS 2025"
    Settings = AdvMixUpSettings

    def draw(self, generator: np.random.Generator, labels: np.ndarray) -> Draw:
        """Draw pairs from one permutation, and a clipped lambda for each."""
        n, margin = len(labels), self.settings.margin
        lam = draw_beta(generator, self.settings.alpha, n).clip(margin, 1 - margin)
        return Draw(1, {"indices": draw_permutation_pairs(generator, n), "weights": pair_weights(lam)})

    def forward(
        self, latents: Latents, labels: Tensor, draw: Mapping[str, Tensor], network: Network | None = None
    ) -> Mixed:
        """Ascend from the drawn lambda, then mix with the resulting masks, which pass no gradient."""
        assert network is not None, "advmixup needs the rest of the network"
        s = self.settings
        start = {m: first_logits(draw["weights"][:, 0], values) for m, values in latents.values.items()}
        gradients = self._gradients(latents, labels, draw, network, start)
        weights = {m: weights_of(ascend(u, gradients[m], s.eta, s.eps)) for m, u in start.items()}
        label_weights = torch.stack([w.flatten(2).mean(2) for w in weights.values()]).mean(0)
        return mix(latents, labels, draw["indices"], weights, label_weights)

    @torch.enable_grad()
    def _gradients(
        self,
        latents: Latents,
        labels: Tensor,
        draw: Mapping[str, Tensor],
        network: Network,
        start: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """Compute dL/dU at U_0, without changing the gradient of any parameter."""
        logits = {m: u.clone().requires_grad_() for m, u in start.items()}
        weights = {m: weights_of(u) for m, u in logits.items()}
        fixed = Latents({m: x.detach() for m, x in latents.values.items()}, latents.lengths, latents.kept)
        mixed = mix(fixed, labels, draw["indices"], weights, draw["weights"])
        loss = network.criterion(network.predict(mixed.latents), mixed.labels).sum()
        return dict(zip(logits, torch.autograd.grad(loss, list(logits.values())), strict=True))

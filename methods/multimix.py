"""multimix: convex combinations of many examples (Venkataramanan et al., NeurIPS 2023, arXiv 2206.14868).

How to use: `methods=[multimix]`. n = B mixtures of latents before fusion, each over `examples_per_mixture`
examples drawn without replacement (by default the whole batch):
    lambda_k ~ Dirichlet(alpha, ..., alpha),  Z~^m = Lambda Z^m,  y~ = Lambda y,  Lambda (n, B)
with alpha ~ U[alpha_low, alpha_high] for each row and one Lambda for all modalities.
Suggested settings: alpha ~ U[0.5, 2] (second hand); `examples_per_mixture` is to be tuned.
When it hurts: mixtures of m examples crowd around their batch's mean. With m = 64, the whole batch, and
alpha = 1 the mixed labels' standard deviation is 17.5% of the labels' over batches and 12.4% around the
batch's own mean, 1 / sqrt(m alpha + 1): next to nothing is left of extreme sentiment.
Attribution: the paper's abstract; nothing is taken over.

NOTE[DIFF] the distribution of alpha, and that it is drawn for each row, are known second hand.
NOTE[DIFF] n = B, as for every method here; the paper makes many more mixtures than examples.
NOTE[DIFF] `examples_per_mixture` is this project's own, for the reason under "when it hurts".
NOTE[DIFF] one Lambda mixes the latents of all modalities before fusion; the paper has one modality, and a
dense form with a mixture for each position, which is not here.
NOTE[DIFF] `mode: append` by default for all methods; the paper's is `replace` (second hand).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

import numpy as np

from backbones.settings import check
from methods.base import Draw, Method, MethodSettings


@dataclass(frozen=True)
class MultiMixSettings(MethodSettings):
    """alpha (paper: \\alpha): concentration, >= 0; None: uniform in [alpha_low, alpha_high] for each row.
    examples_per_mixture: at least 2; None: the whole batch."""

    alpha: float | None = None
    alpha_low: float = 0.5
    alpha_high: float = 2.0
    examples_per_mixture: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "alpha", self.alpha is None or 0 <= self.alpha < inf, ">= 0 and finite, or none")
        check(self, "alpha_low", 0 <= self.alpha_low < inf, ">= 0 and finite")
        check(self, "alpha_high", self.alpha_low <= self.alpha_high < inf, "at least alpha_low and finite")
        members = self.examples_per_mixture
        check(self, "examples_per_mixture", members is None or members >= 2, "at least 2, or none")


def draw_dirichlet(generator: np.random.Generator, alpha: np.ndarray, present: np.ndarray) -> np.ndarray:
    """One symmetric Dirichlet draw for each row over its members that are present; absent ones have 0.

    alpha = 0 is the limit: all weight on one member, each as likely. Computed in logarithms, as for small
    alpha every gamma variable of a row can underflow: G(a) = G(a + 1) U^(1 / a).

    Shape: alpha (n,), present (n, k) bool with a member in each row -> (n, k) float32.
    """
    a = alpha[:, None]
    small, large = np.clip(a, np.finfo(np.float64).tiny, 1), np.maximum(a, 1)
    logs = np.log1p(-generator.random(present.shape)) / large  # times `small`
    if alpha.any():
        logs += small * np.log(generator.standard_gamma(a + 1, present.shape))
    logs[~present] = -np.inf
    with np.errstate(over="ignore", under="ignore"):
        weights = np.exp((logs - logs.max(1, keepdims=True)) / small)
        return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def draw_mixtures(
    generator: np.random.Generator,
    settings: MultiMixSettings,
    size: int,
    members: np.ndarray,
    matrices: Iterable[str] = ("weights",),
) -> dict[str, np.ndarray]:
    """Members without replacement from a batch of `size`, and a Lambda over them under each name.

    Shape: members (n,), their number in each mixture -> "indices" (n, k), each matrix (n, k).
    """
    n, k = len(members), members.max()
    indices = generator.permuted(np.tile(np.arange(size), (n, 1)), axis=1)[:, :k]
    if settings.alpha is None:
        alpha = generator.uniform(settings.alpha_low, settings.alpha_high, n)
    else:
        alpha = np.full(n, settings.alpha)
    present = np.arange(k) < members[:, None]
    lambdas = {name: draw_dirichlet(generator, alpha, present) for name in matrices}
    return {"indices": np.ascontiguousarray(indices), **lambdas}


def members_per_mixture(settings: MultiMixSettings, size: int) -> int:
    """How many examples of a batch of `size` enter a mixture."""
    return min(settings.examples_per_mixture or size, size)


class MultiMix(Method):
    """Mixing of many examples; the module's docstring is its card."""

    name = "multimix"
    title = "MultiMix"
    citation = (
        "Venkataramanan et al., Embedding Space Interpolation Beyond Mini-Batch, Beyond Pairs and Beyond "
        "Examples, NeurIPS 2023"
    )
    Settings = MultiMixSettings

    def draw(self, generator: np.random.Generator, labels: np.ndarray) -> Draw:
        """As many mixtures as examples."""
        size = len(labels)
        members = np.full(size, members_per_mixture(self.settings, size))
        return Draw(1, draw_mixtures(generator, self.settings, size, members))

"""multimix: convex combinations of many examples (Venkataramanan et al., NeurIPS 2023, arXiv 2206.14868).

How to use: `methods=[multimix]`. A batch gives n = B mixtures of the latents before fusion. Each mixes
`examples_per_mixture` examples, drawn without replacement (by default the whole batch):
    lambda_k ~ Dirichlet(alpha, ..., alpha),  Z~^m = Lambda Z^m,  y~ = Lambda y,  Lambda (n, B)
with alpha ~ U[alpha_low, alpha_high] for each row and one Lambda for all modalities.
Suggested settings: alpha ~ U[0.5, 2] (secondary source); tune `examples_per_mixture`.
When it hurts: mixtures of m examples concentrate around the batch mean. With alpha = 1 and m = 64, the whole
batch, the standard deviation of mixed labels is 17.5% of that of the labels over batches, and 12.4% around
the mean of their own batch, 1 / sqrt(m alpha + 1). Almost no mixture has an extreme label.
Attribution: the paper's abstract; no code was copied.

NOTE[DIFF] the distribution of alpha, and that each row draws it, come from a secondary source.
NOTE[DIFF] n = B, as for every method here; the paper makes many more mixtures than examples.
NOTE[DIFF] `examples_per_mixture` is this project's own, for the reason given under "When it hurts".
NOTE[DIFF] one Lambda mixes the latents of all modalities before fusion. The paper has one modality, and a
dense form with one mixture per position, which is not implemented here.
NOTE[DIFF] `mode: append` by default for all methods; the paper uses `replace` (secondary source).
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
    """Settings; alpha (paper: \\alpha): concentration, >= 0; None: per row from U[alpha_low, alpha_high].
    examples_per_mixture: number of examples in a mixture, at least 2; None: the whole batch."""

    alpha: float | None = None
    alpha_low: float = 0.5
    alpha_high: float = 2.0
    examples_per_mixture: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "alpha", self.alpha is None or 0 <= self.alpha < inf, ">= 0 and finite, or null")
        check(self, "alpha_low", 0 <= self.alpha_low < inf, ">= 0 and finite")
        check(self, "alpha_high", self.alpha_low <= self.alpha_high < inf, "at least alpha_low and finite")
        members = self.examples_per_mixture
        check(self, "examples_per_mixture", members is None or members >= 2, "at least 2, or null")


def draw_dirichlet(generator: np.random.Generator, alpha: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Draw symmetric Dirichlet weights for the present members of each row; absent members get weight 0.

    In the limit alpha = 0, one present member, each with equal probability, gets all the weight.

    Shape: alpha (n,), present (n, k) bool, at least one per row -> (n, k) float32.
    """
    # Use logarithms, because all gamma variables of a row can underflow: G(a) = G(a + 1) U^(1 / a).
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
    """Draw members of each mixture from ``size`` examples without replacement, and their weights.

    Shape: members (n,), number of members per mixture -> "indices" (n, k), each name in matrices (n, k).
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
    """Return how many of the ``size`` examples of a batch are mixed in each mixture."""
    return min(settings.examples_per_mixture or size, size)


class MultiMix(Method):
    """Mixing of many examples; the module docstring describes the method."""

    name = "multimix"
    title = "MultiMix"
    citation = (
        "Venkataramanan et al., Embedding Space Interpolation Beyond Mini-Batch, Beyond Pairs and Beyond "
        "Examples, NeurIPS 2023"
    )
    Settings = MultiMixSettings

    def draw(self, generator: np.random.Generator, labels: np.ndarray) -> Draw:
        """Draw as many mixtures as examples."""
        size = len(labels)
        members = np.full(size, members_per_mixture(self.settings, size))
        return Draw(1, draw_mixtures(generator, self.settings, size, members))

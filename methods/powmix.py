"""powmix: MultiMix for several modalities, a reconstruction (Georgiou et al., TASLP 2024, arXiv 2312.12334).

How to use: `methods=[powmix]`. The latents of each modality are mixed before fusion, as in MultiMix:
Z~^m = Lambda^m Z^m with Dirichlet rows, alpha ~ U[alpha_low, alpha_high] for each row. Five switches:
- `random_n`: each step makes n ~ U{1 .. rho B} mixed examples, rho = `n_ratio`. Off: n = rho B.
- `reweight`: the rows of Lambda^m * c^m, normalised, replace those of Lambda^m, with
  c_i^m = relu(cos(z_i^m, mean_j z_j^m)) + 0.001, which passes no gradient.
- `anisotropic`: each modality has its own Lambda^m. Off: all modalities share one.
- `dynamic`: each mixture has U{2 .. min(max_subset, B)} members, the same for all modalities. Off: it has
  `examples_per_mixture` members.
- `cross_modal_labels`: y~ = (mean_m Lambda^m) y. Off: y~ = Lambda^text y.
With all switches off, the method is MultiMix.
Suggested settings: those of MultiMix; no code or settings were published.
When it hurts: see MultiMix. With `anisotropic`, the modalities of a mixed example weight the members
differently, so relations between modalities are lost.
Attribution: the paper's abstract, which names the five components; no code was copied.

NOTE[DIFF] no code was released and the paper's text was not available. The five components and their purpose
are the paper's; this project chose their form.
NOTE[DIFF] the number of mixed examples is drawn uniformly in each step, up to rho B, with rho = 1.
NOTE[DIFF] reweighting uses the cosine between a pooled latent (masked mean over time) and the batch mean,
clipped at 0, plus 0.001 so that no row sums to 0.
NOTE[DIFF] anisotropic mixing draws independent rows for each modality; the alpha of a row is shared.
NOTE[DIFF] dynamic mixing draws subset sizes uniformly from 2 .. 8 and members without replacement.
NOTE[DIFF] cross-modal labels use the plain mean over modalities, after the reweighting.
NOTE[DIFF] alpha ~ U[0.5, 2] as in MultiMix (secondary source); `mode: append` as for all methods.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.batch import Latents
from backbones.settings import check
from methods.base import Draw, Method, Mixed, Network, mix
from methods.multimix import MultiMixSettings, draw_mixtures, members_per_mixture


@dataclass(frozen=True)
class PowMixSettings(MultiMixSettings):
    """Settings of PowMix in addition to those of MultiMix.

    n_ratio: number (with random_n: maximum) of mixed examples per clean example, > 0. max_subset: with
    dynamic, the maximum number of members of a mixture, at least 2. The boolean settings switch the
    components.
    """

    components = ("random_n", "reweight", "anisotropic", "dynamic", "cross_modal_labels")
    n_ratio: float = 1.0
    random_n: bool = True
    reweight: bool = True
    anisotropic: bool = True
    dynamic: bool = True
    max_subset: int = 8
    cross_modal_labels: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "n_ratio", 0 < self.n_ratio < inf, "> 0 and finite")
        check(self, "max_subset", self.max_subset >= 2, "at least 2")


@torch.no_grad()
def agreement(vectors: Tensor) -> Tensor:
    """Compute c, the agreement of examples with the batch mean, in [0.001, 1.001]. Shape: (B, D) -> (B,)."""
    return F.relu(F.cosine_similarity(vectors, vectors.mean(0, keepdim=True))) + 1e-3


def reweigh(weights: Tensor, c: Tensor, indices: Tensor) -> Tensor:
    """Multiply weights by the members' c and normalise rows. Shape: (n, k), (B,), (n, k) -> (n, k)."""
    scaled = weights * c.to(weights.dtype)[indices]
    return scaled / scaled.sum(1, keepdim=True)


class PowMix(Method):
    """MultiMix with five additional components; the module docstring describes the method."""

    name = "powmix"
    title = "PowMix (reconstruction)"
    citation = (
        "Georgiou et al., PowMix: A Versatile Regularizer for Multimodal Sentiment Analysis, TASLP 2024"
    )
    Settings = PowMixSettings

    def draw(self, generator: np.random.Generator, labels: np.ndarray) -> Draw:
        """Draw the number of mixtures, their sizes and members, and one Lambda or one per modality."""
        s, size = self.settings, len(labels)
        n = max(1, round(s.n_ratio * size))
        if s.random_n:
            n = int(generator.integers(1, n + 1))
        if s.dynamic:
            members = generator.integers(min(2, size), min(s.max_subset, size) + 1, n)
        else:
            members = np.full(n, members_per_mixture(s, size))
        matrices = self.widths if s.anisotropic else ("weights",)
        return Draw(1, draw_mixtures(generator, s, size, members, matrices))

    def forward(
        self, latents: Latents, labels: Tensor, draw: Mapping[str, Tensor], network: Network | None = None
    ) -> Mixed:
        """Reweight each modality's Lambda and mix; labels use the mean Lambda or that of text."""
        s, indices = self.settings, draw["indices"]
        weights = {m: draw[m if s.anisotropic else "weights"] for m in latents.values}
        if s.reweight:
            vectors = latents.vectors()
            weights = {m: reweigh(w, agreement(vectors[m]), indices) for m, w in weights.items()}
        label_weights = (
            torch.stack(list(weights.values())).mean(0) if s.cross_modal_labels else weights["text"]
        )
        return mix(latents, labels, indices, weights, label_weights)

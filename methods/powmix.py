"""powmix: MultiMix for several modalities, a reconstruction (Georgiou et al., TASLP 2024, arXiv 2312.12334).

How to use: `methods=[powmix]`. Latents are mixed before fusion, each modality with itself, as in MultiMix:
Z~^m = Lambda^m Z^m with Dirichlet rows, alpha ~ U[alpha_low, alpha_high] for each row. Five switches:
- `random_n`: n ~ U{1 .. rho B} mixed examples in each step, rho = `n_ratio`; off: n = rho B.
- `reweight`: Lambda^m <- rows of Lambda^m * c^m, normalised, with
  c_i^m = relu(cos(z_i^m, mean_j z_j^m)) + 0.001, which passes no gradient.
- `anisotropic`: a Lambda^m for each modality. Off: one for all.
- `dynamic`: each mixture has U{2 .. min(max_subset, B)} members, the same for all modalities. Off:
  `examples_per_mixture`.
- `cross_modal_labels`: y~ = (mean_m Lambda^m) y. Off: y~ = Lambda^text y.
With all off it is MultiMix.
Suggested settings: none were published with code; those of MultiMix.
When it hurts: see MultiMix; with `anisotropic` the modalities of one mixed example come from different
examples, so what one modality says of another is lost.
Attribution: the paper's abstract, which names the five components; nothing is taken over.

NOTE[DIFF] no code was released and the paper's text was not available: that there are five components and
what they are for is the paper's, the form of each is this project's.
NOTE[DIFF] varying number of mixed examples: uniform in each step, up to rho B, rho = 1.
NOTE[DIFF] reweighting: the cosine to the batch's mean of the pooled latents (a masked mean over time), cut at
0, plus 0.001 so that a row never vanishes.
NOTE[DIFF] anisotropic mixing: independent rows for each modality with the row's alpha in common.
NOTE[DIFF] dynamic mixing: uniform sizes from 2, drawn without replacement; max_subset = 8.
NOTE[DIFF] cross-modal labels: the plain mean over modalities, after the reweighting.
NOTE[DIFF] alpha ~ U[0.5, 2] is MultiMix's, known second hand; `mode: append` as for all methods.
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
    """Settings of PowMix besides MultiMix's.

    n_ratio: mixed examples for each clean one, > 0 (at most, with random_n). max_subset: most members of a
    mixture with dynamic, at least 2. The rest are the switches.
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
    """c, how far each example points to the batch's mean, in [0.001, 1.001]. Shape: (B, D) -> (B,)."""
    return F.relu(F.cosine_similarity(vectors, vectors.mean(0, keepdim=True))) + 1e-3


def reweigh(weights: Tensor, c: Tensor, indices: Tensor) -> Tensor:
    """Weights times their members' c, rows normalised. Shape: (n, k), (B,), (n, k) -> (n, k)."""
    scaled = weights * c.to(weights.dtype)[indices]
    return scaled / scaled.sum(1, keepdim=True)


class PowMix(Method):
    """MultiMix with five additions; the module's docstring is its card."""

    name = "powmix"
    title = "PowMix (reconstruction)"
    citation = (
        "Georgiou et al., PowMix: A Versatile Regularizer for Multimodal Sentiment Analysis, TASLP 2024"
    )
    Settings = PowMixSettings

    def draw(self, generator: np.random.Generator, labels: np.ndarray) -> Draw:
        """The number of mixtures, the size of each, members and a Lambda for all or for each modality."""
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
        """Reweigh each modality's Lambda, mix, and mix the labels with their mean or the text's."""
        s, indices = self.settings, draw["indices"]
        weights = {m: draw[m if s.anisotropic else "weights"] for m in latents.values}
        if s.reweight:
            vectors = latents.vectors()
            weights = {m: reweigh(w, agreement(vectors[m]), indices) for m, w in weights.items()}
        label_weights = (
            torch.stack(list(weights.values())).mean(0) if s.cross_modal_labels else weights["text"]
        )
        return mix(latents, labels, indices, weights, label_weights)

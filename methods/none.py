"""none: no mixing, the baseline of every table.

How to use: `methods=[none]`. The network trains on the clean examples alone: L = L_task.
Suggested settings: none of its own; xi1, mode and mix_loss weigh mixed examples, of which there are none.
When it hurts: where data are few, a method that regularises may do better; that is the question asked here.
Attribution: the backbones' own training.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from backbones.batch import Latents
from methods.base import Draw, Method, Mixed, Network, mix


class NoMixing(Method):
    """No mixed examples."""

    name = "none"
    title = "none"
    citation = "no mixing"

    def draw(self, generator: np.random.Generator, labels: np.ndarray) -> Draw | None:
        """Nothing to mix."""
        return None

    def forward(
        self, latents: Latents, labels: Tensor, draw: Mapping[str, Tensor], network: Network | None = None
    ) -> Mixed:
        """No mixed examples: n = 0."""
        nobody = labels.new_zeros((0, 2))
        return mix(latents, labels, nobody.long(), nobody)

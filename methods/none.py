"""none: no mixing, the baseline of every table.

How to use: `methods=[none]`. The network trains on the clean examples alone: L = L_task.
Suggested settings: none of its own; xi1, mode and mix_loss weigh mixed examples, of which there are none.
When it hurts: where data are few, a method that regularises may do better; that is the question asked here.
Attribution: the backbones' own training.
"""

from __future__ import annotations

import numpy as np

from methods.base import Draw, Method


class NoMixing(Method):
    """No mixed examples."""

    name = "none"
    title = "none"
    citation = "no mixing"

    def draw(self, generator: np.random.Generator, labels: np.ndarray) -> Draw | None:
        """Nothing to mix."""
        return None

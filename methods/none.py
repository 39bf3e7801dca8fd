"""none: no mixing, the baseline of every table.

How to use: `methods=[none]`. The network trains on clean examples only: L = L_task.
Suggested settings: none; xi1, mode and mix_loss have no effect without mixed examples.
When it hurts: with little data, a method that regularises may do better, which this benchmark tests.
Attribution: the training procedures of the backbones.
"""

from __future__ import annotations

import numpy as np

from methods.base import Draw, Method


class NoMixing(Method):
    """Training without mixed examples."""

    name = "none"
    title = "none"
    citation = "no mixing"

    def draw(self, generator: np.random.Generator, labels: np.ndarray) -> Draw | None:
        """Return None: nothing is mixed."""
        return None

"""duplicate: copies of the clean examples, the control for "more loss terms help" (this project's own).

How to use: `methods=[duplicate]`. Every clean latent is appended once more, unmixed:
    z~_i^m = z_i^m,  y~_i = y_i,  L = L_task(clean) + xi1 L_task(copies)
so the network sees as many loss terms as under a method that mixes; copies differ from the clean examples
by the dropout of the fusion alone.
Suggested settings: xi1 as in the methods it is compared with.
When it hurts: on backbones without dropout after the mix point (LMF, ALMT) it is the loss times (1 + xi1),
which an adaptive optimizer hardly notices: there it measures the step size, not regularisation.
Attribution: a control experiment, no paper.

NOTE[DIFF] this project's own; the published comparisons have no such control.
"""

from __future__ import annotations

import numpy as np

from methods.base import Draw, Method


class Duplicate(Method):
    """Copies of the clean latents; the module's docstring is its card."""

    name = "duplicate"
    title = "Duplicate"
    citation = "control: copies of the clean examples"

    def draw(self, generator: np.random.Generator, labels: np.ndarray) -> Draw:
        """Each example with all of the weight; no random number."""
        n = len(labels)
        return Draw(1, {"indices": np.arange(n)[:, None], "weights": np.ones((n, 1), np.float32)})

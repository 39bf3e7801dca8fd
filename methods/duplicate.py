"""duplicate: copies of the clean examples, the control for "more loss terms help" (this project's own).

How to use: `methods=[duplicate]`. Every clean latent is appended once more, without mixing:
    z~_i^m = z_i^m,  y~_i = y_i,  L = L_task(clean) + xi1 L_task(copies)
so the loss has as many terms as with a method that mixes. The copies differ from the clean examples only by
the dropout of the fusion.
Suggested settings: the same xi1 as in the methods that are compared with it.
When it hurts: on backbones without dropout after the mix point (LMF, ALMT) the loss is only scaled by
(1 + xi1), to which an adaptive optimizer is nearly invariant, so the control is nearly the baseline.
Attribution: a control experiment without a paper.

NOTE[DIFF] this control is the project's own; the published comparisons have none.
"""

from __future__ import annotations

import numpy as np

from methods.base import Draw, Method


class Duplicate(Method):
    """Copies of the clean latents; the module docstring describes the method."""

    name = "duplicate"
    title = "Duplicate"
    citation = "control: copies of the clean examples"

    def draw(self, generator: np.random.Generator, labels: np.ndarray) -> Draw:
        """Return each example with weight 1; no random numbers are drawn."""
        n = len(labels)
        return Draw(1, {"indices": np.arange(n)[:, None], "weights": np.ones((n, 1), np.float32)})

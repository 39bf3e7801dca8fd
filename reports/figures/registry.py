"""The report's figures in order."""

from __future__ import annotations

from reports.figures import (
    batch,
    curves,
    forest,
    kinds,
    latents,
    mechanism,
    occlusion,
    radar,
    ranks,
    sweeps,
    tsne,
)
from reports.figures.parts.base import Figure

FIGURES: tuple[Figure, ...] = (
    latents.FIGURE,
    batch.FIGURE,
    tsne.FIGURE,
    sweeps.FIGURE,
    occlusion.FIGURE,
    radar.FIGURE,
    ranks.FIGURE,
    forest.FIGURE,
    mechanism.FIGURE,
    kinds.FIGURE,
    curves.FIGURE,
)

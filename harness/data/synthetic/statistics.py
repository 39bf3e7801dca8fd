"""Statistics of the real datasets, and sizes and signal strengths of their synthetic stand-ins.

Sources. Label histograms, words per clip, clips per video and conflict rates: the project's collected
statistics of CMU-MOSI, CMU-MOSEI and CH-SIMS v2 (dataset_statistics.json; fractions are rounded). Split
sizes, padded lengths and feature widths: the files that MMSA distributes (github.com/thuiar/MMSA, commit
a94e65d, config_regression.json). Signal strengths: tuned with linear probes, see the tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

SIZES = ("quick", "full")


@dataclass(frozen=True)
class DatasetStatistics:
    """Statistics of one real dataset; tuples over modalities are in the order text, audio, vision.

    Args:
        label_scale: labels are in [-label_scale, label_scale].
        grid_per_unit: number of steps of the label grid per unit.
        histogram: weight of each label on the grid, from the lowest to the highest.
        words, clips_per_video: percentile -> value; percentile 0 and, for videos, 100 are assumptions.
        conflict: fraction of all clips in which the modality's sign is opposite to the label's.
        unimodal: slope and noise of the magnitudes of unimodal labels; None if there are no such labels.
    """

    label_scale: float
    grid_per_unit: int
    histogram: tuple[float, ...]
    words: Mapping[int, float]
    clips_per_video: Mapping[int, float]
    conflict: tuple[float, float, float]
    unimodal: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None

    def grid(self) -> np.ndarray:
        """Return all labels in ascending order. Shape: (len(histogram),)."""
        end = round(self.label_scale * self.grid_per_unit)
        return np.arange(-end, end + 1) / self.grid_per_unit

    def probabilities(self) -> np.ndarray:
        """Return the histogram normalised to sum 1. Shape: (len(histogram),)."""
        return np.array(self.histogram) / sum(self.histogram)

    def flip_rates(self) -> np.ndarray:
        """Return conflict rates among clips with a non-zero label; only these can conflict. Shape: (3,)."""
        return np.array(self.conflict) / (1 - self.probabilities()[len(self.histogram) // 2])


@dataclass(frozen=True)
class Shape:
    """Sizes of one stand-in: clips per split (train, valid, test); steps, widths, strengths per modality.

    strength: RMS of the full-intensity signal in a burst; the background has RMS 1."""

    clips: tuple[int, int, int]
    steps: tuple[int, int, int]
    widths: tuple[int, int, int]
    strength: tuple[float, float, float]


_MOSI_WORDS = {0: 3, 5: 4, 25: 7, 50: 10, 75: 16, 90: 23, 95: 28, 99: 45, 100: 114}
_MOSI_CLIPS_PER_VIDEO = {0: 8, 5: 12, 25: 16, 50: 22, 75: 30, 95: 39, 100: 45}
VIDEO_CLIPS_QUICK = {0: 3, 100: 6}

STATISTICS = {
    "synthetic_mosi": DatasetStatistics(
        label_scale=3,
        grid_per_unit=5,
        histogram=(
            *(0.00546, 0.01455, 0.01637, 0.0191, 0.02865, 0.04684, 0.03456, 0.04593, 0.03683, 0.03593),
            *(0.05002, 0.03456, 0.02638, 0.04047, 0.02956, 0.04366, 0.0332, 0.03638, 0.02956, 0.03683),
            *(0.02819, 0.03411, 0.04366, 0.04229, 0.04457, 0.05457, 0.04366, 0.02547, 0.02001, 0.01319),
            0.00546,
        ),
        words=_MOSI_WORDS,
        clips_per_video=_MOSI_CLIPS_PER_VIDEO,
        conflict=(0.05, 0.05, 0.05),
    ),
    "synthetic_mosei": DatasetStatistics(
        label_scale=3,
        grid_per_unit=3,
        histogram=(
            *(0.00553, 0.01224, 0.01804, 0.02839, 0.03318, 0.03633, 0.03875, 0.04924, 0.06718, 0.21819),
            *(0.13165, 0.1108, 0.08268, 0.06196, 0.04428, 0.03243, 0.01738, 0.00908, 0.00268),
        ),
        words={0: 3, 5: 5, 25: 11, 50: 17, 75: 25, 90: 35, 95: 44, 99: 63, 100: 309},
        clips_per_video={0: 1, 5: 1, 25: 3, 50: 5, 75: 10, 95: 20, 100: 40},
        conflict=(0.05, 0.05, 0.05),
    ),
    # NOTE[DIFF]: no statistics of CH-SIMS v1 are available; labels follow v2, words and videos follow MOSI.
    "synthetic_sims": DatasetStatistics(
        label_scale=1,
        grid_per_unit=5,
        histogram=(
            *(0.16716, 0.08313, 0.10152, 0.06109, 0.06904, 0.12128, 0.05814, 0.04951, 0.13968, 0.07995),
            0.0695,
        ),
        words=_MOSI_WORDS,
        clips_per_video=_MOSI_CLIPS_PER_VIDEO,
        conflict=(0.0556, 0.0357, 0.0486),
        unimodal=((0.85, 0.85, 0.9), (0.45, 0.2, 0.25)),
    ),
}

SHAPES = {
    ("synthetic_mosi", "full"): Shape((1284, 229, 686), (50, 375, 500), (768, 5, 20), (1.2, 1.25, 0.54)),
    ("synthetic_mosei", "full"): Shape((16326, 1871, 4659), (50, 500, 500), (768, 74, 35), (1.8, 0.38, 0.46)),
    ("synthetic_sims", "full"): Shape((1368, 456, 457), (39, 400, 55), (768, 33, 709), (1.6, 0.34, 0.22)),
    ("synthetic_mosi", "quick"): Shape((200, 40, 60), (12, 20, 16), (32, 8, 12), (5.0, 1.5, 1.4)),
    ("synthetic_mosei", "quick"): Shape((200, 40, 60), (12, 20, 16), (32, 8, 12), (5.0, 2.0, 1.7)),
    ("synthetic_sims", "quick"): Shape((200, 40, 60), (12, 20, 16), (32, 8, 12), (5.0, 1.2, 1.1)),
}

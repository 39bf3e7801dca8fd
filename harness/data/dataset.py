"""A dataset in host memory: three splits, cleaned and padded.

Sequences are left-aligned and zero-padded to a fixed length ``T_m`` per modality; ``lengths`` holds the
number of valid leading steps of each clip (at least 1). Labels are the dataset's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from backbones.batch import MODALITIES

SPLITS = ("train", "valid", "test")
AFTER_VIDEO = "$_$"  # MMSA's clip ids have the form "video$_$clip"


@dataclass(frozen=True)
class Split:
    """One split in host memory. Arrays may be memory-mapped; do not modify them.

    Shape:
        ids: (N,) unicode. features[m]: (N, T_m, D_m) float32, finite, zero in padded steps.
        lengths[m]: (N,) int64, 1 <= length <= T_m. labels: (N,) float32, in the dataset's own units.
        tokens: (N, 3, T_text) int64 (ids, attention mask, segment ids), left-aligned, or None.
    """

    ids: np.ndarray
    features: Mapping[str, np.ndarray]
    lengths: Mapping[str, np.ndarray]
    labels: np.ndarray
    tokens: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def videos(self) -> int | None:
        """Count the videos that the clips are cut from; None if some id does not name its video."""
        names = videos_of(self.ids)
        return None if names is None else len(set(names.tolist()))


def videos_of(ids: np.ndarray) -> np.ndarray | None:
    """Return the name of each clip's video; None if some id does not name it. Shape: (N,) unicode."""
    names = ids.tolist()
    if not all(AFTER_VIDEO in name for name in names):
        return None
    return np.array([name.partition(AFTER_VIDEO)[0] for name in names])


@dataclass(frozen=True)
class Dataset:
    """Three splits with labels up to ``label_scale`` away from ``label_center``; notes: on the cleaning."""

    splits: Mapping[str, Split]
    label_scale: float
    notes: tuple[str, ...] = ()
    label_center: float = 0.0

    def widths(self) -> dict[str, int]:
        """Return the feature width D_m of each modality."""
        return {m: int(self.splits["train"].features[m].shape[2]) for m in MODALITIES}

    def steps(self) -> dict[str, int]:
        """Return the padded length T_m of each modality."""
        return {m: int(self.splits["train"].features[m].shape[1]) for m in MODALITIES}

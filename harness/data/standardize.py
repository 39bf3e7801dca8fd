"""The scale of features: statistics per modality, a note where scales differ, and standardization."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from backbones.batch import MODALITIES
from harness.data.dataset import Dataset, Split

# Beyond this ratio to the median, a feature alone decides the sums that a network computes.
LARGEST_RATIO = 1e3
_CLIPS_AT_ONCE = 512


@dataclass(frozen=True)
class FeatureScale:
    """Statistics of a modality's valid steps in one split. Shape: low, high, mean, std (D,) float64."""

    low: np.ndarray
    high: np.ndarray
    mean: np.ndarray
    std: np.ndarray

    @property
    def magnitude(self) -> np.ndarray:
        """The root mean square of each feature. Shape: (D,)."""
        return np.hypot(self.mean, self.std)


def feature_scale(split: Split, modality: str) -> FeatureScale:
    """Return the statistics of a modality over all valid steps, in two passes of float64 sums."""
    width = split.features[modality].shape[2]
    steps = int(split.lengths[modality].sum())
    low, high = np.full(width, np.inf), np.full(width, -np.inf)
    total, squares = np.zeros(width), np.zeros(width)
    for values in _valid_steps(split, modality):
        low, high = np.minimum(low, values.min(0)), np.maximum(high, values.max(0))
        total += values.sum(0)
    mean = total / steps
    for values in _valid_steps(split, modality):
        squares += np.square(values - mean).sum(0)
    return FeatureScale(low, high, mean, np.sqrt(squares / steps))


def standardize(dataset: Dataset) -> Dataset:
    """Scale every feature to mean 0 and deviation 1 over the valid steps of the training split.

    A feature that is constant there keeps its unit, without its mean. Padded steps stay zero. The arrays of
    the given dataset are overwritten.
    """
    for modality in MODALITIES:
        scale = feature_scale(dataset.splits["train"], modality)
        # Rounding gives a constant feature a tiny standard deviation.
        constant = scale.std <= 1e-6 * np.abs(scale.mean)
        std = np.where(constant, 1.0, scale.std)
        for split in dataset.splits.values():
            features = split.features[modality]
            for start in range(0, len(split), _CLIPS_AT_ONCE):
                clips = slice(start, start + _CLIPS_AT_ONCE)
                valid = _valid(split, modality, clips)
                features[clips] = np.where(valid[..., None], (features[clips] - scale.mean) / std, 0)
    return replace(dataset, notes=(*dataset.notes, "every feature is scaled to mean 0 and deviation 1."))


def scale_notes(dataset: Dataset) -> list[str]:
    """Return a sentence per modality that has features far larger than the median feature of all."""
    magnitudes = {m: feature_scale(dataset.splits["train"], m).magnitude for m in MODALITIES}
    sizes = np.concatenate(list(magnitudes.values()))
    usual = float(np.median(sizes[sizes > 0])) if (sizes > 0).any() else 1.0
    sentences = []
    for m, values in magnitudes.items():
        large = np.flatnonzero(values > LARGEST_RATIO * usual)
        if len(large):
            worst = int(values.argmax())
            sentences.append(
                f"{m} has {len(large)} of {len(values)} features that are over {LARGEST_RATIO:g} times as "
                f"large as the median of all (feature {worst}: {values[worst]:.2g}, median: {usual:.2g}); "
                "networks train badly on them, and standardize=true scales every feature to mean 0 and "
                "deviation 1."
            )
    return sentences


def _valid(split: Split, modality: str, clips: slice) -> np.ndarray:
    """Mask the valid steps of some clips. Shape: (n, T) bool."""
    steps = np.arange(split.features[modality].shape[1])
    return steps < split.lengths[modality][clips, None]


def _valid_steps(split: Split, modality: str) -> Iterator[np.ndarray]:
    """Yield the valid steps of a few clips at a time as (n, D) float64."""
    for start in range(0, len(split), _CLIPS_AT_ONCE):
        clips = slice(start, start + _CLIPS_AT_ONCE)
        yield split.features[modality][clips][_valid(split, modality, clips)].astype(np.float64)

"""Text inputs of a cell: features, or tokens for a pretrained encoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from backbones.text import TextSettings
from harness.data.dataset import Dataset
from harness.data.strict.npy import map_array
from harness.errors import UserError, printable


def with_text(dataset: Dataset, settings: TextSettings, states: Path | None) -> Dataset:
    """Return the dataset with the text inputs of a cell: features alone, or tokens for an encoder.

    With a frozen encoder, its states (N, T, n_layers * width) replace the text features. With a fine-tuned
    encoder, the text features are empty, (N, T, 0), because its states change during training.
    """
    splits = {}
    for name, split in dataset.splits.items():
        if settings.encoder == "features":
            splits[name] = replace(split, tokens=None)
            continue
        assert split.tokens is not None, "checked when the study was planned"
        n, _, steps = split.tokens.shape
        text = (
            np.zeros((n, steps, 0), np.float32)
            if states is None
            else _mapped(states / f"{name}.npy", (n, steps))
        )
        lengths = np.maximum((split.tokens[:, 1] * np.arange(1, steps + 1)).max(1), 1)
        splits[name] = replace(
            split,
            features={**split.features, "text": text},
            lengths={**split.lengths, "text": lengths},
        )
    return replace(dataset, splits=splits)


def _mapped(file: Path, shape: tuple[int, int]) -> np.ndarray:
    """Map the cached states of a split, whose first two axes must be ``shape``; raises UserError."""
    try:
        states = map_array(file)
        if states.ndim != 3 or states.shape[:2] != shape or states.dtype != np.float32:
            raise ValueError(f"the array is {states.dtype.name} of shape {states.shape}")
    except (OSError, ValueError) as error:
        raise UserError(
            f"The text states {str(file)!r} are damaged ({printable(error)}); "
            "delete that file's folder and run again."
        ) from error
    return states

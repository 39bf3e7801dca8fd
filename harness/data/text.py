"""Text as a cell reads it: features, or tokens for a pretrained encoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from backbones.text import TextSettings
from harness.data.batch import Dataset


def with_text(dataset: Dataset, settings: TextSettings, states: Path | None) -> Dataset:
    """The dataset as a cell reads it: features without tokens, or tokens and the encoder's states.

    The states (N, T, n_layers * width) of a frozen encoder take the place of the text features; those of a
    fine-tuned one do not exist yet, so the features are empty, (N, T, 0).
    """
    splits = {}
    for name, split in dataset.splits.items():
        if settings.encoder == "features":
            splits[name] = replace(split, tokens=None)
            continue
        assert split.tokens is not None, "checked when the study was planned"
        n, _, steps = split.tokens.shape
        text = np.zeros((n, steps, 0), np.float32) if states is None else _mapped(states / f"{name}.npy")
        lengths = np.maximum((split.tokens[:, 1] * np.arange(1, steps + 1)).max(1), 1)
        splits[name] = replace(
            split,
            features={**split.features, "text": text},
            lengths={**split.lengths, "text": lengths},
        )
    return replace(dataset, splits=splits)


def _mapped(file: Path) -> np.ndarray:
    # Copy on write: PyTorch warns of read-only arrays.
    return np.load(file, mmap_mode="c", allow_pickle=False)

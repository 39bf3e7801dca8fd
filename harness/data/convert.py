"""Conversion of what was read into a clean file in MMSA's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backbones.batch import MODALITIES
from harness.data.dataset import Dataset, Split
from harness.data.export import write_pickle


def write_mmsa(dataset: Dataset, path: str | Path, force: bool = False) -> None:
    """Write a dataset as an MMSA pickle that reads as the same arrays; raises UserError as `write_pickle`.

    Sequences are left-aligned and finite. Without tokens, ``text_lengths`` is added to MMSA's keys.
    """
    write_pickle(lambda: {name: _content(split) for name, split in dataset.splits.items()}, path, force)


def _content(split: Split) -> dict[str, Any]:
    content: dict[str, Any] = {"id": split.ids, "regression_labels": split.labels}
    content |= {m: split.features[m] for m in MODALITIES}
    if split.tokens is not None:
        content["text_bert"] = split.tokens
    for m in MODALITIES if split.tokens is None else MODALITIES[1:]:
        content[f"{m}_lengths"] = split.lengths[m].tolist()
    return content

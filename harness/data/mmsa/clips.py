"""Reading of clips that are to be predicted: any splits or none, with or without labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from backbones.batch import MODALITIES
from harness.data.dataset import Split
from harness.data.labels import LabelScale
from harness.data.layouts import recognise
from harness.data.mmsa.align import align
from harness.data.mmsa.contents import load_content
from harness.data.mmsa.reader import equal_steps, read_labels, read_splits
from harness.data.mmsa.split import LABELS, MmsaSplit
from harness.data.strict.memory_limit import MemoryLimit
from harness.errors import UserError, printable

WHOLE = "all"
"""The name of the only split of a file without splits."""
# Labels are read apart, and those that stand in for them are on any scale.
_ANY_SCALE = LabelScale(1.0, 0.0, frozenset({"center", "scale"}))


def read_clips(path: Path) -> tuple[dict[str, Split], frozenset[str]]:
    """Read a feature file as training does; return its splits, and the names of those that have labels.

    The labels of the others are NaN. Features are those that `read_mmsa` returns for a file of three splits.

    Raises:
        UserError: the file is unusable.
    """
    file = repr(str(path))
    try:
        with np.errstate(all="ignore"):
            return _read(path, file)
    except MemoryError:
        raise UserError(f"{file} needs more memory than is available.") from None


def _read(path: Path, file: str) -> tuple[dict[str, Split], frozenset[str]]:
    content = load_content(path)
    memory = MemoryLimit(file, path.stat().st_size)
    content, _ = recognise(content, file, memory)
    if not isinstance(content, dict) or not content:
        raise UserError(f"{file} must be a dict of {', '.join(MODALITIES)}, got {type(content).__name__}.")
    parts = {name: one for name, one in content.items() if isinstance(one, dict)} or {WHOLE: content}
    names = [printable(name, 40) for name in parts]
    if len(set(names)) < len(names):
        raise UserError(f"{file} has several splits of one name; found: {', '.join(names[:10])}.")
    raw = {
        name: MmsaSplit(file, name, dict(one), {}, memory)
        for name, one in zip(names, parts.values(), strict=True)
    }
    labels = {name: read_labels(one) for name, one in raw.items() if one.content.get(LABELS) is not None}
    for name, one in raw.items():
        one.content[LABELS] = np.zeros(len(labels[name]) if name in labels else _clips(one.content))
    splits = equal_steps(align(read_splits(raw, file, _ANY_SCALE), raw), raw)
    own = {name: labels.get(name, np.full(len(split), np.nan)) for name, split in splits.items()}
    known = {name: replace(split, labels=own[name].astype(np.float32)) for name, split in splits.items()}
    return known, frozenset(labels)


def _clips(content: Mapping[Any, Any]) -> int:
    """Return the number of clips by the first modality that has one; 0 without any."""
    found = (content.get(modality) for modality in MODALITIES)
    return next((len(values) for values in found if isinstance(values, list | tuple | np.ndarray)), 0)

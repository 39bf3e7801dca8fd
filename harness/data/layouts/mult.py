"""The layout of MulT's files, such as mosi_data_noalign.pkl, which MultiBench and MMIM use, too.

Each split has text, audio and vision, padded in front; labels (clips, 1, 1), or (clips, 1, 7) with the
sentiment before six emotions; and id (clips, 3): video or clip, start and end, as text or bytes; or id
(clips,) or (clips, 1) like ``video[clip]``. Some files have ``segments`` in place of id. Sources:
src/dataset.py of github.com/yaohungt/Multimodal-Transformer, datasets/affect/get_data.py of
github.com/pliang279/MultiBench, src/create_dataset.py of github.com/declare-lab/Multimodal-Infomax.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.data.dataset import AFTER_VIDEO
from harness.data.layouts.names import as_text, name_clips
from harness.data.strict.memory_limit import MemoryLimit

LABELS = "regression_labels"
# MulT's key -> MMSA's; a key of MMSA's that is there stays.
_RENAMED = {"labels": LABELS, "segments": "id", "segment": "id"}
_COST_OF_NAME = 512
_ALL = "all"


def read_mult(content: dict[Any, Any], file: str, memory: MemoryLimit) -> dict[Any, Any] | None:
    """Rename the keys of MulT's layout, take the sentiment of its labels, and join the columns of its ids."""
    # Folds have other names than splits, and a file without splits is one dict of arrays.
    flat = not any(isinstance(parts, dict) for parts in content.values())
    splits = {_ALL: content} if flat else content
    if not any(_is_mult(parts) for parts in splits.values() if isinstance(parts, dict)):
        return None
    splits = {name: _rename(parts) for name, parts in splits.items()}
    parts = [one for one in splits.values() if isinstance(one, dict)]
    rows = [_rows(one.get("id"), memory) for one in parts]
    if all(row is not None for row in rows):
        for one, names in zip(parts, _name([row or [] for row in rows]), strict=True):
            one["id"] = names
    return splits[_ALL] if flat else splits


def _is_mult(parts: dict[Any, Any]) -> bool:
    labels, ids = parts.get(LABELS), parts.get("id")
    return (
        (labels is None and parts.get("labels") is not None)
        or (isinstance(labels, np.ndarray) and labels.ndim == 3)
        or (isinstance(ids, np.ndarray) and ids.ndim == 2 and ids.shape[1] == 3)
    )


def _rename(parts: Any) -> Any:
    if not isinstance(parts, dict):
        return parts
    renamed = dict(parts)
    for old, new in _RENAMED.items():
        if renamed.get(new) is None and old in renamed:
            renamed[new] = renamed.pop(old)
    labels = renamed.get(LABELS)
    if isinstance(labels, np.ndarray) and labels.shape[1:] == (1, 7):
        renamed[LABELS] = labels[:, 0, 0]
    return renamed


def _rows(ids: Any, memory: MemoryLimit) -> list[list[str]] | None:
    """Return the columns of each clip's id as text; None if they are not of this layout."""
    # Arrays of no columns may declare any number of rows.
    rows = ids.tolist() if isinstance(ids, np.ndarray) and ids.shape[1:] in ((), (1,), (3,)) else ids
    if not isinstance(rows, list) or not rows:
        return None
    named = []
    for row in rows:
        columns = row if isinstance(row, (list, tuple)) else [row]
        if len(columns) not in (1, 3):
            return None
        names = [as_text(value) for value in columns]
        if any(name is None for name in names):
            return None
        named.append([name for name in names if name is not None])
        memory.take(_COST_OF_NAME + 12 * sum(map(len, named[-1])))
    return named


def _name(splits: list[list[list[str]]]) -> list[list[str]]:
    """Name the clips of all splits by their first column if it is distinct, and else by video and start."""
    flat = [row for rows in splits for row in rows]
    names = name_clips([row[0] for row in flat]) or [AFTER_VIDEO.join(row[:2]) for row in flat]
    given = iter(names)
    return [[next(given) for _ in rows] for rows in splits]

"""Names that other layouts give to clips, made ``video$_$clip``, and a key that layouts share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from harness.data.dataset import AFTER_VIDEO

WORD_IDS = "word_ids"  # key of a split: a list of ids per clip

_CLIP_OF_VIDEO = re.compile(r"(.+)_(\d{1,6})")
_SEGMENT = re.compile(r"(.+)\[(\d{1,6})\]")


def as_text(value: Any) -> str | None:
    """Convert a name, also one in bytes or a plain number, to text; None for anything else."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, str):
        return str(value)
    # numpy's own repr of a float64 names its type.
    return repr(float(value)) if isinstance(value, float) else None


def name_clips(names: Sequence[str]) -> list[str] | None:
    """Return ``video$_$clip`` for names like ``video[clip]``, or for distinct ones like ``video_clip``.

    Names without such a form stay if they are distinct; else the result is None.
    """
    distinct = len(set(names)) == len(names)
    for form in (_SEGMENT, *([_CLIP_OF_VIDEO] if distinct else [])):
        parts = [form.fullmatch(name) for name in names]
        if all(parts):
            return [f"{part[1]}{AFTER_VIDEO}{part[2]}" for part in parts if part]
    return list(names) if distinct else None

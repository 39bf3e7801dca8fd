"""Clip ids of an MMSA file: unique text that every table and file can store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from harness.data.dataset import Split
from harness.data.mmsa.split import MmsaSplit

_MAX_NAME_BYTES = 12  # memory per character of a clip id: in an array, and in its sorted copy


def read_ids(raw: MmsaSplit, clips: int) -> np.ndarray:
    """Read clip ids as (N,) unicode; clips without ids, and repeated ids, are numbered. Raises UserError."""
    values = raw.content.pop("id", None)
    if values is None:
        raw.note("id", "is missing, so clips are numbered", clips)
        return np.array([f"{raw.split}_{row}" for row in range(clips)])
    values = values.reshape(-1).tolist() if isinstance(values, np.ndarray) else values
    if not isinstance(values, (list, tuple)) or len(values) != clips:
        count = len(values) if isinstance(values, (list, tuple)) else type(values).__name__
        raise raw.error("id", f"must be a list of {clips} names, one per clip, got {count}")
    names = [_name(raw, value) for value in values]
    # Charged before the names are numbered, which copies them.
    ids = _name_array(raw, names)
    if len(set(names)) < clips:
        ids = _name_array(raw, _number_repeats(raw, names))
    return ids


def _number_repeats(raw: MmsaSplit, names: list[str]) -> list[str]:
    """Add ``_2``, ``_3``, ... to the second and further occurrences of a name."""
    taken, seen, counts = set(names), set[str](), dict[str, int]()
    unique = []
    for name in names:
        new = name
        while new in seen or (new != name and new in taken):
            counts[name] = counts.get(name, 1) + 1
            new = f"{name}_{counts[name]}"
        seen.add(new)
        unique.append(new)
    repeated = sum(new != name for new, name in zip(unique, names, strict=True))
    raw.note("id", "held names that occur several times, which were numbered", repeated)
    return unique


def name_rows(splits: Mapping[str, Split], raw: Mapping[str, MmsaSplit]) -> dict[str, Split]:
    """Prefix ids with the split's name if the ids of every split are row numbers from 0 or 1."""
    if not all(_are_row_numbers(split.ids) for split in splits.values()):
        return dict(splits)
    named = {}
    for name, split in splits.items():
        raw[name].note("id", "holds row numbers, so the split's name was put before them", len(split))
        ids = _name_array(raw[name], [f"{name}_{row}" for row in split.ids.tolist()])
        named[name] = replace(split, ids=ids)
    return named


def _are_row_numbers(ids: np.ndarray) -> bool:
    names = set(ids.tolist())
    return any(names == {str(first + row) for row in range(len(ids))} for first in (0, 1))


def _name_array(raw: MmsaSplit, names: list[str]) -> np.ndarray:
    raw.memory.take(_MAX_NAME_BYTES * len(names) * max(map(len, names)))
    return np.array(names)


def _name(raw: MmsaSplit, value: Any) -> str:
    """Convert a clip id to text that every table and file can store; raises UserError."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    too_large = isinstance(value, int) and value.bit_length() > 64
    if too_large or not isinstance(value, (str, int, float, np.generic)):
        kind = "number of more than 64 bits" if too_large else type(value).__name__
        raise raw.error("id", f"holds a {kind}; names must be text or numbers")
    name = str(value)
    if not name.strip():
        raise raw.error("id", "holds an empty name")
    if not _is_text(name):
        raise raw.error("id", f"holds {ascii(name)[:60]}, which is not valid text")
    return name


def _is_text(name: str) -> bool:
    """Check that a name has no surrogates, which UTF-8 cannot encode."""
    return name.isascii() or not any("\ud800" <= c <= "\udfff" for c in name)

"""Arrays of one split of an MMSA file: features, lengths and tokens, checked but not yet aligned."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from backbones.batch import MODALITIES
from harness.data.layouts.names import WORD_IDS
from harness.data.mmsa.split import LABELS, MmsaSplit

TOKENS = "text_bert"
_MAX_INTEGER = 2**31 - 1  # largest token id or length


def _as_integers(raw: MmsaSplit, key: str, array: np.ndarray, most: int = _MAX_INTEGER) -> np.ndarray:
    """Convert an array of integers in 0 .. ``most`` to int64; raises UserError for other values."""
    bad = ~((array >= 0) & (array <= most) & (array == np.floor(array)))
    if bad.any():
        raise raw.error(key, f"holds {array[bad][0]}; values must be integers in 0 .. {most}")
    return array.astype(np.int64)


def read_lengths(raw: MmsaSplit, modality: str, clips: int, steps: int) -> np.ndarray | None:
    """Read the file's number of valid steps per clip as (N,) int64 in 1 .. T; None if there are none."""
    key = f"{modality}_lengths"
    if raw.content.get(key) is None:
        return None
    array = raw.take(key)
    if array.size != clips or array.shape[:1] != (clips,):
        raise raw.error(key, f"has shape {array.shape} for {clips} clips")
    lengths = _as_integers(raw, key, array.reshape(-1))
    raw.note(modality, "had lengths of 0, taken as 1", (lengths == 0).sum())
    # MMSA-FET truncates features to a number of steps but keeps the original lengths.
    raw.note(modality, "had lengths beyond its steps, cut to these steps", (lengths > steps).sum())
    return np.clip(lengths, 1, steps)


def read_tokens(raw: MmsaSplit, clips: int, steps: int | None) -> np.ndarray | None:
    """Read token ids, attention mask, segment ids as (N, 3, T <= steps) int64; None if there are none."""
    key = TOKENS
    if raw.content.get(key) is None:
        return None
    array = raw.take(key)
    if array.ndim != 3 or array.shape[:2] != (clips, 3) or array.shape[2] == 0:
        raise raw.error(key, f"has shape {array.shape}; it must be ({clips}, 3, steps)")
    if steps is not None and array.shape[2] > steps:
        raw.note(key, "has more steps than text, so it is left out", clips)
        return None
    raw.memory.take(8 * array.size)
    _as_integers(raw, f"{key} attention mask", array[:, 1], 1)
    return _as_integers(raw, key, array)


def read_array(raw: MmsaSplit, modality: str, clips: int) -> np.ndarray:
    """Read uncleaned features as a new (N, T, D) float32 array; raises UserError.

    Clips of their own numbers of steps are padded, and these numbers become the split's lengths.
    """
    array = raw.take_clips(modality)
    if len(array.shape) == 2:
        raw.note(modality, "had no time axis, taken as one step", len(array))
        array = array[:, None, :]
    if array.ndim != 3 or 0 in array.shape[1:]:
        raise raw.error(modality, f"has shape {array.shape}; it must be (clips, steps, width)")
    if len(array) != clips:
        raise raw.error(modality, f"has {len(array)} clips, but {LABELS} has {clips}")
    raw.memory.take(4 * array.size)
    return np.array(array, dtype=np.float32, order="C")


def absent_array(raw: MmsaSplit, modality: str, clips: int, tokens: np.ndarray | None) -> np.ndarray:
    """Return zeros (N, T, 1) for a modality that the file lacks; text has as many steps as its tokens."""
    steps, what = 1, "is not in the file, taken as zeros of width 1"
    if modality == "text" and tokens is not None:
        steps, what = (
            tokens.shape[2],
            "is there as token ids only, for text=bert; its features are zeros",
        )
    else:
        raw.content[f"{modality}_lengths"] = np.ones(clips, np.int64)
        if modality == "text" and raw.content.get("raw_text") is not None:
            what = "is in the file as raw_text only, which is not read, so it is zeros of width 1"
        elif modality == "text" and WORD_IDS in raw.content:
            what = "is in the file as words without embeddings only, so it is zeros of width 1"
    raw.note(modality, what, clips)
    raw.memory.take(4 * clips * steps)
    return np.zeros((clips, steps, 1), np.float32)


def absent_modalities(raw: Mapping[str, MmsaSplit]) -> frozenset[str]:
    """Return the modalities that no split has; raises UserError if there is no other or a name is misspelt.

    A key that is None in every split is absent, whatever the other keys are called.
    """
    absent = {m for m in MODALITIES if all(split.content.get(m) is None for split in raw.values())}
    for m in sorted(absent):
        for split in raw.values():
            if m not in split.content and split.suggestion(m):
                raise split.missing(m)
    first = next(iter(raw.values()))
    if len(absent) == len(MODALITIES) and first.content.get(TOKENS) is None:
        raise first.missing(MODALITIES[0])
    return frozenset(absent)

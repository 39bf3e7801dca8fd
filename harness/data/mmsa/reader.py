"""The reader of MMSA feature files: they are checked, left-aligned and cleaned, and notes say what was done.

The format (github.com/thuiar/MMSA): a pickled dict train/valid/test -> dict of text, audio, vision
(clips, steps, width), regression_labels (clips,), and optionally id, text_bert (clips, 3, steps: token ids,
attention mask, segment ids), audio_lengths and vision_lengths. Other keys are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from backbones.batch import MODALITIES
from harness.data.dataset import SPLITS, Dataset, Split
from harness.data.memory_limit import MemoryLimit
from harness.data.mmsa.align import align
from harness.data.mmsa.split import MmsaSplit, Notes, listed, names_of
from harness.data.mmsa.unpickle import load_pickle
from harness.errors import UserError, nearest

LABELS, CLASSES = "regression_labels", "classification_labels"
LABEL_TOLERANCE = 1e-4
_OTHER_SPLIT_NAMES = {"train": ("training",), "valid": ("val", "dev", "validation"), "test": ("testing",)}
_MOST = 2**31 - 1  # of token ids and lengths
_MAX_NAME_BYTES = 12  # of a character of a name: in an array, and sorted


def _split_contents(content: object, file: str) -> dict[str, dict[Any, Any]]:
    """The content of the three splits."""
    if not isinstance(content, dict):
        raise UserError(f"{file} holds a {type(content).__name__}; a dict of {', '.join(SPLITS)} is needed.")
    for split in SPLITS:
        if split not in content:
            others = [name for name in _OTHER_SPLIT_NAMES[split] if name in content]
            hint = f".{nearest(split, names_of(content))}"
            hint = f"; rename {others[0]!r} to {split!r}." if others else hint
            raise UserError(f"{file} has no split {split!r}; found: {listed(content)}{hint}")
        if not isinstance(content[split], dict) or not content[split]:
            kind = "empty" if isinstance(content[split], dict) else f"a {type(content[split]).__name__}"
            raise UserError(
                f"{file}: split {split!r} is {kind}; a dict with {LABELS} and features is needed."
            )
    return {split: dict(content[split]) for split in SPLITS}


def _read_labels(raw: MmsaSplit, label_scale: float) -> np.ndarray:
    """Labels as (N,) float32, checked against the range."""
    if LABELS not in raw.content and CLASSES in raw.content:
        what = f"has no {LABELS!r}, and {CLASSES!r} cannot stand for them; a score of each clip is needed."
        raise UserError(f"{raw.file}: split {raw.split!r} {what}")
    array = raw.take(LABELS)
    if array.dtype.kind == "b":
        raise raw.wrong(LABELS, "holds True and False; a score of each clip is needed")
    if array.ndim != 1 and array.shape[1:] != (1,):
        raise raw.wrong(LABELS, f"has shape {array.shape}; (clips,) is needed")
    labels = array.reshape(-1).astype(np.float64)
    if len(labels) == 0:
        raise UserError(f"{raw.file}: split {raw.split!r} is empty; every split needs a clip.")
    if not np.isfinite(labels).all():
        raise raw.wrong(LABELS, f"holds {labels[~np.isfinite(labels)][0]}; labels must be finite")
    worst = labels[np.abs(labels).argmax()]
    if abs(worst) > label_scale + LABEL_TOLERANCE:
        allowed = f"[-{label_scale:g}, {label_scale:g}]"
        raise raw.wrong(LABELS, f"holds {worst:g}, outside {allowed}; set label_scale to the data's range")
    return np.clip(labels, -label_scale, label_scale).astype(np.float32)


def _read_ids(raw: MmsaSplit, clips: int) -> np.ndarray:
    """Clip ids as (N,) unicode, without repetition."""
    values = raw.content.pop("id", None)
    if values is None:
        raw.note("id", "is missing, so clips are numbered", clips)
        return np.array([f"{raw.split}_{row}" for row in range(clips)])
    values = values.reshape(-1).tolist() if isinstance(values, np.ndarray) else values
    if not isinstance(values, (list, tuple)) or len(values) != clips:
        count = len(values) if isinstance(values, (list, tuple)) else "no list of"
        raise raw.wrong("id", f"holds {count} names for {clips} clips")
    ids = _name_array(raw, [_name(raw, value) for value in values])
    different, counts = np.unique(ids, return_counts=True)
    if len(different) < clips:
        raise raw.wrong("id", f"names {str(different[counts.argmax()])!r:.60} {counts.max()} times")
    return ids


def _name_rows(splits: Mapping[str, Split], raw: Mapping[str, MmsaSplit]) -> dict[str, Split]:
    """Put the split's name before ids that number the rows, from 0 or 1, in every split."""
    if not all(_are_row_numbers(split.ids) for split in splits.values()):
        return dict(splits)
    named = {}
    for name, split in splits.items():
        raw[name].note("id", "numbers the rows, so the split's name is put before it", len(split))
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
    """A clip's name as text that every table and file can hold."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    whole = isinstance(value, int) and value.bit_length() > 64
    if whole or not isinstance(value, (str, int, float, np.generic)):
        what = "number of more than 64 bits" if whole else type(value).__name__
        raise raw.wrong("id", f"holds a {what}; names must be text or numbers")
    name = str(value)
    if not name.strip():
        raise raw.wrong("id", "holds an empty name")
    if not _is_text(name):
        raise raw.wrong("id", f"holds {ascii(name)[:60]}, which is no text")
    return name


def _is_text(name: str) -> bool:
    """Whether there are no halves of characters in it, which UTF-8 cannot hold."""
    return name.isascii() or not any("\ud800" <= c <= "\udfff" for c in name)


def _whole(raw: MmsaSplit, key: str, array: np.ndarray, most: int = _MOST) -> np.ndarray:
    """The array as int64, if it holds whole numbers from 0 to `most`."""
    bad = ~((array >= 0) & (array <= most) & (array == np.floor(array)))
    if bad.any():
        raise raw.wrong(key, f"holds {array[bad][0]}; whole numbers from 0 to {most} are allowed")
    return array.astype(np.int64)


def _read_lengths(raw: MmsaSplit, modality: str, clips: int, steps: int) -> np.ndarray | None:
    """The given number of valid steps of each clip as (N,) int64, 1 to T; None where not given.

    MMSA-FET cuts features to a number of steps and keeps the lengths from before.
    """
    key = f"{modality}_lengths"
    if raw.content.get(key) is None:
        return None
    array = raw.take(key)
    if array.size != clips or array.shape[:1] != (clips,):
        raise raw.wrong(key, f"has shape {array.shape} for {clips} clips")
    lengths = _whole(raw, key, array.reshape(-1))
    raw.note(modality, "had lengths of 0, taken as 1", (lengths == 0).sum())
    raw.note(modality, "had lengths beyond its steps, taken as all of these", (lengths > steps).sum())
    return np.clip(lengths, 1, steps)


def _read_tokens(raw: MmsaSplit, clips: int, steps: int) -> np.ndarray | None:
    """Token ids, attention mask and segment ids as (N, 3, T) int64, T <= steps; None if there are none."""
    key = "text_bert"
    if raw.content.get(key) is None:
        return None
    array = raw.take(key)
    if array.ndim != 3 or array.shape[:2] != (clips, 3) or array.shape[2] == 0:
        raise raw.wrong(key, f"has shape {array.shape}; ({clips}, 3, steps) is needed")
    if array.shape[2] > steps:
        raw.note(key, "has more steps than text, so it is left out", clips)
        return None
    raw.memory.take(8 * array.size)
    _whole(raw, f"{key} attention mask", array[:, 1], 1)
    return _whole(raw, key, array)


def _read_array(raw: MmsaSplit, modality: str, clips: int) -> np.ndarray:
    """The features as a fresh (N, T, D) float32 array, contents as given."""
    array = raw.take(modality)
    if len(array.shape) == 2:
        raw.note(modality, "had no time axis, taken as one step", len(array))
        array = array[:, None, :]
    if array.ndim != 3 or 0 in array.shape[1:]:
        raise raw.wrong(modality, f"has shape {array.shape}; (clips, steps, width) is needed")
    if len(array) != clips:
        raise raw.wrong(modality, f"holds {len(array)} clips, but {LABELS} {clips}")
    raw.memory.take(4 * array.size)
    return np.array(array, dtype=np.float32, order="C")


def _read_split(raw: MmsaSplit, label_scale: float) -> Split:
    """A split whose steps lie anywhere, with the lengths that the file gives."""
    labels = _read_labels(raw, label_scale)
    ids = _read_ids(raw, len(labels))
    features = {m: _read_array(raw, m, len(labels)) for m in MODALITIES}
    tokens = _read_tokens(raw, len(labels), features["text"].shape[1])
    lengths = {}
    for m in MODALITIES if tokens is None else MODALITIES[1:]:
        given = _read_lengths(raw, m, *features[m].shape[:2])
        if given is not None:
            lengths[m] = given
    return Split(ids, features, lengths, labels, tokens)


def _check_widths(splits: Mapping[str, Split], file: str) -> None:
    for modality in MODALITIES:
        widths = {split: splits[split].features[modality].shape[2] for split in SPLITS}
        if len(set(widths.values())) > 1:
            listed = ", ".join(f"{split} {width}" for split, width in widths.items())
            raise UserError(f"{file}: the width of {modality} differs between splits ({listed}).")


def _check_leakage(splits: Mapping[str, Split], file: str) -> None:
    seen: dict[str, str] = {}
    for split in SPLITS:
        names = splits[split].ids.tolist()
        for name in names:
            if name in seen:
                raise UserError(f"{file}: clip {name!r:.60} is in both {seen[name]!r} and {split!r}.")
        seen.update(dict.fromkeys(names, split))


def _pad(raw: MmsaSplit, array: np.ndarray, steps: int, axis: int) -> np.ndarray:
    missing = [(0, 0)] * array.ndim
    missing[axis] = (0, steps - array.shape[axis])
    if not missing[axis][1]:
        return array
    raw.memory.take(array.nbytes // array.shape[axis] * steps)
    return np.pad(array, missing)


def _equal_steps(splits: Mapping[str, Split], raw: Mapping[str, MmsaSplit]) -> dict[str, Split]:
    """Pad every split to the longest T_m of the three; tokens are kept for all splits or none."""
    steps = {m: max(split.features[m].shape[1] for split in splits.values()) for m in MODALITIES}
    with_tokens = all(split.tokens is not None for split in splits.values())
    padded = {}
    for name, split in splits.items():
        features = {m: _pad(raw[name], split.features[m], steps[m], 1) for m in MODALITIES}
        for m in MODALITIES:
            is_padded = features[m] is not split.features[m]
            raw[name].note(m, f"was padded to {steps[m]} steps", is_padded * len(split))
        tokens = split.tokens if with_tokens else None
        if tokens is not split.tokens:
            raw[name].note("text_bert", "is not in every split, so it is left out", len(split))
        tokens = None if tokens is None else _pad(raw[name], tokens, steps["text"], 2)
        padded[name] = replace(split, features=features, tokens=tokens)
    return padded


def read_mmsa(path: str | Path, label_scale: float) -> Dataset:
    """Read an MMSA pickle whose labels lie in [-label_scale, label_scale]; `notes` say what was cleaned.

    The valid steps of text are those of its attention mask, of audio and vision those that `*_lengths`
    give (unless they end at the first zero step and cut clips); without these, those of the text where they
    are aligned with it (as many steps, and nine in ten clips within the mask), else from the first to the
    last non-zero step. Non-finite values become 0.

    Raises:
        UserError: the file cannot be used as it is (one sentence: where, what was found, what is allowed).
    """
    file = repr(str(path))
    if not (math.isfinite(label_scale) and label_scale > 0):
        raise UserError(f"label_scale is {label_scale}; it must be a positive number.")
    try:
        # Numbers that do not fit, and NaNs that signal, are found by what becomes of them.
        with np.errstate(all="ignore"):
            return _read(path, file, label_scale)
    except MemoryError:
        raise UserError(f"{file} needs more memory than there is.") from None


def _read(path: str | Path, file: str, label_scale: float) -> Dataset:
    contents = _split_contents(load_pickle(path), file)
    notes: Notes = {}
    memory = MemoryLimit(file, Path(path).stat().st_size)
    raw = {split: MmsaSplit(file, split, contents[split], notes, memory) for split in SPLITS}
    splits = _name_rows({name: _read_split(split, label_scale) for name, split in raw.items()}, raw)
    _check_widths(splits, file)
    _check_leakage(splits, file)
    aligned = _equal_steps(align(splits, raw), raw)
    sentences = (f"{m} {what} ({unit}: {', '.join(counts)})." for (m, what, unit), counts in notes.items())
    return Dataset(aligned, float(label_scale), tuple(sentences))


def summary_lines(dataset: Dataset) -> list[str]:
    """A description for people: per split its clips, videos, labels and modalities, then the notes."""
    lines = []
    for name, split in dataset.splits.items():
        videos = split.videos()
        of_videos = "" if videos is None else f" of {videos} videos"
        y = split.labels.astype(np.float64)
        lines.append(
            f"{name}: {len(split)} clips{of_videos}; labels {y.min():g} to {y.max():g}, "
            f"mean {y.mean():.3f}, std {y.std():.3f}"
        )
        for m in MODALITIES:
            values, lengths = split.features[m], split.lengths[m]
            filled = np.any(values, axis=(1, 2)).mean()
            lines.append(
                f"  {m:<6} {values.shape[1]} x {values.shape[2]}; length min {lengths.min()}, "
                f"median {np.median(lengths):g}, max {lengths.max()}; non-zero clips {filled:.1%}"
            )
    return lines + [f"note: {note}" for note in dataset.notes]

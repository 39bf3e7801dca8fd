"""One split of an MMSA file as unpickled: plain containers of unchecked shape and content."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, SupportsInt

import numpy as np

from backbones.batch import MODALITIES
from harness.data.strict.memory_limit import MemoryLimit
from harness.errors import UserError, nearest, printable

# (modality, change, unit) -> counts, one text per split
Notes = dict[tuple[str, str, str], list[str]]

LABELS = "regression_labels"
_MAX_NESTING = 32
_NO_OBJECTS = np.dtype(np.int8)
_COST_OF_NUMBER = 32
_NUMBERS = (int, float, np.number, np.bool_)
_MAX_NAMES, _MAX_CHARACTERS = 12, 60
# Names of other formats for the keys of this one.
_OTHER_NAMES = {
    "text": ("language", "words", "glove"),
    "audio": ("acoustic", "speech", "covarep"),
    "vision": ("visual", "video", "facet"),
}
# The keys of the format, which are never suggested as misspellings of each other.
_NAMES = frozenset(
    (
        *MODALITIES,
        *(f"{m}_lengths" for m in MODALITIES),
        "id",
        "raw_text",
        "text_bert",
        "annotations",
        "regression_labels",
        "classification_labels",
    )
)


class NoNumbersError(Exception):
    """Data that must be numbers have another type, which the message names."""


@dataclass
class MmsaSplit:
    """One split as stored in the file; reading a key removes it, which frees its memory."""

    file: str
    split: str
    content: dict[Any, Any]
    notes: Notes
    memory: MemoryLimit

    def __post_init__(self) -> None:
        self.keys = list(self.content)  # of the file, for errors: reading removes them from the content

    def error(self, key: str, what: str) -> UserError:
        """Build the error about a key; ``what`` is the predicate of its sentence."""
        return UserError(f"{self.file}: {self.split}/{key} {what}.")

    def note(self, modality: str, what: str, count: SupportsInt, unit: str = "clips") -> None:
        """Note a change ``what`` to ``count`` units, unless the count is 0."""
        if int(count):
            self.notes.setdefault((modality, what, unit), []).append(f"{self.split} {int(count)}")

    def take(self, key: str) -> np.ndarray:
        """Remove a key and return its numbers as an array of any real dtype; raises UserError."""
        if key not in self.content:
            raise self.missing(key)
        try:
            return as_numbers(self.content.pop(key), self.memory)
        except (ValueError, TypeError, OverflowError):
            raise self.error(key, "does not form an array; its clips must have equal shapes") from None
        except NoNumbersError as error:
            raise self.error(key, f"must hold numbers, got {error}") from None

    def take_clips(self, key: str) -> np.ndarray:
        """Remove features as `take` does; ragged ones are padded, and their lengths put in the content."""
        value = self.content.get(key)
        if not isinstance(value, (list, tuple)) and getattr(value, "dtype", _NO_OBJECTS).kind != "O":
            return self.take(key)
        try:
            ragged = ragged_clips(value, self.memory)
        except NoNumbersError as error:
            raise self.error(key, f"must hold numbers, got {error}") from None
        except (ValueError, TypeError, OverflowError):
            what = "does not form an array; its clips must have equal shapes, or (steps, width) of one width"
            raise self.error(key, what) from None
        if ragged is None:
            return self.take(key)
        del self.content[key]
        array, lengths = ragged
        if self.content.get(f"{key}_lengths") is None:
            self.content[f"{key}_lengths"] = lengths
        self.note(key, "had clips of different lengths, which were padded", len(array))
        return array

    def missing(self, key: str) -> UserError:
        """Build the error for a key that the split lacks, with the nearest of its keys."""
        found = f"{self.file}: split {self.split!r} has no {key!r}; found: {list_names(self.keys)}."
        return UserError(found + self.suggestion(key))

    def suggestion(self, key: str) -> str:
        """Return a question with the key that may be meant, or an empty text."""
        names = [name for name in printable_names(self.keys) if name not in _NAMES]
        other = next((name for name in _OTHER_NAMES.get(key, ()) if name in names), None)
        return f" Did you mean {other!r}?" if other else nearest(key, names)


def as_numbers(value: Any, memory: MemoryLimit) -> np.ndarray:
    """Convert an array, or nested lists, tuples and object arrays of numbers, to an array of a real dtype.

    Raises:
        NoNumbersError: The value contains something other than numbers.
        ValueError, TypeError, OverflowError: The numbers do not form an array.
    """
    if not isinstance(value, np.ndarray) or value.dtype.kind == "O":
        _check_numbers(value, memory)
        value = np.asarray(value)
        value = np.array(value.tolist()) if value.dtype.kind == "O" else value
    if value.dtype.kind not in "biuf":
        raise NoNumbersError(value.dtype.name)
    return value


def ragged_clips(value: Any, memory: MemoryLimit) -> tuple[np.ndarray, np.ndarray] | None:
    """Pad clips (T_i, D) of different lengths; None if all have the same shape, as for `as_numbers`.

    An empty clip has length 0. Shape: the result is (N, T, D) float32 and lengths (N,) int64.

    Raises:
        NoNumbersError: A clip contains something other than numbers.
        ValueError, TypeError, OverflowError: The clips have no common width.
    """
    items = value.reshape(-1).tolist() if isinstance(value, np.ndarray) and value.ndim == 1 else value
    sizes = {len(item) if isinstance(item, (list, tuple)) else _steps(item) for item in items}
    if len(sizes) < 2 or -1 in sizes:
        return None
    clips = [as_numbers(item, memory) for item in items]
    width = {clip.shape[1:] for clip in clips if clip.size}
    if len(width) != 1 or len(shape := width.pop()) != 1:
        raise ValueError("no common width")
    lengths = np.array([len(clip) if clip.size else 0 for clip in clips])
    memory.take(4 * len(clips) * int(lengths.max()) * shape[0])
    padded = np.zeros((len(clips), int(lengths.max()), *shape), np.float32)
    for row, clip in enumerate(clips):
        if clip.size:
            padded[row, : len(clip)] = clip
    return padded, lengths


def _steps(clip: Any) -> int:
    """Return the number of steps of a clip, or -1 if it has none."""
    return len(clip) if isinstance(clip, np.ndarray) and clip.ndim else -1


def _check_numbers(value: Any, memory: MemoryLimit) -> None:
    """Check the types in nested containers, and charge their memory level by level.

    A container that occurs several times is charged each time, because numpy would copy it each time.
    """
    level = [value]
    for _ in range(_MAX_NESTING):
        inner = []
        for kind in set(map(type, level)):
            if not issubclass(kind, (*_NUMBERS, np.ndarray, list, tuple)):
                raise NoNumbersError(kind.__name__)
        for item in level:
            if isinstance(item, (list, tuple)):
                inner.append(item)
            elif isinstance(item, np.ndarray) and item.dtype.kind == "O":
                inner.append(item.reshape(-1).tolist())
            elif isinstance(item, np.ndarray):
                memory.take(2 * item.nbytes)
        if not inner:
            return
        memory.take(_COST_OF_NUMBER * (len(inner) + sum(map(len, inner))))
        level = list(chain.from_iterable(inner))
    raise ValueError("nested too deeply")


def printable_names(keys: Iterable[Any]) -> list[str]:
    """Return the first keys as printable text, truncated."""
    return [printable(str(key)[:_MAX_CHARACTERS]) for key in islice(keys, _MAX_NAMES)]


def list_names(keys: Iterable[Any]) -> str:
    """List keys in words: the first names and the number of further ones."""
    names = list(keys)
    more = len(names) - _MAX_NAMES
    return ", ".join(printable_names(names)) + (f" and {more} more" if more > 0 else "") or "nothing"

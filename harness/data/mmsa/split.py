"""One split of an MMSA file as unpickled: plain containers of unchecked shape and content."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, SupportsInt

import numpy as np

from backbones.batch import MODALITIES
from harness.data.memory_limit import MemoryLimit
from harness.errors import UserError, nearest, printable

# (modality, change, unit) -> counts, one text per split
Notes = dict[tuple[str, str, str], list[str]]

_MAX_NESTING = 32
_COST_OF_NUMBER = 32
_NUMBERS = (int, float, np.number, np.bool_)
_MAX_NAMES, _MAX_CHARACTERS = 12, 60
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
            raise UserError(
                f"{self.file}: split {self.split!r} has no {key!r}; found: {list_names(self.keys)}."
                f"{nearest(key, [name for name in printable_names(self.keys) if name not in _NAMES])}"
            )
        try:
            array = as_numbers(self.content.pop(key), self.memory)
        except (ValueError, TypeError, OverflowError):
            raise self.error(key, "does not form an array; its clips must have equal shapes") from None
        except NoNumbersError as error:
            raise self.error(key, f"must hold numbers, got {error}") from None
        return array


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

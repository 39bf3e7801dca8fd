"""One split of an MMSA file as the pickle gives it: plain containers of any shape and content."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, SupportsInt

import numpy as np

from backbones.batch import MODALITIES
from harness.data.memory_limit import MemoryLimit
from harness.errors import UserError, nearest, printable

# (modality, what was cleaned, unit) -> the counts by split
Notes = dict[tuple[str, str, str], list[str]]

_MAX_NESTING = 32
_COST_OF_NUMBER = 32
_NUMBERS = (int, float, np.number, np.bool_)
_SHOWN_NAMES, _SHOWN_CHARACTERS = 12, 60
# Of the format; none of them is another one's misspelling.
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
    """Carries the type that stands in the place of numbers."""


@dataclass
class MmsaSplit:
    """One split as the file has it; keys are taken out when read, so that their memory is given back."""

    file: str
    split: str
    content: dict[Any, Any]
    notes: Notes
    memory: MemoryLimit

    def wrong(self, key: str, what: str) -> UserError:
        """An error about a key, as one sentence."""
        return UserError(f"{self.file}: {self.split}/{key} {what}.")

    def note(self, modality: str, what: str, count: SupportsInt, unit: str = "clips") -> None:
        """Note that something was cleaned, if anything was."""
        if int(count):
            self.notes.setdefault((modality, what, unit), []).append(f"{self.split} {int(count)}")

    def take(self, key: str) -> np.ndarray:
        """The numbers under a key, as an array of any real dtype."""
        if key not in self.content:
            raise UserError(
                f"{self.file}: split {self.split!r} has no {key!r}; found: {listed(self.content)}."
                f"{nearest(key, [name for name in names_of(self.content) if name not in _NAMES])}"
            )
        try:
            array = as_numbers(self.content.pop(key), self.memory)
        except (ValueError, TypeError, OverflowError):
            raise self.wrong(key, "does not form an array; its clips must have equal shapes") from None
        except NoNumbersError as error:
            raise self.wrong(key, f"holds no numbers but {error}") from None
        return array


def as_numbers(value: Any, memory: MemoryLimit) -> np.ndarray:
    """An array of a real dtype from an array, or from lists, tuples and arrays of objects around numbers.

    Raises:
        NoNumbersError: something else is among them.
        ValueError, TypeError, OverflowError: they form no array.
    """
    if not isinstance(value, np.ndarray) or value.dtype.kind == "O":
        _check_numbers(value, memory)
        value = np.asarray(value)
        value = np.array(value.tolist()) if value.dtype.kind == "O" else value
    if value.dtype.kind not in "biuf":
        raise NoNumbersError(value.dtype.name)
    return value


def _check_numbers(value: Any, memory: MemoryLimit) -> None:
    """Take memory for what nested containers hold, level by level, a shared one each time it occurs.

    Numpy would make an array of all that at once, and of text one as wide as the longest.
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


def names_of(keys: Iterable[Any]) -> list[str]:
    """The first keys as text that can be shown, long ones cut."""
    return [printable(str(key)[:_SHOWN_CHARACTERS]) for key in islice(keys, _SHOWN_NAMES)]


def listed(keys: Iterable[Any]) -> str:
    """Keys by name, in words; the first ones of many."""
    names = list(keys)
    more = len(names) - _SHOWN_NAMES
    return ", ".join(names_of(names)) + (f" and {more} more" if more > 0 else "") or "nothing"

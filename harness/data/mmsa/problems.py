"""All errors that are found in a file, which are raised together as one UserError."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from harness.data.strict.memory_limit import TooLargeError
from harness.errors import UserError

_MAX_CHARACTERS = 900
_DIFFERENCES = re.compile(r"\b(train|valid|test)/|: split '\w+' |\d+|; found: .*", re.DOTALL)


class Problems:
    """Errors of the parts of a file; file: its name, with which each error begins."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._errors: list[UserError] = []

    def __bool__(self) -> bool:
        return bool(self._errors)

    @contextlib.contextmanager
    def collected(self) -> Iterator[None]:
        """Keep an error of the block for `check`; a file that is too large is refused at once."""
        try:
            yield
        except TooLargeError:
            raise
        except UserError as error:
            self._errors.append(error)

    def check(self) -> None:
        """Raise a UserError with the distinct problems so far, the first one first, unless there are none."""
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            raise UserError(self._sentence()).with_traceback(self._errors[0].__traceback__)

    def _sentence(self) -> str:
        texts: dict[str, str] = {}
        for error in self._errors:
            text = str(error)
            # The same problem of another split is no further one.
            texts.setdefault(_DIFFERENCES.sub("", text), text)
        sentence, *others = texts.values()
        left = len(others)
        for text in others:
            text = text.removeprefix(f"{self._file}: ").replace(self._file, "it", 1)
            if len(sentence) + len(text) > _MAX_CHARACTERS:
                break
            sentence, left = f"{_open(sentence)} also, {text}", left - 1
        return f"{_open(sentence)} also, {left} other problems." if left else sentence


def _open(sentence: str) -> str:
    """End a sentence so that another clause can follow."""
    return f"{sentence[:-1]};" if sentence.endswith(".") else sentence

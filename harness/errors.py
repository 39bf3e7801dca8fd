"""Exceptions with a message for the user, and functions that make text safe to print.

A message may quote any text, also from a file: invisible characters are escaped, and addresses lose their
user and password.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

# Control characters, line separators, bidirectional marks, and surrogates (undecodable bytes).
_UNSEEN = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]"
)
# USER:... is kept, since examples of addresses contain it.
_CREDENTIALS = re.compile(r"(?<=:/)(/?)(?!USER\b)[^\s/@'\"]*:[^\s@'\"]*@")


class Sentence(Exception):
    """An exception whose message is one printable sentence without passwords."""

    def __init__(self, sentence: str) -> None:
        super().__init__(_CREDENTIALS.sub(r"\1", visible(sentence)))


class UserError(Sentence):
    """An invalid request (exit status 2); the message says what is wrong, what is allowed and what to do."""


class StoreError(Sentence):
    """A store that is unreachable after all retries, cannot write, or is damaged; the message says why."""


def visible(text: str) -> str:
    """Escape the invisible characters of a text, e.g. as ``\\u202e``."""
    return _UNSEEN.sub(lambda sign: f"\\u{ord(sign[0]):04x}", text)


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest allowed name, or an empty string."""
    close = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def unknown(kind: str, name: str, allowed: Iterable[str]) -> UserError:
    """Build the error for a name that is not in a list of allowed names."""
    names = sorted(allowed)
    return UserError(f"Unknown {kind} {name!r}; allowed: {', '.join(names)}.{nearest(name, names)}")


def file_error(name: str, verb: str, error: OSError) -> UserError:
    """Build the error for a file that cannot be used; verb: a participle, "read" or "written"."""
    return UserError(f"{name} cannot be {verb}: {error.strerror or error}.")


def one_line(error: BaseException) -> str:
    """Return the first line of an error's message without its full stop, or its type if it has none.

    For an error that SQLAlchemy wraps, this is the database's own message.
    """
    wrapped = getattr(error, "orig", None)
    lines = str(wrapped or error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(wrapped or error).__name__


def line_with_type(error: BaseException) -> str:
    """Return the first line of an error's message, after its type unless it is a `UserError`."""
    lines = str(error).strip().splitlines()
    if isinstance(error, UserError) and lines:
        return lines[0]
    name = type(error).__name__
    return f"{name}: {lines[0]}" if lines else name


def printable(text: object, most: int = 200) -> str:
    """Shorten a text to one printable line: line ends become spaces, unprintable characters "?"."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(str(text).split())[:most])

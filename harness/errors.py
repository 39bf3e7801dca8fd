"""The exceptions whose sentence is shown to the user, and how texts are made safe to show.

A sentence may quote any text, also from a file: invisible characters are spelt out, and an address loses
its user and password.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

# Control characters, marks that turn the direction of reading, and what stands for undecodable bytes.
_UNSEEN = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]"
)
# But for USER, which stands in examples.
_CREDENTIALS = re.compile(r"(?<=:/)(/?)(?!USER\b)[^\s/@'\"]*:[^\s@'\"]*@")


class Sentence(Exception):
    """An exception whose message is one printable sentence without passwords."""

    def __init__(self, sentence: str) -> None:
        super().__init__(_CREDENTIALS.sub(r"\1", visible(sentence)))


class UserError(Sentence):
    """The request is wrong: what was given, what is allowed and the nearest name; commands exit with 2."""


class StoreError(Sentence):
    """A store did not answer or could not write, for longer than the driver waits; the sentence says why."""


def visible(text: str) -> str:
    """The text with its invisible characters spelt out, as ``\\u202e``."""
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
    """Build the error for what cannot be read or written; verb: its participle."""
    return UserError(f"{name} cannot be {verb}: {error.strerror or error}.")


def one_line(error: BaseException) -> str:
    """What an error says in one line, without its full stop; its type where it says nothing.

    Of an error that SQLAlchemy wraps, the words of the database.
    """
    wrapped = getattr(error, "orig", None)
    lines = str(wrapped or error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(wrapped or error).__name__


def line_with_type(error: BaseException) -> str:
    """What an error says in one line, after its type unless it is a sentence for the user."""
    lines = str(error).strip().splitlines()
    if isinstance(error, UserError) and lines:
        return lines[0]
    name = type(error).__name__
    return f"{name}: {lines[0]}" if lines else name


def printable(text: object, most: int = 200) -> str:
    """One short line that shows as it is: line ends become spaces, what cannot be shown a question mark."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(str(text).split())[:most])

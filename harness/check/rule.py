"""A rule of the contract, and the place in a plugin where it was broken."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import line_with_type, printable

MOST_CHARACTERS = 300


class Broken(Exception):
    """A broken rule; the message names field, value and expectation."""


@dataclass(frozen=True)
class Rule:
    """A sentence that holds for every class, and the function that raises an exception if it does not.

    hint: whether breaking the rule can be right for an honest method, so that it is only said.
    """

    sentence: str
    check: Callable[[type[Any]], None]
    hint: bool = False


@dataclass(frozen=True)
class Verdict:
    """The result of a rule; fault: what is wrong and where, or empty."""

    rule: Rule
    fault: str

    @property
    def failed(self) -> bool:
        """Whether a rule that is more than a hint is broken."""
        return bool(self.fault) and not self.rule.hint


def expect(holds: bool, field: str, value: object, expected: str) -> None:
    """Raise `Broken` unless ``holds``."""
    if not holds:
        raise Broken(f"{field} must {expected}, got {printable(value, MOST_CHARACTERS)}")


def verdicts(cls: type[Any], rules: Sequence[Rule], file: str) -> list[Verdict]:
    """Check the rules; file: the class's file, whose lines faults name."""
    return [Verdict(rule, _fault(cls, rule, file)) for rule in rules]


def _fault(cls: type[Any], rule: Rule, file: str) -> str:
    try:
        rule.check(cls)
    except Broken as error:
        return f"{error}."
    except Exception as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
        where = f" (line {lines[-1]})" if lines else ""
        return f"{line_with_type(error).rstrip('.')}{where}."
    return ""

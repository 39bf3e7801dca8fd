"""The departures from papers and references that the cards of methods and backbones name as NOTE[DIFF]."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from backbones import BACKBONES
from methods import METHODS
from reports.names import base_method

MARK = "NOTE[DIFF]"


def departures(methods: Iterable[str], backbones: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Title and notes of each method and backbone among these names (variants count as their method)."""
    entries: list[Any] = [METHODS[m] for m in sorted({base_method(m) for m in methods}) if m in METHODS]
    entries += [BACKBONES[b] for b in sorted({base_method(b) for b in backbones}) if b in BACKBONES]
    notes = [(entry.title, [note for card in _cards(entry) for note in notes_of(card)]) for entry in entries]
    return [(title, texts) for title, texts in notes if texts]


def notes_of(card: str) -> list[str]:
    """The notes of a card (a module's docstring) as a line each; one ends at the next or at a blank line."""
    notes: list[str] = []
    inside = False
    for line in card.splitlines():
        inside = MARK in line or (inside and bool(line.strip()))
        if MARK in line:
            notes.append(line.partition(MARK)[2].strip())
        elif inside:
            notes[-1] += f" {line.strip()}"
    return [note.replace("`", "") for note in notes]


def _cards(entry: type) -> list[str]:
    """The docstring of the entry's module, and of those of the same package that it is made of."""
    module = sys.modules[entry.__module__]
    package = module.__name__.partition(".")[0]
    parts: dict[str, Any] = {module.__name__: module}
    for value in vars(module).values():
        home = getattr(value, "__module__", None) or ""
        if home.startswith(f"{package}.") and home in sys.modules:
            parts.setdefault(home, sys.modules[home])
    return [part.__doc__ or "" for part in parts.values()]

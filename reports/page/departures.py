"""Departures from papers and reference code, collected from the NOTE[DIFF] marks in cards."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from backbones import BACKBONES
from methods import METHODS
from reports.names import base_method

MARK = "NOTE[DIFF]"


def departures(methods: Iterable[str], backbones: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Return title and notes of each method and backbone; variants count as their method."""
    entries: list[Any] = [METHODS[m] for m in sorted({base_method(m) for m in methods}) if m in METHODS]
    entries += [BACKBONES[b] for b in sorted({base_method(b) for b in backbones}) if b in BACKBONES]
    notes = [(entry.title, [note for card in _cards(entry) for note in notes_of(card)]) for entry in entries]
    return [(title, texts) for title, texts in notes if texts]


def notes_of(card: str) -> list[str]:
    """Return the notes of a card (a module docstring); each ends at the next note or at a blank line."""
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
    """Return the docstrings of the entry's module and of modules in its package that it imports from.

    The module of another method or backbone counts only if the entry inherits from it.
    """
    module = sys.modules[entry.__module__]
    package = module.__name__.partition(".")[0]
    others = {cls.__module__ for cls in (*METHODS.values(), *BACKBONES.values())}
    others -= {cls.__module__ for cls in entry.__mro__}
    parts: dict[str, Any] = {module.__name__: module}
    for value in vars(module).values():
        home = getattr(value, "__module__", None) or ""
        if home.startswith(f"{package}.") and home in sys.modules and home not in others:
            parts.setdefault(home, sys.modules[home])
    return [part.__doc__ or "" for part in parts.values()]

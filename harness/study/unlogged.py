"""Results on their way into the tracking store: written before they are logged, removed when they are.

A driver that dies, or a store that does not answer, costs no finished training: the next start finds the
result here and logs it. Files are JSON, so they carry no code, below a line with their SHA-256, so that a
damaged one is not taken for a result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.files import load_json, remove_files_of, replacing
from harness.train.result import Result


@dataclass(frozen=True)
class Entry:
    """A result with the provenance tags of the driver that had it trained, and when that began (epoch s)."""

    result: Result
    tags: Mapping[str, str]
    started: float


class Spool:
    """One folder with a file per cell; a file is whole or absent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, cell_id: str, entry: Entry) -> None:
        """Keep an entry; raises OSError where the disk is full or read-only."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(cell_id)
        stored = {"result": entry.result.to_plain(), "tags": dict(entry.tags), "started": entry.started}
        text = json.dumps(stored)
        with replacing(path) as temporary:
            temporary.write_text(f"{_digest(text)}\n{text}", encoding="utf-8")

    def get(self, cell_id: str) -> Entry | None:
        """The entry of a cell; None where there is none, or a damaged one."""
        try:
            digest, _, text = self._path(cell_id).read_text(encoding="utf-8").partition("\n")
            if digest != _digest(text):
                return None
            return _entry(load_json(text))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
            return None

    def drop(self, cell_id: str) -> None:
        """Forget a cell's entry and unfinished ones; one that cannot be removed stays, and does no harm."""
        remove_files_of({cell_id}, self.folder)

    def tidy(self, done: Container[str]) -> None:
        """Remove what killed drivers left of cells that are done."""
        remove_files_of(done, self.folder)

    def _path(self, cell_id: str) -> Path:
        return self.folder / f"{cell_id}.json"


def _entry(stored: Any) -> Entry:
    """What `Spool.put` has written; of another form it raises whatever it trips over."""
    tags, started = stored["tags"], stored["started"]
    if not all(isinstance(part, str) for pair in tags.items() for part in pair):
        raise ValueError("tags must be text")
    return Entry(Result.from_plain(stored["result"]), tags, float(started))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()

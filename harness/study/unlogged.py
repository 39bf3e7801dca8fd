"""Results on disk that are not logged yet, so that they survive a dead driver or an unreachable store.

A cell's result is a folder with the artifacts of its future MLflow run, ``waiting.json`` (provenance tags,
start of the training) and ``SHA256SUMS``, by which damage is detected.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import UserError
from harness.files import load_json, new_folder, remove_files_of, sync
from harness.matrix import Cell
from harness.tracking.artifacts import read_result, write_result
from harness.train.result import Predictions, Result

WAITING_FILE, SUMS_FILE = "waiting.json", "SHA256SUMS"
# Exceptions from reading a file that is damaged or has another format.
DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, UserError)


class UnloggedResults:
    """Unlogged results, one folder per cell, written atomically; in memory if the disk cannot be written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._in_memory: dict[str, tuple[Cell, Result]] = {}

    def put(self, cell: Cell, result: Result) -> OSError | None:
        """Store a result with its tags and start time; return the error if it is only in memory."""
        try:
            # A damaged result is replaced; an intact one has the same numbers, since it is of the same cell.
            if self._stored(cell.cell_id) is None:
                shutil.rmtree(self.folder / cell.cell_id, ignore_errors=True)
                self._write(cell, result)
        except OSError as error:
            self._in_memory[cell.cell_id] = cell, result
            return error
        self._in_memory.pop(cell.cell_id, None)
        return None

    def get(self, cell_id: str) -> Result | None:
        """Return the result of a cell; None if it is missing or damaged."""
        in_memory = self._in_memory.get(cell_id)
        return self._stored(cell_id) if in_memory is None else in_memory[1]

    def drop(self, cell_id: str) -> None:
        """Remove a cell's result; ignore files that cannot be removed."""
        self._in_memory.pop(cell_id, None)
        remove_files_of({cell_id}, self.folder)

    def tidy(self, done: Container[str]) -> None:
        """Remove the results of done cells, which killed drivers left behind."""
        remove_files_of(done, self.folder)

    def state(self) -> str:
        """Retry writing the results in memory; return how many remain there, as the end of a sentence."""
        errors = [error for waiting in list(self._in_memory.values()) if (error := self.put(*waiting))]
        if not errors:
            return "all trained results are saved"
        results = "1 result is" if len(errors) == 1 else f"{len(errors)} results are"
        reason = errors[0].strerror or errors[0]
        return f"{results} only in memory: cannot write to {self.folder} ({reason})"

    def _write(self, cell: Cell, result: Result) -> None:
        with new_folder(self.folder / cell.cell_id) as folder:
            write_result(cell, result, folder)
            waiting = {"tags": dict(result.tags), "started": result.started}
            (folder / WAITING_FILE).write_text(json.dumps(waiting))
            write_sums(folder)
            for path in (*folder.iterdir(), folder):
                sync(path)

    def _stored(self, cell_id: str) -> Result | None:
        for path, read in (
            (self.folder / cell_id, read_waiting),
            (self.folder / f"{cell_id}.json", _read_earlier),
        ):
            try:
                if path.exists():
                    return read(path)
            except DAMAGE:
                continue
        return None


def write_sums(folder: Path) -> None:
    """Write the SHA-256 of all other files, in the format of ``sha256sum``."""
    (folder / SUMS_FILE).write_text(_sums(folder))


def _sums(folder: Path) -> str:
    paths = sorted(path for path in folder.iterdir() if path.name != SUMS_FILE)
    return "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in paths)


def read_waiting(folder: Path) -> Result:
    """Read an unlogged result from its folder; raises one of `DAMAGE`."""
    if (folder / SUMS_FILE).read_text() != _sums(folder):
        raise ValueError("its checksums do not match")
    return _with_origin(read_result(folder), load_json((folder / WAITING_FILE).read_bytes()))


def _with_origin(result: Result, waiting: Any) -> Result:
    tags, started = waiting["tags"], waiting["started"]
    if not all(isinstance(part, str) for pair in tags.items() for part in pair):
        raise ValueError("tags must be text")
    return dataclasses.replace(result, tags=tags, started=float(started))


def _read_earlier(path: Path) -> Result:
    """Read the format of earlier versions: a whole result as JSON, below a line with its SHA-256."""
    digest, _, text = path.read_text(encoding="utf-8").partition("\n")
    if digest != hashlib.sha256(text.encode("utf-8")).hexdigest():
        raise ValueError("it is damaged")
    waiting = load_json(text)
    fields, stored = waiting["result"], waiting["result"]["predictions"]
    if stored is not None:
        values = {ratio: np.array(array, np.float32) for ratio, array in stored["values"]}
        stored = Predictions(np.array(stored["ids"], str), np.array(stored["labels"], np.float32), values)
    samples = {name: _array(encoded) for name, encoded in fields["samples"].items()}
    return _with_origin(Result(**{**fields, "predictions": stored, "samples": samples}), waiting)


def _array(encoded: dict[str, Any]) -> np.ndarray:
    data = base64.b64decode(encoded["data"])
    return np.frombuffer(data, np.dtype(encoded["dtype"])).reshape(encoded["shape"])

"""What shards leave on disk: results, from which cells are rebuilt, and announcements of requests."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from backbones import BACKBONES
from backbones.text import BertSettings, TextSettings
from harness.code import BACKBONE_CODE, METHOD_CODE
from harness.errors import one_line, unknown
from harness.files import load_json, replacing
from harness.matrix import Cell
from harness.study.description import MATRIX_COLUMNS, Announcement
from harness.study.unlogged import DAMAGE, UnloggedResults, read_waiting
from harness.tracking.artifacts import CONFIG_FILE
from harness.tracking.tags import KEPT_TAGS, LABEL
from harness.train.result import Result
from methods import METHODS

_CELL, _REQUEST = re.compile(r"[0-9a-f]{16}"), "request-*.json"
_LABELS = ("tuned", "tuned_backbone", LABEL)
_ENVIRONMENT = ("device", "torch", "resumed_after_epoch", METHOD_CODE, BACKBONE_CODE)
_NAME = re.compile(r"[\w./-]{1,250}")  # of a metric in MLflow
_TEXTS = {frozenset(f.name for f in fields(cls)): cls for cls in (TextSettings, BertSettings)}


@dataclass(frozen=True)
class Stored:
    """A result on disk: its cell, folder, and tags for its role in the study."""

    cell: Cell
    folder: Path
    labels: Mapping[str, str]


class ShardResults(UnloggedResults):
    """The results that wait in a study's spool, and those of shards, whose files stay where they are."""

    def __init__(self, spool: Path, found: Mapping[str, Stored]) -> None:
        super().__init__(spool)
        self._found = found

    def get(self, cell_id: str) -> Result | None:
        """Return the result of a cell; None if it is missing or damaged."""
        result = super().get(cell_id)
        if result is None and cell_id in self._found:
            result = _result(self._found[cell_id].folder)
        return result


def write_request(folder: Path, said: Announcement) -> None:
    """Store the announcement of a request; all shards of a request write the same file."""
    text = json.dumps({f.name: getattr(said, f.name) for f in fields(said)}, sort_keys=True)
    path = folder / _REQUEST.replace("*", hashlib.sha256(text.encode()).hexdigest()[:16])
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def requests_in(folder: Path, refuse: Callable[[str], None]) -> list[Announcement]:
    """Return the announcements in a folder, oldest first; pass sentences on damaged ones to ``refuse``."""
    found = []
    for path in sorted(folder.glob(_REQUEST), key=lambda path: (path.stat().st_mtime, path.name)):
        try:
            found.append(_announcement(load_json(path.read_bytes())))
        except DAMAGE as error:
            refuse(f"{str(path)!r} is no request of a shard ({one_line(error)}); it was left out.")
    return found


def results_in(folder: Path, refuse: Callable[[str], None]) -> Iterator[Stored]:
    """Yield the intact results in a folder; pass sentences on others to ``refuse``.

    Folders that are still being written have other names.
    """
    for path in sorted(folder.iterdir()):
        if not _CELL.fullmatch(path.name):
            continue
        try:
            result = _result(path)
            cell = read_cell(load_json((path / CONFIG_FILE).read_bytes()))
            if cell.cell_id != path.name:
                raise ValueError(f"its settings are those of cell {cell.cell_id}")
        except DAMAGE as error:
            refuse(f"{str(path)!r} is no whole result ({one_line(error)}); it was left out.")
            continue
        yield Stored(cell, path, {name: result.tags[name] for name in _LABELS if name in result.tags})


def read_cell(stored: Any) -> Cell:
    """Rebuild a cell from its fields, as ``config.json`` holds them.

    Raises:
        ValueError, TypeError, KeyError: a field is missing or has no allowed value.
        UserError: this program has no such method or backbone.
    """
    values = dict(stored)
    text = values["text"]
    return Cell(
        **{
            **values,
            "backbone_settings": _settings(BACKBONES, "backbone", values),
            "method_settings": _settings(METHODS, "method", values),
            "text": _TEXTS[frozenset(text)](**text),
            "ratios": tuple(values["ratios"]),
        }
    )


def _settings(registry: Mapping[str, Any], kind: str, values: Mapping[str, Any]) -> Any:
    name = values[kind]
    if name not in registry:
        raise unknown(kind, str(name), registry)
    return registry[name].Settings(**values[f"{kind}_settings"])


def _result(folder: Path) -> Result:
    """Read a result, without tags that could contradict its cell's; raises one of `DAMAGE`."""
    result = read_waiting(folder)
    parts = {**result.scores, "cell": result.cell}
    numbers = [number for part in parts.values() for number in part.items()]
    numbers += [(name, value) for name, values in result.curves.items() for value in values]
    if not all(_NAME.fullmatch(name) and type(value) in (int, float) for name, value in numbers):
        raise ValueError("a metric is no number")
    if result.status not in ("complete", "diverged") or not all(_NAME.fullmatch(name) for name in parts):
        raise ValueError(f"its status is {result.status!r}")
    tags = {name: result.tags[name] for name in (*KEPT_TAGS, *_LABELS) if name in result.tags}
    environment = {name: str(result.environment[name]) for name in _ENVIRONMENT if name in result.environment}
    return replace(result, tags=tags, environment=environment, reason=str(result.reason))


def _announcement(stored: Any) -> Announcement:
    """Rebuild an announcement; raises one of `DAMAGE` where its form is not that of `write_request`."""
    said = Announcement(**stored)
    texts = [said.description, said.study_file, *(said.arguments or ())]
    texts += [*said.code["code"], *said.code["texts"].values()]
    if said.arguments is None or not all(isinstance(text, str) for text in texts):
        raise ValueError("a text is missing")
    for row in said.rows:
        dict(zip(MATRIX_COLUMNS, row, strict=True))
    for name, entry in said.datasets.items():
        if entry["name"] != name or not isinstance(entry["splits"], dict):
            raise ValueError(f"data set {name!r} is not described")
    return said

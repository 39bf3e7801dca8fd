"""Other splits of a file than its own: a drawn validation split, a table of ids, or folds."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backbones.batch import MODALITIES
from harness.data.dataset import AFTER_VIDEO, SPLITS
from harness.data.mmsa.split import LABELS, list_names
from harness.errors import UserError, file_error, printable

_VALID = {"val": "valid", "dev": "valid", "validation": "valid", "training": "train", "testing": "test"}
_MAX_TABLE = 2**26  # bytes


@dataclass(frozen=True)
class SplitChoice:
    """How a file is split. setting: pattern of an option as the user types it, with {} for its last part.

    valid_share: draw this share of the training videos, with the seed, as the validation split. table: a CSV
    file with the columns id and split. fold: this fold is the test split, the next one valid, the rest train.
    """

    valid_share: float | None = None
    table: Path | None = None
    fold: int | None = None
    seed: int = 0
    setting: str = "{}"

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.valid_share, self.table, self.fold)) > 1:
            names = [self.setting.format(name) for name in ("valid_share", "splits", "fold")]
            raise UserError(f"{names[0]}, {names[1]} and {names[2]} exclude each other; give one of them.")
        if self.valid_share is not None and not 0 < self.valid_share < 1:
            name = self.setting.format("valid_share")
            raise UserError(f"{name} must be between 0 and 1, got {self.valid_share:g}.")

    def __bool__(self) -> bool:
        return any(value is not None for value in (self.valid_share, self.table, self.fold))

    def identity(self, fingerprint: str) -> str:
        """Return the fingerprint of a file under this choice, which is the file's own without a choice."""
        if not self:
            return fingerprint
        rows = "" if self.table is None else hashlib.sha256(_read_bytes(self.table)).hexdigest()
        seed = self.seed if self.valid_share is not None else None
        parts = (fingerprint, self.valid_share, seed, self.fold, rows)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def advice(self, content: dict[Any, Any]) -> str:
        """Return a sentence with the setting that makes splits of a content without them, or ""."""
        if any(split in content for split in SPLITS):
            drawn = "train" in content and "valid" not in content
            return f" Give {self.setting.format('valid_share')}=0.15 to draw it from train." * drawn
        table = self.setting.format("splits")
        if LABELS in content:
            return f" Give {table}=FILE.csv, a table with the columns id and split."
        folds = sum(isinstance(one, dict) and LABELS in one for one in content.values())
        fold = self.setting.format("fold")
        return f" Give {fold}=0 to test on the first, or {table}=FILE.csv." * (folds > 2)

    def apply(self, content: object, file: str) -> tuple[object, list[str]]:
        """Return the content under train, valid and test, and notes; raises UserError.

        content: split -> key -> array or list, or for a table also the keys alone.
        """
        if not self or not isinstance(content, dict):
            return content, []
        if self.valid_share is not None:
            return _draw_valid(content, file, self.valid_share, self.seed, self.setting)
        if LABELS in content or any(m in content for m in MODALITIES):
            content = {"all": content}
        parts = {str(name): dict(one) for name, one in content.items() if isinstance(one, dict) and one}
        if not parts:
            raise UserError(f"{file} has no dict of {LABELS} and features.")
        if self.table is not None:
            return _assign(parts, file, self.table)
        return _fold(parts, file, self.fold or 0, self.setting.format("fold"))


OWN_SPLITS = SplitChoice()


def _draw_valid(
    content: dict[Any, Any], file: str, share: float, seed: int, setting: str
) -> tuple[dict[Any, Any], list[str]]:
    train = content.get("train")
    if "valid" in content:
        name = setting.format("valid_share")
        raise UserError(f"{file} has a split 'valid' already; leave out {name}.")
    if not isinstance(train, dict):
        return content, []
    videos = [name.partition(AFTER_VIDEO)[0] for name in _names(train, file, "train")]
    distinct = sorted(set(videos))
    count = min(max(round(share * len(distinct)), 1), len(distinct) - 1)
    if count < 1:
        raise UserError(f"{file}: split 'train' has {len(distinct)} video; a share of it needs at least 2.")
    order = np.random.default_rng(seed).permutation(len(distinct))
    drawn = {distinct[place] for place in order[:count].tolist()}
    chosen = np.array([video in drawn for video in videos])
    note = f"valid is {count} of the {len(distinct)} videos of train, drawn with seed {seed}."
    parts = {"train": _take(train, np.flatnonzero(~chosen)), "valid": _take(train, np.flatnonzero(chosen))}
    return {**content, **parts}, [note]


def _assign(parts: dict[str, dict[Any, Any]], file: str, table: Path) -> tuple[dict[Any, Any], list[str]]:
    """Give each clip the split of its id in a table."""
    split_of = _read_table(table)
    whole = _join(parts, file)
    names = _names(whole, file, "all")
    splits = {
        split: _take(whole, np.array([row for row, n in enumerate(names) if split_of.get(n) == split], int))
        for split in SPLITS
    }
    if not any(name in split_of for name in names):
        ids = f"{printable(next(iter(split_of)), 60)!r}, and the file ids like {printable(names[0], 60)!r}"
        raise UserError(f"{file} has no id of {str(table)!r}, which has ids like {ids}.")
    unnamed, unknown = sum(name not in split_of for name in names), len(split_of.keys() - set(names))
    notes = {
        f"clips that are not in {str(table)!r} are left out (clips: {unnamed}).": unnamed,
        f"{str(table)!r} has ids that are not in the file (ids: {unknown}).": unknown,
    }
    return splits, [note for note, count in notes.items() if count]


def _fold(
    parts: dict[str, dict[Any, Any]], file: str, fold: int, setting: str
) -> tuple[dict[Any, Any], list[str]]:
    names = list(parts)
    if len(names) < 3 or not 0 <= fold < len(names):
        raise UserError(
            f"{setting} must be in 0 .. {len(names) - 1} for at least 3 folds, got {fold} for "
            f"{file} with {list_names(names)}."
        )
    following = (fold + 1) % len(names)
    rest = {name: parts[name] for place, name in enumerate(names) if place not in (fold, following)}
    splits = {"train": _join(rest, file), "valid": parts[names[following]], "test": parts[names[fold]]}
    return splits, [f"test is {printable(names[fold])}, valid is {printable(names[following])}."]


def _join(parts: dict[str, dict[Any, Any]], file: str) -> dict[Any, Any]:
    """Join the clips of several splits, whose arrays must have equal shapes but for their clips."""
    first, *others = parts.values()
    if not others:
        return first
    joined: dict[Any, Any] = {}
    for key in first:
        values: list[Any] = [one.get(key) for one in parts.values()]
        if all(isinstance(value, (list, tuple)) for value in values):
            joined[key] = [item for value in values for item in value]
        elif all(isinstance(value, np.ndarray) and value.ndim for value in values):
            if len({value.shape[1:] for value in values}) > 1:
                shapes = ", ".join(str(value.shape) for value in values[:3])
                raise UserError(
                    f"{file}: {printable(key)} has other steps or widths in other splits: {shapes}."
                )
            joined[key] = np.concatenate(values)
    return joined


def _take(parts: dict[Any, Any], rows: np.ndarray) -> dict[Any, Any]:
    """Return the rows of every array and list that has one per clip."""
    clips = _clips(parts)
    taken = {}
    for key, value in parts.items():
        if isinstance(value, np.ndarray) and value.ndim and len(value) == clips:
            taken[key] = value[rows]
        elif isinstance(value, (list, tuple)) and len(value) == clips:
            taken[key] = [value[row] for row in rows.tolist()]
        else:
            taken[key] = value
    return taken


def _clips(parts: dict[Any, Any]) -> int:
    labels = parts.get(LABELS)
    sized = isinstance(labels, (list, tuple)) or (isinstance(labels, np.ndarray) and labels.ndim > 0)
    return len(labels) if sized and labels is not None else 0


def _names(parts: dict[Any, Any], file: str, split: str) -> list[str]:
    """Return the ids of the clips as text; raises UserError if there is not one for each label."""
    ids: Any = parts.get("id")
    ids = ids.reshape(-1).tolist() if isinstance(ids, np.ndarray) else ids
    if not isinstance(ids, (list, tuple)) or len(ids) != _clips(parts) or not ids:
        raise UserError(f"{file}: {split}/id must name each clip, so that the clips can be split.")
    if not all(isinstance(v, (str, bytes, float, np.generic)) or _is_small(v) for v in ids):
        raise UserError(f"{file}: {split}/id must hold text or numbers, so that the clips can be split.")
    return [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in ids]


def _is_small(value: Any) -> bool:
    return isinstance(value, int) and value.bit_length() <= 64


def _read_bytes(table: Path) -> bytes:
    try:
        with table.open("rb") as file:
            content = file.read(_MAX_TABLE + 1)
    except OSError as error:
        raise file_error(f"The table of splits {str(table)!r}", "read", error) from error
    if len(content) > _MAX_TABLE:
        raise UserError(f"The table of splits {str(table)!r} is larger than {_MAX_TABLE // 2**20} MiB.")
    return content


def _read_table(table: Path) -> dict[str, str]:
    """Read the split of each id; raises UserError."""
    name, text = f"The table of splits {str(table)!r}", _read_bytes(table).decode("utf-8-sig", "replace")
    try:
        rows: Sequence[dict[str, Any]] = list(csv.DictReader(text.splitlines()))
    except csv.Error as error:
        raise UserError(f"{name} is not a CSV file ({printable(error)}).") from None
    if not rows or not {"id", "split"} <= set(rows[0]):
        raise UserError(
            f"{name} must have the columns id and split, got {list_names(rows[0] if rows else [])}."
        )
    split_of: dict[str, str] = {}
    for row in rows:
        split = str(row["split"]).strip().lower()
        split = _VALID.get(split, split)
        if split not in SPLITS:
            raise UserError(
                f"{name}: split must be train, valid or test, got {printable(row['split'], 40)!r}."
            )
        if split_of.setdefault(row["id"], split) != split:
            raise UserError(f"{name} has id {printable(row['id'], 60)!r} in two splits.")
    return split_of

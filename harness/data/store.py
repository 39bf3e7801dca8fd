"""Cache of cleaned datasets: .npy files that worker processes map into shared memory."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from backbones.batch import MODALITIES
from harness.data.dataset import SPLITS, Dataset, Split
from harness.data.labels import LabelScale
from harness.data.strict.npy import map_array
from harness.errors import UserError, file_error, printable
from harness.files import load_json, new_folder, replacing, sync

FORMAT = 1
META = "meta.json"
MAX_CODE_POINT = 0x10FFFF
LARGEST_SCALE = sys.float_info.max


def _arrays(split: Split) -> dict[str, np.ndarray]:
    """Return all arrays of a split by the names in their file names."""
    arrays = {"ids": split.ids, "labels": split.labels}
    arrays |= {f"features_{m}": split.features[m] for m in MODALITIES}
    arrays |= {f"lengths_{m}": split.lengths[m] for m in MODALITIES}
    return arrays if split.tokens is None else arrays | {"tokens": split.tokens}


def _write(dataset: Dataset, folder: Path) -> None:
    """Write the arrays, then the meta file that lists them."""
    files: dict[str, dict[str, Any]] = {}
    for split_name, split in dataset.splits.items():
        for array_name, array in _arrays(split).items():
            name = f"{split_name}_{array_name}.npy"
            np.save(folder / name, array, allow_pickle=False)
            files[name] = {"shape": list(array.shape), "dtype": array.dtype.str}
    meta = {
        "format": FORMAT,
        "label_scale": dataset.label_scale,
        "label_center": dataset.label_center,
        "notes": list(dataset.notes),
        "files": files,
    }
    (folder / META).write_text(json.dumps(meta, indent=1), encoding="utf-8")
    sync(folder / META)


def save_dataset(dataset: Dataset, folder: str | Path) -> None:
    """Write a dataset to a new folder, atomically; an existing folder is left unchanged.

    Raises:
        UserError: The folder cannot be written.
    """
    folder = Path(folder)
    if not folder.is_dir():
        with cache_folder(folder) as temporary:
            _write(dataset, temporary)


@contextlib.contextmanager
def cache_folder(folder: Path) -> Iterator[Path]:
    """Fill a new cache folder as in `harness.files.new_folder`; raises UserError if it cannot be written."""
    try:
        with new_folder(folder) as temporary:
            yield temporary
    except OSError as error:
        raise file_error(f"The data cache {str(folder)!r}", "written", error) from error


def _load_array(folder: Path, name: str, expected: dict[str, Any]) -> np.ndarray:
    array = map_array(folder / name)
    if list(array.shape) != expected["shape"] or array.dtype.str != expected["dtype"]:
        raise ValueError(f"shape or dtype of {name} differ from those in {META}")
    return array


def _load_split(folder: Path, split: str, files: dict[str, dict[str, Any]], scale: LabelScale) -> Split:
    def load(name: str) -> np.ndarray:
        return _load_array(folder, f"{split}_{name}.npy", files[f"{split}_{name}.npy"])

    loaded = Split(
        ids=_as_names(load("ids")),
        features={m: load(f"features_{m}") for m in MODALITIES},
        lengths={m: load(f"lengths_{m}") for m in MODALITIES},
        labels=load("labels"),
        tokens=load("tokens") if f"{split}_tokens.npy" in files else None,
    )
    _check_split(loaded, split, scale)
    return loaded


def _as_names(ids: np.ndarray) -> np.ndarray:
    """Copy the ids into memory; raises ValueError unless they are valid text."""
    if ids.dtype.kind != "U" or ids.view(np.uint32).max(initial=0) > MAX_CODE_POINT:
        raise ValueError("the ids are not valid text")
    return np.array(ids)


def _check_split(split: Split, name: str, scale: LabelScale) -> None:
    """Check shapes, lengths and labels, without reading the features; raises ValueError."""
    clips = (len(split.ids),)
    checks = [split.labels.shape == clips, bool((split.labels == scale.clip(split.labels)).all())]
    for m in MODALITIES:
        values, lengths = split.features[m], split.lengths[m]
        checks += [values.ndim == 3, values.shape[:1] == clips, lengths.shape == clips]
        checks += [all(checks) and bool(((lengths >= 1) & (lengths <= values.shape[1])).all())]
    tokens = split.tokens
    checks += [tokens is None or tokens.shape == (*clips, 3, split.features["text"].shape[1])]
    if not all(checks):
        raise ValueError(f"the arrays of split {name} are inconsistent")


def _load(folder: Path) -> Dataset:
    """Load a cached dataset; damage raises OSError, ValueError, KeyError or TypeError."""
    meta = load_json((folder / META).read_bytes())
    if meta["format"] != FORMAT:
        raise ValueError(f"the format must be {FORMAT}, got {meta['format']!r:.20}")
    size, notes = meta["label_scale"], meta["notes"]
    center = meta.get("label_center", 0.0)  # caches of earlier versions have none
    if not (isinstance(notes, list) and isinstance(meta["files"], dict)):
        raise ValueError(f"{META} has an entry of the wrong type")
    if not (0 < size <= LARGEST_SCALE and abs(center) <= LARGEST_SCALE):
        raise ValueError(f"{META} has an entry outside its range")
    scale = LabelScale(float(size), float(center))
    splits = {split: _load_split(folder, split, meta["files"], scale) for split in SPLITS}
    return Dataset(splits, scale.size, tuple(map(str, notes)), scale.center)


def load_dataset(folder: str | Path) -> Dataset:
    """Map a dataset of `save_dataset` into memory; writing to its arrays does not change the files.

    Only the shapes of features and tokens are checked, not their values.

    Raises:
        UserError: A file is missing, truncated or from another version; the folder should be deleted.
    """
    folder = Path(folder)
    try:
        return _load(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = printable(f"{type(error).__name__}: {error}")
        raise UserError(
            f"The data cache {str(folder)!r} is damaged ({reason}); delete that folder and run again."
        ) from error


def _read_fingerprints(cache_file: Path) -> dict[str, Any]:
    """Read the cached fingerprints; empty if the file is missing or damaged."""
    with contextlib.suppress(OSError, ValueError):
        cached = load_json(cache_file.read_bytes())
        if isinstance(cached, dict):
            return cached
    return {}


def _is_digest(text: Any) -> bool:
    """Check whether a value is a SHA-256 hex digest, because it becomes part of a folder's name."""
    return isinstance(text, str) and re.fullmatch("[0-9a-f]{64}", text) is not None


def _write_fingerprints(cache_file: Path, cached: dict[str, Any]) -> None:
    """Replace the cache file atomically; without write permission, the next call hashes again."""
    with contextlib.suppress(OSError):
        cache_file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(cache_file) as temporary:
            temporary.write_text(json.dumps(cached, indent=1), encoding="utf-8")


def file_fingerprint(path: str | Path, cache_file: Path) -> str:
    """Return the SHA-256 of a file's bytes, cached by absolute path, size and modification time.

    Raises:
        UserError: The file cannot be read.
    """
    path = Path(path).absolute()
    try:
        with path.open("rb") as file:
            state = os.fstat(file.fileno())
            stamp = [state.st_size, state.st_mtime_ns]
            cached = _read_fingerprints(cache_file)
            entry = cached.get(str(path))
            if isinstance(entry, dict) and entry.get("stamp") == stamp and _is_digest(entry.get("sha256")):
                return str(entry["sha256"])
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise file_error(repr(str(path)), "read", error) from error
    _write_fingerprints(cache_file, cached | {str(path): {"stamp": stamp, "sha256": digest}})
    return digest

"""Copies of the files that jobs read, from the driver's disk to every node of a cluster, once.

The driver reads a file or folder into arrays, which the cluster's object store keeps once per node; the first
job on a node writes them into a cache of the node's user, under a name made of their content, and later ones
map the same files. Files, as a text encoder is read from a folder, and as the system can take the memory of
mapped files back, which it cannot with objects in use. Nothing of it is ever executed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harness.data.store import cache_folder
from harness.files import locked

CACHE = "msa-mixup-bench"


class Parcel(NamedTuple):
    """A file or folder in memory.

    key: hash of names and content. root: its own name. content: uint8 arrays by the files' paths below the
    folder; a single file's path is "".
    """

    key: str
    root: str
    content: Mapping[str, np.ndarray]


def read_parcel(path: Path) -> Parcel:
    """Read a file or folder; raises OSError."""
    folder = path.is_dir()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if folder else [path]
    content = {str(p.relative_to(path)) if folder else "": _mapped(p) for p in files}
    digest = hashlib.sha256()
    for name, array in content.items():
        digest.update(f"{len(name)} {name} {array.size} ".encode())
        digest.update(array.data)
    return Parcel(digest.hexdigest()[:32], path.name, content)


def _mapped(file: Path) -> np.ndarray:
    return np.asarray(np.memmap(file, np.uint8, "r")) if file.stat().st_size else np.empty(0, np.uint8)


def write_parcel(parcel: Parcel, cache: Path) -> Path:
    """Where a parcel's file or folder lies below ``cache``; written there if it is missing."""
    folder = cache / parcel.key
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    # One worker of a node writes, the others wait for it.
    with locked(cache / ".lock"):
        if not folder.is_dir():
            with cache_folder(folder) as temporary:
                for name, array in parcel.content.items():
                    file = temporary / parcel.root / name if name else temporary / parcel.root
                    file.parent.mkdir(parents=True, exist_ok=True)
                    array.tofile(file)
    return folder / parcel.root


def node_cache() -> Path:
    """The folder for what was shipped to this machine; it may be deleted when no driver runs."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / CACHE

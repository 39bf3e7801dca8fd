"""Shipping of the jobs' input files from the driver's disk to the nodes of a cluster, once per node.

The driver reads a file or folder into arrays, which the cluster's object store keeps once per node. The
first job on a node writes them to a cache of the node's user, under a hash of their content; later jobs map
the same files. They are files because text encoders are loaded from folders, and because the system can
reclaim the memory of mapped files, but not that of objects in use. Shipped content is never executed.
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

    key: hash of names and content. root: name of the file or folder. content: uint8 arrays by the files'
    paths below the folder; a single file's path is "".
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
    """Write a parcel below ``cache`` unless it exists; return the path of its file or folder."""
    folder = cache / parcel.key
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    # One worker of a node writes, and the others wait for it.
    with locked(cache / ".lock"):
        if not folder.is_dir():
            with cache_folder(folder) as temporary:
                for name, array in parcel.content.items():
                    file = temporary / parcel.root / name if name else temporary / parcel.root
                    file.parent.mkdir(parents=True, exist_ok=True)
                    array.tofile(file)
    return folder / parcel.root


def node_cache() -> Path:
    """Return the folder of files shipped to this machine; it may be deleted when no driver runs."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / CACHE

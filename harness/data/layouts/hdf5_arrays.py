"""A program that writes the arrays of an HDF5 file as an .npz archive, for `harness.data.layouts.hdf5`.

It runs in a process of its own, because the HDF5 library is written in C, and a damaged file can crash it.
Only plain arrays within the file are read: no links to other files, no data outside of it, no filters but
those of HDF5 and h5py themselves.

Arguments: the HDF5 file and the archive. Exit status 2 or 3: the file is refused with a sentence, 3 for its
size.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from harness.data.strict.memory_limit import MemoryLimit, TooLargeError
from harness.errors import UserError, printable

_FILTERS = (1, 2, 3, 4, 32000)  # deflate, shuffle, fletcher32, szip; lzf of h5py
_MAX_MEMBERS = 4096
_COST_OF_TEXT = 128
_PARTS_OF_SEQUENCE = {"data", "metadata"}  # of each computational sequence of CMU-SDK
_SPARE = 2**30  # bytes of address space for the library itself


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays by their paths in the file, ``text`` or ``train/text``; raises UserError.

    Text of variable width becomes an array of bytes. Deeper groups and links are left out.
    """
    import h5py

    name = repr(str(path))
    memory = MemoryLimit(name, path.stat().st_size)
    try:
        with h5py.File(path, "r", locking=False) as file:
            arrays = _read_group(file, name, memory)
            for key, group in _members(file, h5py.Group, name).items():
                if set(group) == _PARTS_OF_SEQUENCE:
                    raise UserError(_sequence(name, key))
                members = _read_group(group, name, memory)
                arrays |= {f"{key}/{member}": array for member, array in members.items()}
    except (UserError, MemoryError):
        raise
    # Damaged files raise errors of many types.
    except Exception as error:
        reason = printable(f"{type(error).__name__}: {error}", 200)
        raise UserError(f"{name} is not a readable HDF5 file ({reason}).") from error
    return arrays


def _sequence(name: str, key: str) -> str:
    what = f"{name} is a computational sequence of CMU-SDK, {printable(key, 60)!r}, which is one modality"
    return f"{what}; align the modalities with CMU-SDK and save their arrays under names like train/text."


def _members(group: Any, kind: type, name: str) -> dict[str, Any]:
    """Return the members of a kind that are in the file itself."""
    import h5py

    if len(group) > _MAX_MEMBERS:
        raise UserError(f"{name} has a group of {len(group)} members; at most {_MAX_MEMBERS} are read.")
    own = [key for key in group if isinstance(group.get(key, getlink=True), h5py.HardLink)]
    return {key: group[key] for key in own if group.get(key, getclass=True) is kind}


def _read_group(group: Any, name: str, memory: MemoryLimit) -> dict[str, Any]:
    import h5py

    members = _members(group, h5py.Dataset, name)
    return {key: _read_array(data, name, memory) for key, data in members.items()}


def _read_array(data: Any, name: str, memory: MemoryLimit) -> np.ndarray:
    import h5py

    plist = data.id.get_create_plist()
    filters = {plist.get_filter(place)[0] for place in range(plist.get_nfilters())}
    if data.is_virtual or data.external or filters - {*_FILTERS}:
        raise UserError(f"{name}: {printable(data.name, 60)} is stored elsewhere or by an unknown filter.")
    # Reading also holds one chunk, which the file may declare to be larger than the array.
    memory.take(data.dtype.itemsize * (data.size + math.prod(data.chunks or ())))
    if data.dtype.kind in "biufS":
        return np.asarray(data[()])
    text = h5py.check_string_dtype(data.dtype)
    if text is None or data.ndim != 1:
        raise UserError(f"{name}: {printable(data.name, 60)} must be an array of numbers or of text.")
    memory.take(_COST_OF_TEXT * data.size)
    texts: list[bytes] = []
    # Read one by one, because many texts may refer to the same bytes of the file.
    for place in range(data.size):
        texts.append(data[place])
        memory.take(len(texts[-1]))
    memory.take(len(texts) * max(map(len, texts), default=0))
    return np.array(texts, np.bytes_)


def _limit_memory(most: int) -> None:
    """Limit the address space where the system can tell its present size."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (used + 2 * most + _SPARE,) * 2)


def main(source: str, target: str) -> int:
    """Write the archive; return the exit status."""
    # Other filters would be loaded as plugins.
    os.environ["HDF5_PLUGIN_PRELOAD"] = "::"
    import h5py  # noqa: F401

    path = Path(source)
    memory = MemoryLimit(repr(source), path.stat().st_size)
    _limit_memory(memory.limit)
    try:
        arrays = arrays_of(path)
        np.savez(target, allow_pickle=False, **arrays)
    except (UserError, MemoryError) as error:
        too_large = isinstance(error, (TooLargeError, MemoryError))
        sys.stdout.write(str(error))
        return 3 if too_large else 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

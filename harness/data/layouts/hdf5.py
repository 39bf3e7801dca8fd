"""The layout of HDF5 files: arrays under names like ``train/text``, or of all clips under ``text``.

Only plain arrays within the file are read: no links to other files, no data outside of it, no filters but
those of HDF5 and h5py themselves. The HDF5 library itself is written in C and trusts the file more than the
readers of the other layouts do.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from harness.data.memory_limit import MemoryLimit
from harness.errors import UserError, printable

_FILTERS = (1, 2, 3, 4, 32000)  # deflate, shuffle, fletcher32, szip; lzf of h5py
_MAX_MEMBERS = 4096
_COST_OF_TEXT = 128
_PARTS_OF_SEQUENCE = {"data", "metadata"}  # of each computational sequence of CMU-SDK


def read_hdf5(path: Path) -> dict[str, Any]:
    """Return split -> key -> array, and key -> array for arrays without a split; raises UserError.

    Text of variable width becomes an object array of bytes. Deeper groups and links are left out.
    """
    name = repr(str(path))
    try:
        import h5py
    except ImportError:
        advice = "pip install 'msa-mixup-bench[hdf5]'"
        raise UserError(
            f"{name} is an HDF5 file, which needs the package h5py; install it with {advice}."
        ) from None
    memory = MemoryLimit(name, path.stat().st_size)
    try:
        with h5py.File(path, "r", locking=False) as file:
            content = _read_group(file, name, memory)
            for key, group in _members(file, h5py.Group, name).items():
                if set(group) == _PARTS_OF_SEQUENCE:
                    raise UserError(_sequence(name, key))
                content[key] = _read_group(group, name, memory)
    except (UserError, MemoryError):
        raise
    # Damaged files raise errors of many types.
    except Exception as error:
        reason = printable(f"{type(error).__name__}: {error}", 200)
        raise UserError(f"{name} is not a readable HDF5 file ({reason}).") from error
    return content


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
    array = np.empty(data.shape, object)
    # Read one by one, because many texts may refer to the same bytes of the file.
    for place in range(data.size):
        array[place] = data[place]
        memory.take(len(array[place]))
    return array

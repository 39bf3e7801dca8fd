"""Strict reader of the .npy and .npz files that `numpy.save` and `numpy.savez` write.

`numpy.load` trusts the header: it allocates memory for the declared shape, accepts a pickle or an archive in
place of an array, and evaluates the header as Python. This reader accepts only headers of the exact form that
numpy writes, and only if the declared size matches the file.
"""

from __future__ import annotations

import contextlib
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np

from harness.data.strict.memory_limit import MemoryLimit
from harness.errors import printable

_MAGIC = b"\x93NUMPY\x01\x00"
_HEAD = re.compile(
    rb"\{'descr': '([<|][biufcSU]\d{1,9})', 'fortran_order': (True|False), "
    rb"'shape': \(([\d, ]{0,200})\), \} *\n"
)


@dataclass(frozen=True)
class Head:
    """Header of an array; start: offset of the array's data in bytes."""

    dtype: np.dtype
    shape: tuple[int, ...]
    order: Literal["C", "F"]
    start: int

    @property
    def size(self) -> int:
        """Bytes of header and data."""
        return self.start + math.prod(self.shape) * self.dtype.itemsize


def read_head(file: IO[bytes]) -> Head:
    """Read the header of an array; raises ValueError if it is missing or malformed."""
    start = file.read(10)
    if len(start) < 10 or start[:8] != _MAGIC:
        raise ValueError("it is not an array in npy format 1.0")
    (length,) = struct.unpack("<H", start[8:])
    head = _HEAD.fullmatch(file.read(length))
    if head is None:
        raise ValueError("its header does not describe a plain array")
    shape = tuple(int(n) for n in head[3].replace(b" ", b"").split(b",") if n)
    if max(shape, default=0) >= 2**63:
        raise ValueError(f"its shape {shape} is too large")
    try:
        dtype = np.dtype(head[1].decode())
    except TypeError as error:
        raise ValueError(f"its dtype is unknown to numpy ({error})") from None
    return Head(dtype, shape, "F" if head[2] == b"True" else "C", 10 + length)


def map_array(path: Path) -> np.ndarray:
    """Map a .npy file into memory, copy-on-write: writing to the array does not change the file.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is truncated or is not a plain array.
    """
    with path.open("rb") as file:
        head = read_head(file)
        if head.size != file.seek(0, 2):
            raise ValueError(f"the size of {path.name} does not match its header")
        # Mode "c" is copy-on-write; PyTorch warns about read-only arrays.
        return np.memmap(file, head.dtype, "c", head.start, head.shape, head.order)


def check_npz(path: Path) -> None:
    """Check that the members of a .npz archive are plain arrays whose sizes match their headers.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is damaged or is not such an archive.
        UserError: The unpacked arrays would be far larger than the file.
    """
    memory = MemoryLimit(repr(str(path)), path.stat().st_size)
    with _refusing_damage(), zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            memory.take(member.file_size)
            with archive.open(member) as file:
                if read_head(file).size != member.file_size:
                    raise ValueError(f"the size of {member.filename} does not match its header")


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of a .npz archive; raises the same errors as `check_npz`."""
    check_npz(path)
    with _refusing_damage(), np.load(path, allow_pickle=False) as stored:
        return dict(stored)


@contextlib.contextmanager
def _refusing_damage() -> Iterator[None]:
    try:
        yield
    # The errors that zipfile raises for damaged archives and for features that numpy never writes.
    except (
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
        RuntimeError,
        EOFError,
        struct.error,
    ) as error:
        raise ValueError(f"it is not an intact archive ({printable(error)})") from None

"""A strict reader of the arrays that `numpy.save` and `numpy.savez` write.

`numpy.load` trusts a file's head: it reserves memory for the declared shape, reads a pickle or an archive in
the place of an array, and evaluates the head as Python. Here a head must have the one form that is written,
and a size that fits the file.
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

from harness.data.memory_limit import MemoryLimit
from harness.errors import printable

_MAGIC = b"\x93NUMPY\x01\x00"
_HEAD = re.compile(
    rb"\{'descr': '([<|][biufcSU]\d{1,9})', 'fortran_order': (True|False), "
    rb"'shape': \(([\d, ]{0,200})\), \} *\n"
)


@dataclass(frozen=True)
class Head:
    """What stands before an array's bytes, and how many bytes it takes."""

    dtype: np.dtype
    shape: tuple[int, ...]
    order: Literal["C", "F"]
    start: int

    @property
    def size(self) -> int:
        """Bytes of the whole."""
        return self.start + math.prod(self.shape) * self.dtype.itemsize


def read_head(file: IO[bytes]) -> Head:
    """The head of an array; raises ValueError where there is none."""
    start = file.read(10)
    if len(start) < 10 or start[:8] != _MAGIC:
        raise ValueError("it is no array of numpy's format 1.0")
    (length,) = struct.unpack("<H", start[8:])
    head = _HEAD.fullmatch(file.read(length))
    if head is None:
        raise ValueError("its head is not that of a plain array")
    shape = tuple(int(n) for n in head[3].replace(b" ", b"").split(b",") if n)
    if max(shape, default=0) >= 2**63:
        raise ValueError(f"its shape is {shape}")
    try:
        dtype = np.dtype(head[1].decode())
    except TypeError as error:
        raise ValueError(f"its dtype is not one of numpy's ({error})") from None
    return Head(dtype, shape, "F" if head[2] == b"True" else "C", 10 + length)


def map_array(path: Path) -> np.ndarray:
    """Map a file of `numpy.save` into memory; writing to the array does not change the file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not whole, or something else.
    """
    with path.open("rb") as file:
        head = read_head(file)
        if head.size != file.seek(0, 2):
            raise ValueError(f"{path.name} does not have the size of its array")
        # Copy on write: PyTorch warns of read-only arrays, and the file stays untouched all the same.
        return np.memmap(file, head.dtype, "c", head.start, head.shape, head.order)


def check_npz(path: Path) -> None:
    """Check that an archive's members are plain arrays whose sizes are those that their heads declare.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, or something else.
        UserError: unpacked it would be far larger than it is.
    """
    memory = MemoryLimit(repr(str(path)), path.stat().st_size)
    with _refusing_damage(), zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            memory.take(member.file_size)
            with archive.open(member) as file:
                if read_head(file).size != member.file_size:
                    raise ValueError(f"{member.filename} does not have the size of its array")


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an archive of `numpy.savez`; raises what `check_npz` does."""
    check_npz(path)
    with _refusing_damage(), np.load(path, allow_pickle=False) as stored:
        return dict(stored)


@contextlib.contextmanager
def _refusing_damage() -> Iterator[None]:
    try:
        yield
    # What zipfile raises over archives that are damaged or of a kind that is never written.
    except (
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
        RuntimeError,
        EOFError,
        struct.error,
    ) as error:
        raise ValueError(f"it is no whole archive ({printable(error)})") from None

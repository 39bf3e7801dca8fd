"""Globals that a pickle may refer to: short functions that check their arguments.

They replace numpy's own functions, which trust sizes and flags in the pickle and, if these are wrong, treat
raw bytes as object pointers.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_DTYPE_CODE = re.compile(r"[<>=|]?[biufcSUO?]\d{0,9}")
_LATIN1 = ("latin1", "latin-1")
_MAX_DIMENSIONS = 32
_MAX_SIZE = 2**63
_MAX_CODE_POINT = 0x10FFFF
_MAX_PARTS = 8
_MAX_SHOWN = 60


class RefusedError(Exception):
    """A pickle asks for something that is not allowed; the message names it."""


def expect(condition: bool, otherwise: str) -> None:
    """Raise RefusedError with the message ``otherwise`` unless the condition is true."""
    if not condition:
        raise RefusedError(otherwise)


def excerpt(value: Any) -> str:
    """Format a value for a message: truncated text, or the type of anything else."""
    # The repr of other values may be arbitrarily long.
    return repr(value[:_MAX_SHOWN]) if isinstance(value, str) else type(value).__name__


@dataclass(frozen=True)
class Name:
    """An allowed global on the pickle machine's stack; it is neither callable nor mutable."""

    module: str
    name: str


class Dtype:
    """A simple dtype: REDUCE sets its kind and size, BUILD its byte order, and numpy its flags."""

    def __init__(self, code: Any, *_: Any) -> None:
        expect(isinstance(code, str) and bool(_DTYPE_CODE.fullmatch(code)), f"numpy.dtype({excerpt(code)})")
        self.value = np.dtype(code)

    @property
    def of_objects(self) -> bool:
        """Whether arrays of this dtype contain objects."""
        return bool(self.value.kind == "O")

    def set_state(self, state: Any) -> None:
        """Set the byte order from the state (version, order, subarray, names, fields, ...)."""
        _, order, subarray, names, fields = state[:5]
        expect(order in ("<", ">", "=", "|"), f"numpy.dtype of byte order {excerpt(order)}")
        expect(subarray is None and names is None and fields is None, "numpy.dtype with fields")
        self.value = self.value.newbyteorder(order)


def _latin1(data: Any) -> bytes:
    """Convert to bytes; text, as which old protocols and Python 2 store bytes, is encoded as latin-1."""
    expect(isinstance(data, (bytes, bytearray, str)), f"bytes from a {type(data).__name__}")
    return data.encode("latin1") if isinstance(data, str) else data


def _fitting(dtype: Any, shape: Any, size: int) -> np.dtype:
    """Return the numpy dtype of an array if its shape fits ``size`` bytes (for objects: elements)."""
    expect(isinstance(dtype, Dtype), "numpy.ndarray of an unsupported dtype")
    counts = isinstance(shape, tuple) and all(type(n) is int and 0 <= n < _MAX_SIZE for n in shape)
    expect(counts and len(shape) <= _MAX_DIMENSIONS, "numpy.ndarray of an invalid shape")
    width = 1 if dtype.of_objects else dtype.value.itemsize
    count = math.prod(shape)
    fits = count * width == size and (width > 0 or count <= 1)
    expect(fits, f"numpy.ndarray of shape {shape} in {size} bytes")
    return dtype.value


def _fitting_content(dtype: Any, shape: Any, content: bytes | bytearray) -> np.dtype:
    """Return the numpy dtype if shape and bytes fit; for text, the bytes must be valid code points."""
    value = _fitting(dtype, shape, len(content))
    if value.kind == "U" and content:  # numpy does not check code points
        codes = np.frombuffer(content, np.dtype("u4").newbyteorder(value.byteorder))
        expect(int(codes.max()) <= _MAX_CODE_POINT, "numpy.ndarray of invalid text")
    return value


def reconstruct(kind: Any, *_: Any) -> np.ndarray:
    """Create an empty array, which BUILD fills later."""
    expect(kind == Name("numpy", "ndarray"), "numpy._core.multiarray._reconstruct of another class")
    return np.empty(0, np.int8)


def fill(array: np.ndarray, state: Any) -> None:
    """Set the state ([version,] shape, dtype, is_fortran, data) of an array from `reconstruct`, uncopied."""
    shape, dtype, is_fortran, data = state[-4:]
    if isinstance(dtype, Dtype) and dtype.of_objects:
        expect(isinstance(data, list), "numpy.ndarray of objects whose state is not a list")
        value = _fitting(dtype, shape, len(data))
    else:
        data = bytes(_latin1(data))
        value = _fitting_content(dtype, shape, data)
    checked: Any = (1, shape, value, bool(is_fortran), data)
    array.__setstate__(checked)


def _scalar(dtype: Any, data: Any = b"") -> Any:
    content = bytes(_latin1(data))
    value = _fitting_content(dtype, (), content)
    expect(value.kind != "O", "numpy._core.multiarray.scalar of an object")
    return np.ndarray((), value, content)[()] if content else value.type()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    content = _latin1(data)
    value = _fitting_content(dtype, shape, content)
    expect(value.kind != "O" and order in ("C", "F", "K"), "numpy._core.numeric._frombuffer of objects")
    array: np.ndarray = np.ndarray(shape, value, content, order="F" if order == "F" else "C")
    return array if axes is None else array.transpose(axes)


def _encode(text: Any, encoding: Any) -> bytes:
    expect(isinstance(text, str) and encoding in _LATIN1, f"_codecs.encode to {excerpt(encoding)}")
    return text.encode("latin1")


def _bytearray(data: Any = b"", encoding: Any = "latin1") -> bytearray:
    expect(encoding in _LATIN1, f"builtins.bytearray in {excerpt(encoding)}")
    return bytearray(_latin1(data))


def _complex(real: Any, imaginary: Any) -> complex:
    expect(isinstance(real, float) and isinstance(imaginary, float), "builtins.complex without two floats")
    return complex(real, imaginary)


def plain_keys(keys: Any) -> Sequence[Any]:
    """Return keys or set members if all are numbers, text or short flat tuples; raises RefusedError."""
    # Hashing deep tuples overflows the C stack, and the hashes of long tuples and numbers are not cached.
    expect(isinstance(keys, (list, tuple)), f"keys from a {type(keys).__name__}")
    for key in keys:
        parts = key if isinstance(key, tuple) else (key,)
        expect(len(parts) <= _MAX_PARTS and all(map(_is_plain, parts)), f"a {type(key).__name__} as key")
    return keys


def _is_plain(part: Any) -> bool:
    if isinstance(part, int):
        return part.bit_length() < 64
    # Complex numbers and long doubles are excluded, because their hashes can be made to collide.
    kinds = (str, bytes, float, type(None), np.integer, np.bool_, np.float16, np.float32)
    return isinstance(part, kinds)


# The pickle machine checks the members of these sets with `plain_keys`.
SETS = (Name("builtins", "set"), Name("builtins", "frozenset"))
SAFE_GLOBALS: dict[Name, Callable[..., Any] | None] = {
    Name("numpy", "ndarray"): None,
    Name("numpy", "dtype"): Dtype,
    Name("numpy._core.multiarray", "_reconstruct"): reconstruct,
    Name("numpy._core.multiarray", "scalar"): _scalar,
    Name("numpy._core.numeric", "_frombuffer"): _from_buffer,
    Name("numpy._core._internal", "_convert_to_stringdtype_kwargs"): lambda *_: Dtype("O"),
    Name("_codecs", "encode"): _encode,
    Name("builtins", "bytes"): lambda: b"",
    Name("builtins", "bytearray"): _bytearray,
    Name("builtins", "set"): lambda items=(): set(items),
    Name("builtins", "frozenset"): lambda items=(): frozenset(items),
    Name("builtins", "complex"): _complex,
    Name("collections", "OrderedDict"): lambda: OrderedDict(),
}

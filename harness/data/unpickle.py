"""Read a pickle without letting it run code: only numpy arrays and plain containers come out.

A pickle is a program for a small machine. Here the machine knows the harmless instructions only, and a
name stands for an entry of one short table of functions of this module, which check their arguments. That
covers numpy too: it trusts the sizes and flags in a pickle, and wrong ones make it take bytes for objects.
"""

from __future__ import annotations

import math
import pickle
import pickletools
import re
import struct
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from harness.errors import UserError

PROTOCOLS = range(2, 6)

_INSTRUCTIONS = (
    "PROTO FRAME STOP MARK POP POP_MARK DUP MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET "
    "NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT "
    "BINSTRING SHORT_BINSTRING BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 "
    "EMPTY_LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "EMPTY_DICT EMPTY_SET GLOBAL STACK_GLOBAL INST"
)
_OPCODE_NAMES = {ord(op.code): op.name for op in pickletools.opcodes}
_DTYPE_CODE = re.compile(r"[<>=|]?[biufcSUO?]\d{0,9}")
_LATIN1 = ("latin1", "latin-1")
_MAX_DIMENSIONS = 32
_PLAIN_KEYS = (str, bytes, int, float, complex, type(None), np.generic)


class _RefusedError(Exception):
    """Carries what the pickle asks for."""


def _expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise _RefusedError(otherwise)


@dataclass(frozen=True)
class _Name:
    """What an admitted name is on the stack: not callable, and nothing to change."""

    module: str
    name: str


class _Dtype:
    """A simple dtype: kind and size come from REDUCE, the byte order from BUILD, the flags from numpy."""

    def __init__(self, code: Any, *_: Any) -> None:
        _expect(isinstance(code, str) and bool(_DTYPE_CODE.fullmatch(code)), f"numpy.dtype({code!r:.60})")
        self.value = np.dtype(code)

    def set_state(self, state: Any) -> None:
        """Take the byte order from (version, order, subarray, names, fields, ...)."""
        _, order, subarray, names, fields = state[:5]
        _expect(order in ("<", ">", "=", "|"), f"numpy.dtype of byte order {order!r:.20}")
        _expect(subarray is None and names is None and fields is None, "numpy.dtype with fields")
        self.value = self.value.newbyteorder(order)


def _latin1(data: Any) -> bytes:
    """Bytes as they are; text, in which old protocols and Python 2 wrap bytes, as latin-1."""
    _expect(isinstance(data, (bytes, bytearray, str)), f"bytes made of a {type(data).__name__}")
    return data.encode("latin1") if isinstance(data, str) else data


def _fitting(dtype: Any, shape: Any, size: int) -> np.dtype:
    """The numpy dtype of an array, once its shape is known to fit `size` bytes (or elements, of objects)."""
    _expect(isinstance(dtype, _Dtype), "numpy.ndarray of a strange dtype")
    counts = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
    _expect(counts and len(shape) <= _MAX_DIMENSIONS, "numpy.ndarray of a strange shape")
    width = 1 if dtype.value.kind == "O" else dtype.value.itemsize
    count = math.prod(shape)
    fits = count * width == size and (width > 0 or count <= 1)
    _expect(fits, f"numpy.ndarray of shape {shape} in {size} bytes")
    return dtype.value


def _reconstruct(kind: Any, *_: Any) -> np.ndarray:
    _expect(kind == _Name("numpy", "ndarray"), "numpy._core.multiarray._reconstruct of another class")
    return np.empty(0, np.int8)


def _fill(array: np.ndarray, state: Any) -> None:
    """Give an array of `_reconstruct` its ([version,] shape, dtype, is_fortran, data), without a copy."""
    shape, dtype, is_fortran, data = state[-4:]
    if isinstance(dtype, _Dtype) and dtype.value.kind == "O":
        _expect(isinstance(data, list), "numpy.ndarray of objects without their list")
    else:
        data = bytes(_latin1(data))
    checked: Any = (1, shape, _fitting(dtype, shape, len(data)), bool(is_fortran), data)
    array.__setstate__(checked)


def _scalar(dtype: Any, data: Any = b"") -> Any:
    content = bytes(_latin1(data))
    value = _fitting(dtype, (), len(content))
    _expect(value.kind != "O", "numpy._core.multiarray.scalar of an object")
    return np.ndarray((), value, content)[()] if content else value.type()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    content = _latin1(data)
    value = _fitting(dtype, shape, len(content))
    _expect(value.kind != "O" and order in ("C", "F", "K"), "numpy._core.numeric._frombuffer of objects")
    array: np.ndarray = np.ndarray(shape, value, content, order="F" if order == "F" else "C")
    return array if axes is None else array.transpose(axes)


def _encode(text: Any, encoding: Any) -> bytes:
    _expect(isinstance(text, str) and encoding in _LATIN1, f"_codecs.encode to {encoding!r:.40}")
    return text.encode("latin1")


def _bytearray(data: Any = b"", encoding: Any = "latin1") -> bytearray:
    _expect(encoding in _LATIN1, f"builtins.bytearray in {encoding!r:.40}")
    return bytearray(_latin1(data))


def _plain_keys(keys: Any) -> Sequence[Any]:
    """Keys and set members: numbers, text, flat tuples (the hash of deep tuples overflows the C stack)."""
    _expect(isinstance(keys, (list, tuple)), f"keys from a {type(keys).__name__}")
    for key in keys:
        parts = key if isinstance(key, tuple) else (key,)
        _expect(all(isinstance(part, _PLAIN_KEYS) for part in parts), f"a {type(key).__name__} as key")
    return keys


def _complex(real: Any, imaginary: Any) -> complex:
    _expect(isinstance(real, float) and isinstance(imaginary, float), "builtins.complex of no numbers")
    return complex(real, imaginary)


_ADMITTED: dict[_Name, Callable[..., Any] | None] = {
    _Name("numpy", "ndarray"): None,
    _Name("numpy", "dtype"): _Dtype,
    _Name("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    _Name("numpy._core.multiarray", "scalar"): _scalar,
    _Name("numpy._core.numeric", "_frombuffer"): _from_buffer,
    _Name("numpy._core._internal", "_convert_to_stringdtype_kwargs"): lambda *_: _Dtype("O"),
    _Name("_codecs", "encode"): _encode,
    _Name("builtins", "bytes"): lambda: b"",
    _Name("builtins", "bytearray"): _bytearray,
    _Name("builtins", "set"): lambda items=(): set(_plain_keys(items)),
    _Name("builtins", "frozenset"): lambda items=(): frozenset(_plain_keys(items)),
    _Name("builtins", "complex"): _complex,
    _Name("collections", "OrderedDict"): lambda: OrderedDict(),
}


class _Instructions(dict):
    """The instructions that the machine knows; any other is refused by its name."""

    def __missing__(self, code: int) -> Any:
        if code in _OPCODE_NAMES:
            raise _RefusedError(f"the instruction {_OPCODE_NAMES[code]}")
        raise ValueError(f"unknown instruction {code}")


class _BoundedFile:
    """A file that never reserves memory for more than its own size, whatever size is declared inside."""

    def __init__(self, file: BinaryIO) -> None:
        self.size = file.seek(0, 2)
        file.seek(0)
        self._file = file
        self.readline = file.readline

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes, or EOFError."""
        data = self._file.read(size) if 0 <= size <= self.size else b""
        if len(data) < size:
            raise EOFError
        return data


# The Python implementation, because in the C one no instruction can be left out, and a huge memo index
# makes it reserve memory until the machine is out of it.
class _Machine(pickle._Unpickler):
    """The interpreter's own unpickler with a short list of instructions and of names."""

    stack: list[Any]
    read: Callable[[int], bytes]
    readinto: Callable[[bytearray], int]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, file: _BoundedFile) -> None:
        super().__init__(file, encoding="latin1")
        self._size = file.size
        self._unfilled: dict[int, np.ndarray] = {}

    def find_class(self, module: str, name: str) -> _Name:
        """Stand for a name, under numpy's and Python's old or new spelling; refuse any other."""
        new_module = re.sub(r"^numpy\.core\.", "numpy._core.", module)
        found = _Name({"__builtin__": "builtins"}.get(new_module, new_module), name)
        _expect(found in _ADMITTED, f"{module}.{name}")
        return found

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        name = self.stack[-1]
        function = _ADMITTED[name] if isinstance(name, _Name) else None
        if function is None or not isinstance(arguments, tuple):
            raise _RefusedError(f"a call of {name.name if isinstance(name, _Name) else type(name).__name__}")
        value = self.stack[-1] = function(*arguments)
        if function is _reconstruct:
            self._unfilled[id(value)] = value

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, _Dtype):
            target.set_state(state)
        elif id(target) in self._unfilled:
            _fill(self._unfilled.pop(id(target)), state)
        else:
            raise _RefusedError(f"a state for a {type(target).__name__}")

    def _put(self, items: list[Any]) -> None:
        target = self.stack[-1]
        _expect(isinstance(target, dict), f"items for a {type(target).__name__}")
        target.update(zip(_plain_keys(items[::2]), items[1::2], strict=True))

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._put([key, value])

    def load_setitems(self) -> None:
        self._put(self.pop_mark())

    def load_additems(self) -> None:
        members = _plain_keys(self.pop_mark())
        _expect(isinstance(self.stack[-1], set), "members for something else than a set")
        self.stack[-1].update(members)

    def load_frozenset(self) -> None:
        members = _plain_keys(self.pop_mark())
        self.stack.append(frozenset(members))

    def load_bytearray8(self) -> None:
        (size,) = struct.unpack("<Q", self.read(8))
        if size > self._size:
            raise EOFError
        content = bytearray(size)
        self.readinto(content)
        self.stack.append(content)

    dispatch = _Instructions(
        {
            getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]]
            for name in _INSTRUCTIONS.split()
        }
        | {
            pickle.REDUCE[0]: load_reduce,
            pickle.BUILD[0]: load_build,
            pickle.SETITEM[0]: load_setitem,
            pickle.SETITEMS[0]: load_setitems,
            pickle.ADDITEMS[0]: load_additems,
            pickle.FROZENSET[0]: load_frozenset,
            pickle.BYTEARRAY8[0]: load_bytearray8,
        }
    )


def _open(path: Path) -> BinaryIO:
    """Open a regular file; a device or a pipe would never end."""
    if not path.exists():
        raise UserError(f"There is no file {str(path)!r}.")
    if not path.is_file():
        raise UserError(f"{str(path)!r} is not a file.")
    return path.open("rb")


def _run(file: BinaryIO, name: str) -> object:
    head = file.read(2)
    if not head:
        raise UserError(f"{name} is empty.")
    if head[0] != pickle.PROTO[0] or head[-1] not in PROTOCOLS:
        raise UserError(
            f"{name} is not a pickle file (protocols {PROTOCOLS[0]} to {PROTOCOLS[-1]} are read)."
        )
    return _Machine(_BoundedFile(file)).load()


def load_pickle(path: str | Path) -> object:
    """Read a pickle file of protocol 2 to 5 that holds numpy arrays and plain containers.

    Arrays may be read-only. Numpy's variable-width strings come as arrays of objects, and the 8-bit
    strings of Python 2 as text.

    Raises:
        UserError: the file is missing, unreadable, no pickle or damaged, or asks for anything else (named).
    """
    name = repr(str(path))
    try:
        with _open(Path(path)) as file:
            return _run(file, name)
    except UserError:
        raise
    except _RefusedError as error:
        raise UserError(
            f"{name} was refused: its pickle asks for {str(error)[:200]!r};"
            " only numpy arrays and plain containers are allowed."
        ) from None
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror or error}.") from error
    except EOFError:
        raise UserError(f"{name} ends too early: the pickle is truncated.") from None
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        raise UserError(f"{name} is not a readable pickle ({reason}).") from error

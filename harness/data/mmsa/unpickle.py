"""Safe unpickling: a restricted reader that runs no code and returns only numpy arrays and plain containers.

A pickle is a program for a stack machine. This machine accepts only harmless instructions, resolves names
only in the table `SAFE_GLOBALS`, and charges every instruction and call to the file's memory limit.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from harness.data.mmsa.safe_globals import (
    SAFE_GLOBALS,
    SETS,
    Dtype,
    Name,
    RefusedError,
    expect,
    fill,
    plain_keys,
    reconstruct,
)
from harness.data.strict.file_kinds import HEAD_BYTES, describe, describe_objects
from harness.data.strict.memory_limit import MemoryLimit
from harness.errors import UserError, file_error, printable

PROTOCOLS = range(2, 6)

_INSTRUCTIONS = (
    "PROTO FRAME STOP MARK POP POP_MARK DUP MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET "
    "NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT "
    "BINSTRING SHORT_BINSTRING BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 "
    "EMPTY_LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "EMPTY_DICT EMPTY_SET GLOBAL STACK_GLOBAL INST"
)
# Approximate bytes of memory that an instruction allocates, in addition to its data.
_COSTS = {
    240: "EMPTY_SET FROZENSET",
    128: "MEMOIZE BINPUT LONG_BINPUT GLOBAL STACK_GLOBAL INST",
    96: "MARK EMPTY_LIST EMPTY_DICT TUPLE TUPLE1 TUPLE2 TUPLE3 BYTEARRAY8",
    64: "BINSTRING SHORT_BINSTRING BINUNICODE SHORT_BINUNICODE BINUNICODE8 "
    "BINBYTES SHORT_BINBYTES BINBYTES8 LONG1 LONG4",
    32: "BININT BININT2 BINFLOAT",
}
_COST = 16
_COST_OF_ENTRY = 96
# The hashes of tuples can be made to collide, which makes lookups linear in the number of tuples.
_COST_OF_TUPLE_KEY = 2**17
# Freeing nested object arrays takes C stack at each level.
_MAX_NESTED_ARRAYS = 8
_OPCODE_NAMES = {ord(op.code): op.name for op in pickletools.opcodes}


class _Instructions(dict):
    """The allowed instructions; each lookup is charged to the memory limit, and others are refused."""

    costs = {getattr(pickle, name)[0]: cost for cost, names in _COSTS.items() for name in names.split()}
    memory: MemoryLimit

    def __getitem__(self, code: int) -> Any:
        self.memory.take(self.costs.get(code, _COST))
        return super().__getitem__(code)

    def __missing__(self, code: int) -> Any:
        if code in _OPCODE_NAMES:
            raise RefusedError(f"the instruction {_OPCODE_NAMES[code]}")
        raise ValueError(f"unknown instruction {code}")


class _BoundedFile:
    """A file whose reads never allocate more than its own size, even if the pickle declares a larger size."""

    def __init__(self, file: BinaryIO) -> None:
        self.size = file.seek(0, 2)
        file.seek(0)
        self._file = file
        self.readline = file.readline

    def read(self, size: int) -> bytes:
        """Read exactly ``size`` bytes; raises EOFError if there are fewer."""
        data = self._file.read(size) if 0 <= size <= self.size else b""
        if len(data) < size:
            raise EOFError
        return data


# This is the Python implementation: the C one cannot disable instructions, and allocates all memory for a
# huge memo index.
class _Machine(pickle._Unpickler):
    """Python's own unpickler restricted to a few instructions and names."""

    stack: list[Any]
    read: Callable[[int], bytes]
    readinto: Callable[[bytearray], int]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, file: _BoundedFile, memory: MemoryLimit) -> None:
        super().__init__(file, encoding="latin1")
        self._memory = memory
        self.dispatch = _Instructions(self.known)  # type: ignore[misc]
        self.dispatch.memory = memory
        self._size = file.size
        self._unfilled: dict[int, np.ndarray] = {}
        self._object_arrays: dict[int, tuple[np.ndarray, int]] = {}

    def find_class(self, module: str, name: str) -> Name:
        """Resolve a name in numpy's or Python's old or new spelling; raises RefusedError for other names."""
        new_module = re.sub(r"^numpy\.core\.", "numpy._core.", module)
        new_name = Name({"__builtin__": "builtins"}.get(new_module, new_module), name)
        expect(new_name in SAFE_GLOBALS, f"{module}.{name}")
        return new_name

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        name = self.stack[-1]
        function = SAFE_GLOBALS[name] if isinstance(name, Name) else None
        if function is None or not isinstance(arguments, tuple):
            raise RefusedError(f"a call of {name.name if isinstance(name, Name) else type(name).__name__}")
        if name in SETS and arguments:
            self._keys(arguments[0])
        self._take(*arguments)
        value = self.stack[-1] = function(*arguments)
        self._take(value)
        if function is reconstruct:
            self._unfilled[id(value)] = value

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Dtype):
            target.set_state(state)
        elif id(target) in self._unfilled:
            self._fill(target, state)
        else:
            raise RefusedError(f"a state for a {type(target).__name__}")

    def _fill(self, array: np.ndarray, state: Any) -> None:
        data = state[-1]
        depth = self._depth(data) if isinstance(data, list) else 0
        self._take(data)
        fill(self._unfilled.pop(id(array)), state)
        self._take(array)
        if depth:
            self._object_arrays[id(array)] = array, depth

    def _depth(self, items: list[Any]) -> int:
        """Return the nesting depth of an object array with these items; raises RefusedError if too deep."""
        expect(not any(id(item) in self._unfilled for item in items), "an array within itself")
        inner = [self._object_arrays[id(item)][1] for item in items if id(item) in self._object_arrays]
        depth = 1 + max(inner, default=0)
        expect(depth <= _MAX_NESTED_ARRAYS, f"numpy.ndarray of objects, {depth} within one another")
        return depth

    def _take(self, *values: Any) -> None:
        """Charge the shallow size of values, because a call may copy them."""
        self._memory.take(sum(map(sys.getsizeof, values)))

    def _keys(self, keys: Any) -> Sequence[Any]:
        tuples = sum(isinstance(key, tuple) for key in plain_keys(keys))
        self._memory.take(_COST_OF_ENTRY * len(keys) + _COST_OF_TUPLE_KEY * tuples)
        return keys

    def _put(self, items: list[Any]) -> None:
        target = self.stack[-1]
        expect(isinstance(target, dict), f"items for a {type(target).__name__}")
        target.update(zip(self._keys(items[::2]), items[1::2], strict=True))

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._put([key, value])

    def load_setitems(self) -> None:
        self._put(self.pop_mark())

    def load_additems(self) -> None:
        members = self._keys(self.pop_mark())
        expect(isinstance(self.stack[-1], set), f"set members for a {type(self.stack[-1]).__name__}")
        self.stack[-1].update(members)

    def load_frozenset(self) -> None:
        members = self._keys(self.pop_mark())
        self.stack.append(frozenset(members))

    def load_bytearray8(self) -> None:
        (size,) = struct.unpack("<Q", self.read(8))
        if size > self._size:
            raise EOFError
        content = bytearray(size)
        self.readinto(content)
        self.stack.append(content)

    known = {
        getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]]
        for name in _INSTRUCTIONS.split()
    } | {
        pickle.REDUCE[0]: load_reduce,
        pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.ADDITEMS[0]: load_additems,
        pickle.FROZENSET[0]: load_frozenset,
        pickle.BYTEARRAY8[0]: load_bytearray8,
    }


def _run(file: BinaryIO, name: str) -> object:
    """Load the pickle in a file; raises UserError if it is empty or has another protocol."""
    head = file.read(HEAD_BYTES)
    if not head:
        raise UserError(f"{name} is empty.")
    known = describe(head)
    if known is not None:
        raise UserError(f"{name} is not a pickle but {known[0]}; {known[1]}.")
    if head[0] != pickle.PROTO[0] or head[:2][-1] not in PROTOCOLS:
        raise UserError(
            f"{name} is not a pickle file of protocol {PROTOCOLS[0]} to {PROTOCOLS[-1]}; use one of these."
        )
    bounded = _BoundedFile(file)
    return _Machine(bounded, MemoryLimit(name, bounded.size)).load()


def load_pickle(path: str | Path) -> object:
    """Read a pickle file of protocol 2 to 5 that contains numpy arrays and plain containers.

    Arrays may be read-only. Variable-width strings of numpy become object arrays, and 8-bit strings of
    Python 2 become text.

    Raises:
        UserError: The file is missing, unreadable, damaged or not a pickle, or asks for other objects.
    """
    path, name = Path(path), repr(str(path))
    try:
        # Reading a device or a pipe might never end.
        if not path.is_file():
            raise UserError(f"{name} is not a file." if path.exists() else f"There is no file {name}.")
        with path.open("rb") as file:
            return _run(file, name)
    except UserError:
        raise
    except RefusedError as error:
        advice = describe_objects(str(error))
        raise UserError(
            f"{name} was refused: its pickle asks for {str(error)[:200]!r};"
            f" only numpy arrays and plain containers are allowed{advice and f', and {advice}'}."
        ) from None
    except OSError as error:
        raise file_error(name, "read", error) from error
    except EOFError:
        raise UserError(f"{name} ends too early: the pickle is truncated; download it again.") from None
    except MemoryError:
        raise UserError(f"{name} needs more memory than is available.") from None
    except Exception as error:
        reason = printable(f"{type(error).__name__}: {error}")
        raise UserError(f"{name} is not a readable pickle ({reason}).") from error

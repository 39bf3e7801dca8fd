"""Pickles that carry code are refused and nothing of them runs; arrays of every usual make come through."""

import collections
import contextlib
import copyreg
import itertools
import os
import pickle
import re
import struct
import tempfile
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from harness.data.mmsa.unpickle import load_pickle
from harness.errors import UserError

PROTOCOLS = (2, 3, 4, 5)


def read(content):
    """Read the bytes of a pickle through a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.pkl"
        path.write_bytes(content)
        return load_pickle(path)


def text(value):
    encoded = str(value).encode()
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def with_old_numpy_names(content):
    """Spell numpy's modules as numpy 1 did, in a pickle of at most one frame."""
    content = re.sub(
        rb"\x8c(.)numpy\._core", lambda m: b"\x8c" + bytes([m[1][0] - 1]) + b"numpy.core", content, flags=re.S
    )
    content = content.replace(b"numpy._core", b"numpy.core")
    if content[2:3] == pickle.FRAME:
        content = content[:3] + struct.pack("<Q", len(content) - 11) + content[11:]
    return content


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.parts = (function, arguments)

    def __reduce__(self):
        return self.parts


class Touch:
    """A class that leaves a mark when it is made or given a state."""

    def __new__(cls, *paths):
        for path in paths:
            Path(path).touch()
        return super().__new__(cls)

    def __getnewargs__(self):
        return (self.path,)


class TouchState(Touch):
    def __getnewargs__(self):
        return ()

    def __setstate__(self, state):
        Path(state["path"]).touch()


def instance(cls, path):
    value = cls()
    value.path = str(path)
    return value


def make_folder(path):
    return Call(os.mkdir, str(path))


OBJECTS = {
    "in an array": lambda path: np.array([None, make_folder(path)]),
    "in a dict": lambda path: {"train": {"text": make_folder(path)}},
    "a class": lambda path: Call(Touch, str(path)),
    "__new__": lambda path: instance(Touch, path),
    "__setstate__": lambda path: instance(TouchState, path),
    "nested pickle": lambda path: Call(pickle.loads, pickle.dumps(make_folder(path))),
}
PROGRAMS = {
    "NEWOBJ_EX": lambda path: (
        b"\x80\x04" + text(__name__) + text("Touch") + b"\x93" + text(path) + b"\x85}\x92."
    ),
    "extension": lambda path: b"\x80\x02\x82\xf0" + text(path) + b"\x85R.",
    "after a dict": lambda path: b"\x80\x02}0cos\nmkdir\n" + text(path) + b"\x85R.",
    "second pickle's frame": lambda path: (
        b"\x80\x04\x95" + struct.pack("<Q", 1) + b"]0cos\nmkdir\n" + text(path) + b"\x85R."
    ),
}


@pytest.fixture
def extension():
    copyreg.add_extension("os", "mkdir", 240)
    yield
    copyreg.remove_extension("os", "mkdir", 240)
    copyreg.clear_extension_cache()


@pytest.mark.parametrize(
    ("attack", "protocol"), [*itertools.product(OBJECTS, PROTOCOLS), *((name, None) for name in PROGRAMS)]
)
def test_pickles_that_run_code_are_refused(attack, protocol, tmp_path, extension):
    mark = tmp_path / "mark"
    content = PROGRAMS[attack](mark) if protocol is None else pickle.dumps(OBJECTS[attack](mark), protocol)
    with contextlib.suppress(Exception):
        pickle.loads(content)
    assert any(tmp_path.iterdir()), "the attack does not work, so this test would show nothing"
    for left in list(tmp_path.iterdir()):
        left.rmdir() if left.is_dir() else left.unlink()
    with pytest.raises(UserError, match="was refused: its pickle asks for"):
        read(content)
    assert not any(tmp_path.iterdir())


NDARRAY = b"cnumpy\nndarray\n"
EMPTY = b"cnumpy._core.multiarray\n_reconstruct\n" + NDARRAY + b"K\x00\x85C\x01b\x87R"


def dtype(code):
    return b"cnumpy\ndtype\n" + text(code) + b"\x89\x88\x87R"


MINUS = b"J\xff\xff\xff\xff"
OBJECT_DTYPE = dtype("O8") + b"(K\x03" + text("|") + b"NNN" + MINUS + MINUS + b"K\x00tb"
FLOAT_DTYPE = dtype("f8")
OF_FLOATS = FLOAT_DTYPE + b"\x89C\x08" + bytes(8) + b"tb"
DEEP = b")" + b"\x85" * 200_000
REFUSED = {
    "the name": (b"cos\nsystem\n.", "'os.system'"),
    "persistent id": (b"Pos.system\n.", "BINPERSID|PERSID"),
    "binary persistent id": (text("os.system") + b"Q.", "BINPERSID"),
    "reconstructor": (b"ccopyreg\n_reconstructor\n.", "copyreg._reconstructor"),
    "numpy.load": (b"cnumpy\nload\n.", "'numpy.load'"),
    "numpy.testing": (b"cnumpy.testing._private.utils\nrunstring\n.", "runstring"),
    "numpy.core alias": (b"cnumpy.core.multiarray\nfromfile\n.", "fromfile"),
    "attribute of ndarray": (text("numpy") + text("ndarray.tofile") + b"\x93.", "numpy.ndarray.tofile"),
    "dtype attribute": (text("numpy") + text("dtype.__class__") + b"\x93.", "numpy.dtype.__class__"),
    "other codec": (b"c_codecs\nencode\n" + text("a") + text("rot13") + b"\x86R.", "rot13"),
    "other array class": (
        b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\ndtype\nK\x00\x85C\x01b\x87R.",
        "another class",
    ),
    "call of ndarray": (NDARRAY + b"K\x05\x85\x85R.", "ndarray"),
    "call of text": (text("numpy") + b")R.", "call of str"),
    "state of a name": (NDARRAY + b"}" + text("shape") + b"K\x01sb.", "state"),
    "state of a dict": (b"}}b.", "state"),
    "second state": (EMPTY + b"(K\x01K\x01\x85" + OF_FLOATS + b")b.", "state for a ndarray"),
    "items of a name": (NDARRAY + b"K\x01K\x02s.", "items"),
    "pointers as objects": (
        EMPTY + b"(K\x01K\x01\x85" + OBJECT_DTYPE + b"\x89C\x08AAAAAAAAtb.",
        "state is not a list",
    ),
    "object scalar": (
        b"cnumpy._core.multiarray\nscalar\n" + OBJECT_DTYPE + b"C\x01A\x86R.",
        "scalar of an object",
    ),
    "objects from a buffer": (
        b"cnumpy._core.numeric\n_frombuffer\n(C\x01A" + OBJECT_DTYPE + b"K\x01\x85" + text("C") + b"tR.",
        "frombuffer of objects",
    ),
    "structured dtype": (dtype("O,f8") + b".", "O,f8"),
    "void dtype": (dtype("V8") + b".", "V8"),
    "dtype fields": (FLOAT_DTYPE + b"(K\x03" + text("<") + b"N)}K\x08K\x01K\x00tb.", "fields"),
    "shape too large": (EMPTY + b"(K\x01J\xff\xff\xff\x7f\x85" + OF_FLOATS + b".", "2147483647"),
    "negative shape": (EMPTY + b"(K\x01" + MINUS + b"\x85" + OF_FLOATS + b".", "invalid shape"),
    "large bytearray": (b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.", "int"),
    "deep key": (b"}" + DEEP + b"K\x01s.", "as key"),
    "deep member": (b"\x8f(" + DEEP + b"\x90.", "as key"),
    "array as key": (b"}" + EMPTY + b"K\x01s.", "as key"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_anything_else_is_refused_by_its_name(case):
    program, named = REFUSED[case]
    with pytest.raises(UserError, match=named) as caught:
        read(b"\x80\x04" + program)
    assert re.fullmatch(
        ".*was refused: its pickle asks for .*only numpy arrays and plain containers are allowed.",
        str(caught.value),
    )


def test_a_cached_extension_is_refused(extension, tmp_path):
    content = PROGRAMS["extension"](tmp_path / "mark")
    with contextlib.suppress(Exception):
        pickle._loads(content)
    assert (tmp_path / "mark").exists()
    (tmp_path / "mark").rmdir()
    with pytest.raises(UserError, match="EXT1"):
        read(content)


OTHER_PROTOCOL = "is not a pickle file of protocol 2 to 5; use one of these"
DAMAGED = {
    "empty": (b"", "is empty"),
    "text": (b"text,audio\n1,2\n", "is not a pickle"),
    "protocol 0": (pickle.dumps([1.0], 0), OTHER_PROTOCOL),
    "protocol 9": (b"\x80\x09].", OTHER_PROTOCOL),
    "only the head": (b"\x80\x04", "ends too early"),
    "head cut": (b"\x80", "is not a pickle"),
    "no stop": (b"\x80\x04]", "ends too early"),
    "empty stack": (b"\x80\x04.", "is not a readable pickle"),
    "wrong arguments": (b"\x80\x04cnumpy\ndtype\n)R.", "is not a readable pickle"),
    "unknown instruction": (b"\x80\x04\xff.", "is not a readable pickle"),
    "missing memo": (b"\x80\x04h\x07.", "is not a readable pickle"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files_get_one_sentence(case):
    content, message = DAMAGED[case]
    with pytest.raises(UserError, match=message):
        read(content)


def test_paths_that_are_no_readable_file(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"")
    for name, message in {"missing": "There is no file", ".": "not a file", "pipe": "not a file"}.items():
        with pytest.raises(UserError, match=message):
            load_pickle(tmp_path / name)
    monkeypatch.setattr(Path, "open", Mock(side_effect=PermissionError(13, "Permission denied")))
    with pytest.raises(UserError, match="file' cannot be read: Permission denied"):
        load_pickle(tmp_path / "file")


DTYPES = npst.boolean_dtypes() | npst.complex_number_dtypes(sizes=(64, 128))
DTYPES |= npst.floating_dtypes() | npst.integer_dtypes() | npst.unsigned_integer_dtypes()
DTYPES |= npst.unicode_string_dtypes(max_len=5) | npst.byte_string_dtypes(max_len=5)
ARRAYS = npst.arrays(DTYPES, npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))


@settings(deadline=None)
@given(ARRAYS, st.sampled_from(PROTOCOLS), st.booleans(), st.sampled_from(["C", "F", "strided", "moved"]))
def test_arrays_come_through(array, protocol, old_names, layout):
    if layout == "F":
        array = np.asfortranarray(array)
    elif layout == "strided" and array.ndim:
        array = array[::2]
    elif layout == "moved" and array.ndim == 3:
        array = array.transpose(1, 0, 2)
    content = pickle.dumps({"a": array, "again": array}, protocol)
    old = with_old_numpy_names(content)
    assert b"numpy.core." in old
    assert b"numpy._core" not in old
    result = read(old if old_names else content)
    assert result["a"] is result["again"]
    assert result["a"].dtype == pickle.loads(content)["a"].dtype
    np.testing.assert_array_equal(result["a"], array)


SCALARS = [np.float32(1.5), np.int64(3), np.bool_(True), np.str_(""), np.str_("id"), np.bytes_(b"x")]
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
LEAVES |= st.complex_numbers(allow_nan=False) | st.builds(bytearray, st.binary(max_size=9))
LEAVES |= st.sampled_from(SCALARS)
SHORT = st.integers(1 - 2**63, 2**63 - 1)  # the hashes of longer ones collide
KEYS = st.text() | SHORT | st.binary() | st.tuples(st.text(), SHORT)
PLAIN = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.builds(collections.OrderedDict, st.dictionaries(st.text(), inner, max_size=3))
        | st.sets(KEYS, max_size=3)
        | st.frozensets(KEYS, max_size=3)
    ),
    max_leaves=10,
)


@settings(deadline=None)
@given(PLAIN, st.sampled_from(PROTOCOLS))
def test_plain_containers_come_through(value, protocol):
    result = read(pickle.dumps(value, protocol))
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_object_arrays_and_large_arrays_come_through(protocol):
    names = np.array([["a$_$1", None], ["b", 2.5]], dtype=object)
    strings = np.array(["one", "a longer text than fits inline"], dtype=np.dtypes.StringDType())
    large = np.arange(200_000, dtype=np.float16).reshape(100, -1)
    empty = np.empty((0, 3), dtype=object)
    result = read(pickle.dumps([names, strings, large, empty, large.T], protocol))
    assert result[0].dtype == object
    assert result[0].tolist() == names.tolist()
    assert result[1].tolist() == strings.tolist()
    np.testing.assert_array_equal(result[2], large)
    assert result[3].shape == (0, 3)
    np.testing.assert_array_equal(result[4], large.T)


def test_a_huge_memo_index_costs_nothing_and_python_2_strings_are_text_and_bytes_of_arrays():
    assert read(b"\x80\x04]r\xff\xff\xff\xff.") == []
    values = np.array([1.0, -2.0])
    program = EMPTY + b"(K\x01K\x02\x85" + FLOAT_DTYPE + b"\x89U\x10" + values.tobytes() + b"tb."
    np.testing.assert_array_equal(read(b"\x80\x02" + program.replace(b"C\x01b", b"U\x01b")), values)

"""Attacks on the reader of MMSA files by hand: code, sizes, depths, and few bytes that stand for many."""

import ast
import pickle
import resource
import struct
import time
from pathlib import Path

import numpy as np
import pytest

from backbones.batch import MODALITIES
from harness.data.labels import LabelScale
from harness.data.mmsa.reader import read_mmsa
from harness.data.mmsa.unpickle import load_pickle
from harness.data.strict import memory_limit
from harness.errors import UserError
from tests.fuzz import programs
from tests.fuzz.contents import endless, nested_objects, no_text, shared, shared_arrays
from tests.fuzz.programs import GET, KEEP
from tests.fuzz.runner import memory
from tests.harness.data.test_mmsa import CLIPS, make_content
from tests.support.forking import forked

MIB = 2**20


def watched(content, read=load_pickle):
    """Read a pickle in a process of its own; what it says, and the memory and the time that it took."""
    Path("file.pkl").write_bytes(content)
    assert forked(lambda: Path("answer").write_text(repr(in_child(read)))) == 0
    return ast.literal_eval(Path("answer").read_text())


def in_child(read):
    resource.setrlimit(resource.RLIMIT_AS, (memory("VmSize") + 2048 * MIB,) * 2)
    Path("/proc/self/clear_refs").write_text("5")
    before, started = memory("VmRSS"), time.process_time()
    try:
        said = f"accepted, a {type(read('file.pkl')).__name__}"
    except UserError as error:
        said = str(error)
    return said, memory("VmHWM") - before, time.process_time() - started


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


NUMBERS = b"](" + b"".join(b"J" + struct.pack("<i", k) for k in range(20_000)) + b"e"
TEXT = programs.constant("a" * 10**6)
SET = b"c__builtin__\nset\n"


def calls(argument, function, times, more=b"\x85R"):
    """A program of few bytes that calls a function with one argument many times."""
    return argument + KEEP + b"(" + (function + GET + more) * times + b"t"


# Programs of few bytes that would take gigabytes, minutes, or the C stack, and why they are refused, where a
# file may claim 16 MiB beside what its size allows.
SPARE = 16 * MIB
BOMBS = {
    "memo": (b"N" + b"\x94" * 150_000, "more than"),
    "sets": (b"(" + b"\x8f" * 90_000 + b"t", "more than"),
    "marks": (b"(" * 210_000, "more than"),
    "copies of bytes": (calls(TEXT, b"c_codecs\nencode\n", 5000, b"U\x06latin1\x86R"), "more than"),
    "copies of bytearrays": (calls(TEXT, b"cbuiltins\nbytearray\n", 5000), "more than"),
    "copies of sets": (calls(NUMBERS, SET, 2000), "more than"),
    "sets of one": (calls(b"](" + b"K\x01" * 200_000 + b"e", SET, 9000), "more than"),
    "long tuples as keys": (
        b"}(" + b"K\x01" * 100_000 + b"t" + KEEP + b"(" + (GET + b"N") * 100_000 + b"u",
        "a tuple as key",
    ),
    "long numbers as keys": (
        b"}" + programs.constant(2**1_000_000) + KEEP + b"(" + (GET + b"N") * 100_000 + b"u",
        "a int as key",
    ),
    "tuples of one hash": (
        b"}(" + b"".join(b"J" + struct.pack("<i", k) + b"K\x01\x86N" for k in range(5000)) + b"u",
        "more than",
    ),
    "arrays within arrays": (programs.nested_arrays(30_000), "9 within one another"),
    "words without end": (
        programs.shared_lists(10, 9) + KEEP + b"c_codecs\nencode\nU\x01a" + GET + b"\x86R",
        "_codecs.encode to list",
    ),
    "dtype without end": (
        programs.shared_lists(10, 9) + KEEP + b"cnumpy\ndtype\n" + GET + b"\x85R",
        "numpy.dtype(list)",
    ),
}


@pytest.mark.parametrize("case", BOMBS)
def test_few_bytes_do_not_take_much(case, folder, monkeypatch):
    monkeypatch.setattr(memory_limit, "SPARE", SPARE)
    program, words = BOMBS[case]
    answer, grown, took = watched(b"\x80\x04" + program + b".")
    assert words in answer
    assert grown < 1.3 * (SPARE + 8 * len(program)) + 4 * MIB
    assert took < 20


def long_names():
    content = clips_of(2000)
    content["train"]["id"] = [str(k) for k in range(1999)] + ["a" * 50_000]
    return content


def clips_of(clips, steps=1):
    """Many clips of a few bytes each."""
    return {
        split: {m: np.ones((clips, steps, 1), np.uint8) for m in MODALITIES}
        | {"regression_labels": np.zeros(clips, np.float16)}
        for split in CLIPS
    }


def with_value(key, value):
    content = make_content()
    content["train"][key] = value
    return content


CONTENTS = {
    "lists in lists": (lambda: with_value("text", shared(10, 8)), "more than 128 MiB"),
    "lists of nothing": (lambda: with_value("text", [shared(2, 40)]), "more than 128 MiB"),
    "a list in itself": (lambda: with_value("text", endless()), "does not form an array"),
    "one array often": (lambda: with_value("audio", shared_arrays(20_000)), "memory"),
    "text as wide as the longest": (
        lambda: with_value("text", ["a" * 50_000] + ["b"] * 9000),
        "hold numbers",
    ),
    "arrays within arrays": (lambda: with_value("text", nested_objects(30)), "within one another"),
    "text that is none": (lambda: with_value("id", no_text()), "invalid text"),
    "half a character": (lambda: with_value("id", ["\ud800", "b", "c", "d", "e"]), "which is not valid text"),
    "a number without end as id": (lambda: with_value("id", [10**5000, 2, 3, 4, 5]), "more than 64 bits"),
    "a number without end": (lambda: with_value("audio_lengths", [10**5000] * 5), "must hold numbers"),
    "a number without end as key": (lambda: {10**5000: 1}, "a int as key"),
    "one long name": (long_names, "memory"),
    "splits of unlike steps": (lambda: clips_of(20_000) | {"test": clips_of(2, 20_000)["test"]}, "memory"),
    "a split of numbers": (lambda: make_content() | {"test": np.ones(3)}, "split 'test' is a ndarray"),
    "names that obey": (lambda: {"\x1b[2J\nvalid": 1}, "found: ?[2J valid"),
    "a long name": (lambda: {"a" * 10**6: 1}, "no split 'train'"),
    "many names": (lambda: {f"key{k}": 1 for k in range(10**5)}, "and 99988 more"),
    "a signal": (
        lambda: with_value("audio", np.full((5, 9, 2), 0x7F800001, "u4").view("f4")),
        "no finite value",
    ),
    "no clips, endless steps": (lambda: with_value("audio", np.zeros((0, 2**40, 2))), "has 0 clips"),
    "endless clips of nothing": (lambda: with_value("audio", np.zeros((2**40, 0))), "shape (1099511627776,"),
}


@pytest.mark.parametrize("case", CONTENTS)
def test_contents_that_would_take_too_much_or_break_something(case, folder):
    make, words = CONTENTS[case]
    content = pickle.dumps(make(), 4)
    answer, grown, took = watched(content, lambda path: read_mmsa(path, LabelScale(3.0)))
    assert words in answer
    assert answer.isprintable()
    assert len(answer) < 1500
    assert grown < 2 * (128 * MIB + 8 * len(content))
    assert took < 20


@pytest.mark.parametrize("size", programs.HUGE)
@pytest.mark.parametrize("operation", programs.SIZED)
def test_declared_sizes_reserve_nothing(operation, size, folder, address_space):
    piece = programs.sized(getattr(pickle, operation) + bytes(8), operation, size)
    (folder / "file.pkl").write_bytes(b"\x80\x04" + piece + b"N" * 20 + b".")
    with pytest.raises(UserError, match=r"ends too early|is not a readable pickle"):
        load_pickle(folder / "file.pkl")


@pytest.fixture
def address_space():
    """Little room beyond what this process has, so that a reservation fails."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (memory("VmSize") + 512 * MIB, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("call", programs.CALLS)
@pytest.mark.parametrize("what", programs.DANGEROUS, ids=lambda what: f"{what[0]}.{what[1]}")
def test_no_callable_is_called_under_any_name(what, call, folder):
    (folder / "file.pkl").write_bytes(b"\x80\x04" + call(*what) + b".")
    with pytest.raises(UserError, match="was refused: its pickle asks for"):
        load_pickle(folder / "file.pkl")
    assert [path.name for path in folder.iterdir()] == ["file.pkl"]

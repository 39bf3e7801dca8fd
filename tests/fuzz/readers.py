"""Readers under test: of MMSA files, of stored files, and broken readers that the fuzzer must detect."""

import os
import pickle
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.data.labels import LabelScale
from harness.data.layouts import hdf5
from harness.data.layouts.hdf5_arrays import arrays_of
from harness.data.mmsa import contents
from harness.data.mmsa.reader import read_mmsa
from harness.data.mmsa.resplit import SplitChoice
from harness.data.strict.memory_limit import SPARE, TIMES
from harness.data.summary import summary_lines
from harness.errors import UserError
from tests.fuzz.layouts import mutate_layout
from tests.fuzz.mutations import mutate
from tests.harness.data.test_mmsa import check_contract

# Stages of reading, by the words of the error message and by the function that raised it.
PICKLE_STAGES = {
    "not a pickle": "no pickle",
    "is empty": "no pickle",
    "ends too early": "truncated",
    "not a readable": "no program",
    "asks for": "not allowed",
    "of memory": "too much memory",
}
CONTENT_STAGES = {
    "nest_arrays": "archive",
    "read_npz": "archive",
    "read_hdf5": "archive",
    "read_examples": "examples",
    "_split_contents": "splits",
    "read_labels": "labels",
    "read_ids": "ids",
    "read_tokens": "tokens",
    "read_array": "features",
    "read_lengths": "lengths",
    "_clean": "features",
    "_check_widths": "widths",
    "_check_leakage": "leakage",
}


@dataclass
class Case:
    """A changed file. run: read it; returns the stage that was reached, or nothing where it is not valid.

    clean: exceptions that are a refusal. stage: where one was raised.
    """

    kind: str
    size: int
    run: Callable[[], str | None]
    clean: tuple[type[BaseException], ...] = (UserError,)
    stage: Callable[[BaseException], str] = lambda error: "refused"


def mmsa(folder, read=lambda path: read_mmsa(path, LabelScale(3.0)), change=mutate):
    """Return a maker of cases: a mutated feature file each, read by ``read``."""
    path = folder / "file.pkl"

    def run():
        dataset = read(path)
        check_contract(dataset)
        assert "\n" not in "".join(summary_lines(dataset))
        return "a dataset"

    def make(generator, _=0):
        kind, content = change(generator)
        path.write_bytes(content)
        return Case(kind, len(content), run, stage=stage)

    return make


def read_hdf5(path):
    """Read an HDF5 file in this process, so that the fuzzer sees what would end a process of its own."""
    return hdf5._nested(arrays_of(path))


def layouts(folder):
    """Return a maker of cases: files in other layouts than MMSA's; every fourth is read as folds."""
    contents.read_hdf5 = read_hdf5
    own = mmsa(folder, change=mutate_layout)
    folds = mmsa(folder, lambda path: read_mmsa(path, LabelScale(3.0), SplitChoice(fold=1)), mutate_layout)
    return in_turn([own, own, own, folds])


def stage(error):
    """Return how far the reading of an MMSA file came before it was refused."""
    text, names = str(error), {frame.name for frame in traceback.extract_tb(error.__traceback__)}
    if "load_pickle" in names:
        return "pickle: " + next((kind for words, kind in PICKLE_STAGES.items() if words in text), "other")
    if "more than" in text and "memory" in text:
        return "content: too much memory"
    return "content: " + next((kind for name, kind in CONTENT_STAGES.items() if name in names), "other")


def stored(folder):
    """Return a maker of cases of the stored files, one kind after another."""
    from tests.fuzz.stored import TARGETS, change_file, originals

    def one_kind(name, target):
        files, place = originals(name, str(folder)), folder / name

        def run():
            value = target.read(place)
            return ("ignored" if value is None else "read") if target.check(value) else None

        def make(generator):
            for path, content in files.items():
                if path.read_bytes() != content:
                    path.write_bytes(content)
            path = generator.choice(list(files))
            what, content = change_file(generator, target, files[path])
            path.write_bytes(content)
            size = len(content) + sum(len(other) for p, other in files.items() if p != path)
            return Case(f"{name}: {what}", size, run, target.clean)

        return make

    return in_turn([one_kind(name, target) for name, target in TARGETS.items()])


def every(folder):
    """Return a maker of a case of an MMSA file, one of a stored file and two of other layouts, in turn."""
    makers = mmsa(folder), stored(folder), *[layouts(folder)] * 2
    return lambda generator, number: makers[number % 4](generator, number // 4)


def in_turn(makers):
    return lambda generator, number: makers[number % len(makers)](generator)


def broken(folder):
    """Return a factory of cases of the broken readers, one after another."""
    return in_turn([mmsa(folder, read) for read, _ in BROKEN.values()])


def mumble(_):
    raise UserError("endless " * 500)


# Broken readers and the expected outcome; each of the last two kills its child process.
BROKEN = {
    "run": (lambda path: pickle.loads(path.read_bytes()), "payload"),
    "canary": (lambda path: Path("canary").touch(), "payload"),
    "memory": (lambda path: bytearray(2 * SPARE + (2 * TIMES + 1) * path.stat().st_size + 2**27), "greedy"),
    "exception": (lambda path: {}["train"], "escaped"),
    "words": (mumble, "escaped"),
    "nothing": (lambda path: None, "escaped"),
    "crash": (lambda path: os.kill(os.getpid(), signal.SIGSEGV), "crashed"),
    "hang": (lambda path: time.sleep(3600), "hung"),
}
READERS = {"mmsa": mmsa, "layouts": layouts, "stored": stored, "every": every, "broken": broken}

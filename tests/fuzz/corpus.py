"""Valid MMSA files for the fuzzer, a few kB each, and the dicts that they were made of."""

import functools
import itertools
import pickle

import numpy as np

from backbones.batch import MODALITIES
from tests.fuzz.contents import ARRAYS, cast
from tests.harness.data.test_mmsa import as_lists, as_objects, as_types, change_splits, make_content
from tests.harness.data.test_unpickle import with_old_numpy_names

PROTOCOLS = (2, 3, 4, 5)


def aligned(parts):
    """Give every modality the same number of steps."""
    for m in MODALITIES:
        parts[m] = np.ones((len(parts["id"]), 6, parts[m].shape[2]), np.float32)
        parts[m][:, 4:] = 0
    parts["text_bert"][:, 1] = [1, 1, 1, 1, 0, 0]


def in_fortran_order(parts):
    for key in (*MODALITIES, "text_bert"):
        parts[key] = np.asfortranarray(parts[key])


def with_numpy_scalars(parts):
    """Labels and lengths as lists of numpy's numbers, ids as numpy's text."""
    parts["regression_labels"] = list(parts["regression_labels"])
    parts["audio_lengths"] = [np.int64(n) for n in parts["audio_lengths"]]
    parts["id"] = np.array(parts["id"])


def with_other_keys(parts):
    """Keys that the reader does not know, and numpy's text of variable width."""
    parts["id"] = np.array(parts["id"], np.dtypes.StringDType())
    parts["annotations"] = {"Negative"}
    parts["vocabulary"] = {("word", 1): 2.5, 3: b"bytes", "complex": 1j, None: bytearray(b"abc")}


def as_long_doubles(parts):
    for key in ARRAYS:
        parts[key] = cast(parts[key], "g")


CONTENTS = {
    "plain": make_content,
    "in front": lambda: make_content(seed=1, in_front=True),
    "no lengths": lambda: make_content(seed=2, with_lengths=False),
    "no tokens": lambda: make_content(seed=3, with_tokens=False),
    "aligned": lambda: change_splits(aligned, seed=5, with_lengths=False),
    "fortran": lambda: change_splits(in_fortran_order, seed=6),
    "scalars": lambda: change_splits(with_numpy_scalars, seed=7),
    "other keys": lambda: change_splits(with_other_keys, seed=8),
    "lists": lambda: as_lists(make_content(seed=4)),
    "objects": lambda: as_objects(make_content(seed=4)),
    "float16": lambda: as_types(make_content(seed=4), "f2"),
    "float64": lambda: as_types(make_content(seed=4), "f8"),
    "long double": lambda: change_splits(as_long_doubles, seed=4),
    "big-endian": lambda: as_types(make_content(seed=4), ">f4"),
    "int8": lambda: as_types(make_content(seed=4), "i1"),
}


@functools.cache
def contents():
    return {name: make() for name, make in CONTENTS.items()}


@functools.cache
def corpus():
    """The bytes of every content in every protocol, with the names of numpy 1 and of numpy 2."""
    files = {}
    for name, protocol, old in itertools.product(CONTENTS, PROTOCOLS, (False, True)):
        made = pickle.dumps(contents()[name], protocol)
        files[name, protocol, old] = with_old_numpy_names(made) if old else made
    return files

"""Valid MMSA files for the fuzzer, a few kB each, and the dicts that they were made of."""

import functools
import itertools
import pickle

import numpy as np

from backbones.batch import MODALITIES
from tests.fuzz.contents import ARRAYS, cast
from tests.harness.data.test_mmsa import as_lists, as_objects, as_types, make_content
from tests.harness.data.test_unpickle import with_old_numpy_names

PROTOCOLS = (2, 3, 4, 5)


def aligned():
    """As many steps in every modality, and no lengths."""
    content = make_content(seed=5, with_lengths=False)
    for parts in content.values():
        for m in MODALITIES:
            parts[m] = np.ones((len(parts["id"]), 6, parts[m].shape[2]), np.float32)
            parts[m][:, 4:] = 0
        parts["text_bert"][:, 1] = [1, 1, 1, 1, 0, 0]
    return content


def in_fortran_order():
    content = make_content(seed=6)
    for parts in content.values():
        for key in (*MODALITIES, "text_bert"):
            parts[key] = np.asfortranarray(parts[key])
    return content


def with_numpy_scalars():
    """Labels and lengths as lists of numpy's numbers, ids as numpy's text."""
    content = make_content(seed=7)
    for parts in content.values():
        parts["regression_labels"] = list(parts["regression_labels"])
        parts["audio_lengths"] = [np.int64(n) for n in parts["audio_lengths"]]
        parts["id"] = np.array(parts["id"])
    return content


def with_other_keys():
    """Keys that the reader does not know, and numpy's text of variable width."""
    content = make_content(seed=8)
    for parts in content.values():
        parts["id"] = np.array(parts["id"], np.dtypes.StringDType())
        parts["annotations"] = {"Negative"}
        parts["vocabulary"] = {("word", 1): 2.5, 3: b"bytes", "complex": 1j, None: bytearray(b"abc")}
    return content


def as_long_doubles():
    content = make_content(seed=4)
    for parts in content.values():
        for key in ARRAYS:
            parts[key] = cast(parts[key], "g")
    return content


CONTENTS = {
    "plain": make_content,
    "in front": lambda: make_content(seed=1, in_front=True),
    "no lengths": lambda: make_content(seed=2, with_lengths=False),
    "no tokens": lambda: make_content(seed=3, with_tokens=False),
    "aligned": aligned,
    "fortran": in_fortran_order,
    "scalars": with_numpy_scalars,
    "other keys": with_other_keys,
    "lists": lambda: as_lists(make_content(seed=4)),
    "objects": lambda: as_objects(make_content(seed=4)),
    "float16": lambda: as_types(make_content(seed=4), "f2"),
    "float64": lambda: as_types(make_content(seed=4), "f8"),
    "long double": as_long_doubles,
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

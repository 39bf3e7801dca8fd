"""Mutated files of the layouts that are not MMSA's own: of their bytes, instructions, and what they hold."""

import functools
import io
import pickle

import h5py
import numpy as np

from tests.fuzz.contents import change_content, strange
from tests.fuzz.corpus import PROTOCOLS
from tests.fuzz.mutations import MUTATIONS, cut, flip_bits, move_blocks, mutate, replace_bytes, write_number
from tests.harness.data.layout_files import ARCHIVES, LAYOUT_NAMES, PICKLED, layout_bytes, make_clips
from tests.harness.data.test_unpickle import with_old_numpy_names

OTHERS = [name for name in LAYOUT_NAMES if name != "mmsa"]
_BYTES = (flip_bits, replace_bytes, cut, move_blocks, write_number)


@functools.cache
def layout_corpus():
    """Pickles of each layout in each protocol, with the names of numpy 1 and of numpy 2."""
    files = {}
    for name in OTHERS:
        if name in PICKLED:
            for protocol in PROTOCOLS:
                made = pickle.dumps(PICKLED[name](*make_clips(1)), protocol)
                files[name, protocol, False] = made
                files[name, protocol, True] = with_old_numpy_names(made)
    return files


def change_examples(generator, content):
    """Replace a part of an example, or the example, its list or a neighbour of it, in place."""
    split = generator.choice(list(content))
    rows = content[split]
    if not isinstance(rows, list) or not rows or generator.random() < 0.1:
        content[split] = strange(generator)
        return
    row = generator.randrange(len(rows))
    example = rows[row]
    if not isinstance(example, tuple) or generator.random() < 0.1:
        rows[row] = strange(generator)
        return
    place = generator.randrange(3)
    parts = list(example)
    if place == 0 and isinstance(parts[0], tuple):
        inner = list(parts[0])
        inner[generator.randrange(len(inner))] = strange(generator)
        parts[0] = tuple(inner)
    else:
        parts[place] = strange(generator)
    rows[row] = tuple(parts)


def _as_array(value):
    """An array of a value; those that are no flat list would take too much memory, or form no array."""
    if isinstance(value, np.ndarray):
        return value
    items = value if isinstance(value, list) else []
    if items and all(isinstance(item, str) for item in items):
        return np.array([item[:60] for item in items])
    numbers = all(isinstance(item, (int, float)) and abs(item) < 2**62 for item in items)
    return np.array(items) if items and numbers else np.ones(2)


def changed_archive(generator, name):
    """An archive with something wrong in it, which its own library writes."""
    content = {split: dict(parts) for split, parts in make_clips(1)[0].items()}
    change_content(generator, content)
    arrays = {}
    for split, parts in content.items():
        for key, value in parts.items() if isinstance(parts, dict) else [("text", parts)]:
            arrays[f"{split!s:.40}/{key!s:.40}"] = _as_array(value)
    file = io.BytesIO()
    try:
        if name == "npz":
            np.savez(file, **arrays)
        else:
            with h5py.File(file, "w") as made:
                for key, array in arrays.items():
                    made[key] = array.tolist() if array.dtype.kind == "U" else array
    # Some names are none of a file, and some objects cannot be pickled.
    except (ValueError, TypeError, RecursionError, SystemError, OSError):
        return layout_bytes(name)[: generator.randrange(4, 2000)]
    return file.getvalue()


def changed_pickle(generator, name):
    content = PICKLED[name](*make_clips(1))
    change = change_content if name.startswith("mult") else change_examples
    for _ in range(generator.choice((1, 1, 2))):
        change(generator, content)
    return pickle.dumps(content, generator.choice(PROTOCOLS))


def mutate_layout(generator):
    """Return one mutated file: its layout with the kind of its change, and its bytes."""
    name = generator.choice(OTHERS)
    if generator.random() < 0.4:
        content = (changed_archive if name in ARCHIVES else changed_pickle)(generator, name)
        return f"{name}: content changed", content
    if name in ARCHIVES:
        change = generator.choice(_BYTES)
        kind = next(kind for kind, function in MUTATIONS.items() if function is change)
        return f"{name}: {kind}", change(generator, layout_bytes(name, 1))
    kind, content = mutate(generator, {k: c for k, c in layout_corpus().items() if k[0] == name})
    return f"{name}: {kind}", content

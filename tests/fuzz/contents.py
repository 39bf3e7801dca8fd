"""Changes to what an MMSA file holds, as Python objects: types, shapes, values, names and splits."""

import collections

import numpy as np

from backbones.batch import MODALITIES
from harness.data.dataset import SPLITS

ARRAYS = (*MODALITIES, "regression_labels", "text_bert")
KEYS = (*ARRAYS, "audio_lengths", "vision_lengths", "id", "labels")


def endless():
    itself = []
    itself.append(itself)
    return itself


def shared(width, depth):
    value = 1.0
    for _ in range(depth):
        value = [value] * width
    return value


def nested_objects(depth):
    array = np.ones(2)
    for _ in range(depth):
        outer = np.empty(1, object)
        outer[0] = array
        array = outer
    return array


def shared_arrays(count):
    objects = np.empty(count, object)
    objects[:] = [np.ones((50, 20), np.float32)] * count
    return objects


def no_text():
    return np.frombuffer(b"\xff\xff\xff\x7f" * 5, "<U1")


STRANGE = (
    None, 0, -1, 1.5, float("nan"), float("inf"), 10**400, -(2**63), True, "", "text", "\ud800", b"bytes", 1j,
    (), [], {}, set(), {"a": 1}, [None], [[1, 2], [3]], ["a", "b"], [10**5000] * 5, [{}] * 5, (1, "a"),
    collections.OrderedDict(a=1), bytearray(b"abc"),
)  # fmt: skip
MADE = (
    endless, no_text, lambda: shared(10, 3), lambda: shared(10, 8), lambda: shared(2, 40),
    lambda: nested_objects(3), lambda: nested_objects(30), lambda: shared_arrays(5),
    lambda: shared_arrays(20_000), lambda: ["a" * 50_000] + ["b"] * 5_000, lambda: np.array(5.0),
    lambda: np.zeros((0, 3, 4)), lambda: np.zeros((3, 0, 4)), lambda: np.zeros((10**9, 0)),
    lambda: np.array(["a", "b"]), lambda: np.array([1 + 2j]), lambda: np.zeros((2,) * 20, np.int8),
)  # fmt: skip
DTYPES = ("f2", "f4", "f8", ">f4", ">f8", "i1", "i8", "u1", "u8", "?", "c8", "U5", "S5", "O")
NUMBERS = (np.nan, np.inf, -np.inf, -1, 0, 0.5, 1e300, -3.5, 2**31, 2**62, 65504, 1e-45)
NAMES = ("", "a" * 40_000, "\ud800", "a\nb", "\x1b[2J", "a\0", 3, 2.5, 10**5000, b"\xff", None, ["a"])
NAMES += (np.str_("x"),)


def strange(generator):
    return generator.choice(STRANGE) if generator.random() < 0.5 else generator.choice(MADE)()


def replace_value(generator, parts, key):
    parts[key] = strange(generator)


def cast(array, dtype):
    """The array in another dtype; the unused bytes of long doubles are zero, not leftover memory."""
    made = np.zeros(np.shape(array), dtype)
    with np.errstate(all="ignore"):
        made[...] = array
    return made


def replace_type(generator, parts, key):
    dtype = generator.choice(DTYPES)
    parts[key] = np.asarray(parts[key]).astype(dtype) if dtype[0] in "US" else cast(parts[key], dtype)


def replace_shape(generator, parts, key):
    array = np.asarray(parts[key])
    parts[key] = generator.choice(
        (
            array[None], array[..., None], array.reshape(-1), array[:-1], array[1:], array[:0],
            array[..., :1], array.T, np.repeat(array, 3, -1), np.repeat(array, 30, 0),
            array.reshape(-1)[:1].reshape(()),
        )
    )  # fmt: skip


def replace_numbers(generator, parts, key):
    array = np.array(parts[key])
    if array.size and array.dtype.kind in "iuf":
        places = generator.sample(range(array.size), generator.randint(1, array.size))
        with np.errstate(all="ignore"):
            array.reshape(-1)[places] = cast(generator.choice(NUMBERS), array.dtype)
    parts[key] = array


def make_ragged(generator, parts, key):
    rows = np.asarray(parts[key]).tolist()
    if isinstance(rows, list) and rows:
        rows[generator.randrange(len(rows))] = generator.choice(([], [1.0], None, 1.0, [[1.0]], "a"))
    parts[key] = rows


def rename_clips(generator, parts, _):
    names = list(np.asarray(parts.get("id", ["a", "b", "c"]), object).reshape(-1))
    names[generator.randrange(len(names))] = generator.choice(NAMES)
    parts["id"] = names if generator.random() < 0.7 else names[1:] + names[:1] * 2


def drop_key(generator, parts, key):
    value = parts.pop(key, None)
    if generator.random() < 0.5:
        new = (key + "s", key.upper(), key.encode(), 3, (key, 1), "k\n" * 5000, "\x1b[31m", "\ud800", None)
        parts[generator.choice(new)] = value


def stretch(generator, parts, _):
    """Many short clips, or few long ones, so that the splits differ."""
    clips, steps = generator.choice(((3000, 1), (2, 3000), (1, 60_000), (20_000, 1), (50, 50)))
    for m in MODALITIES:
        parts[m] = np.ones((clips, steps, {"text": 3, "audio": 2, "vision": 4}[m]), np.uint8)
    parts["regression_labels"] = np.zeros(clips, np.float16)
    for key in ("id", "text_bert", "audio_lengths", "vision_lengths"):
        parts.pop(key, None)


PARTS = (
    replace_value, replace_type, replace_shape, replace_numbers, make_ragged, rename_clips, drop_key, stretch,
)  # fmt: skip


def change_split(generator, content):
    """Wrong splits: missing, renamed, exchanged, shared, or something else than a dict."""
    split, other = generator.sample(SPLITS, 2)
    new = generator.choice((lambda: content.get(other), lambda: strange(generator), lambda: {}))
    if generator.random() < 0.5:
        content[split] = new()
    else:
        names = ("val", "dev", "trian", 5, "x" * 3000, "\n", b"test")
        value = content.pop(split, None)
        content[generator.choice(names)] = value


def change_content(generator, content):
    """Change one thing in place."""
    split = generator.choice(SPLITS)
    parts = content.get(split)
    if not isinstance(parts, dict) or generator.random() < 0.1:
        change_split(generator, content)
        return
    keys = [key for key in KEYS if key in parts] or ["id"]
    change = generator.choice(PARTS)
    key = generator.choice(keys)
    if key not in parts:
        change = replace_value
    try:
        change(generator, parts, key)
    # Some changes cannot follow an earlier one.
    except (ValueError, TypeError, OverflowError, IndexError, SystemError):
        parts[key] = strange(generator)

"""Small feature files in MMSA's format, each unusual in one way."""

import pickle
from zlib import crc32

import numpy as np

from backbones.batch import MODALITIES
from harness.data.dataset import SPLITS

STEPS = {"text": 5, "audio": 4, "vision": 4}
WIDTHS = {"text": 6, "audio": 3, "vision": 2}
LABELS = "regression_labels"


def content(train=12, valid=6, test=6, steps=STEPS, widths=WIDTHS):
    """Return a valid file as a dict."""
    draw, found = np.random.default_rng(1), {}
    for split, n in zip(SPLITS, (train, valid, test), strict=True):
        found[split] = {m: draw.normal(size=(n, steps[m], widths[m])).astype(np.float32) for m in MODALITIES}
        found[split][LABELS] = np.resize([-2.0, -0.6, 0.0, 0.8, 1.6, 3.0], n).astype(np.float32)
        found[split]["id"] = [f"{split}{row // 3}$_${row}" for row in range(n)]
    return found


def changed(make, *keys, splits=SPLITS):
    """The file with these keys of some splits changed; make: of the old value."""
    found = content()
    for split in splits:
        found[split] |= {key: make(found[split].get(key)) for key in keys}
    return found


def pieced(sizes, kind):
    """Splits whose audio differs in its steps or widths."""
    usual = {"steps": STEPS, "widths": WIDTHS}[kind]
    parts = {s: content(**{kind: usual | {"audio": n}}) for s, n in zip(SPLITS, sizes, strict=True)}
    return {split: parts[split][split] for split in SPLITS}


def label(value):
    """The file with one label of another value."""
    return changed(lambda y: np.where(np.arange(len(y)) == 3, value, y), LABELS, splits=["train"])


def without(key, **instead):
    """The file without a key, and with others in its place."""
    found = content()
    for part in found.values():
        del part[key]
        part |= instead
    return found


def with_tokens(mask, steps=5):
    """The content with three token ids per clip and the attention mask."""
    found = content()
    for part in found.values():
        part["text_bert"] = np.zeros((len(part["id"]), 3, steps), np.float32)
        part["text_bert"][:, 0, :3], part["text_bert"][:, 1, :3] = [101, 2054, 102], mask
    return found


def with_more():
    """Return the file with unknown keys."""
    found = content()
    for part in found.values():
        part |= {"raw_text": ["a"] * len(part["id"]), 3: None, "regression_labels_T": part[LABELS]}
    return found | {"extra": {"anything": [1, 2]}}


TRAINED = {
    "2 clips in training": lambda: content(train=2),
    "1 clip in each": lambda: content(1, 1, 1),
    "a clip left over": lambda: content(train=33),
    "one video": lambda: changed(lambda ids: [f"v$_${name}" for name in ids], "id"),
    "labels equal": lambda: changed(lambda y: np.full_like(y, 1.5), LABELS),
    "labels zero": lambda: changed(np.zeros_like, LABELS),
    "labels (N, 1)": lambda: changed(lambda y: y[:, None], LABELS),
    "labels whole": lambda: changed(lambda y: y.astype(int), LABELS),
    "labels a list": lambda: changed(lambda y: y.tolist(), LABELS),
    "labels objects": lambda: changed(lambda y: y.astype(object), LABELS),
    "1 step": lambda: content(steps=dict.fromkeys(MODALITIES, 1)),
    "no time axis": lambda: changed(lambda x: x[:, 0], *MODALITIES),
    "width 1": lambda: content(widths=dict.fromkeys(MODALITIES, 1)),
    "vision 10,000 wide": lambda: content(widths=WIDTHS | {"vision": 10_000}),
    "text missing": lambda: without("text"),
    "ragged": lambda: changed(lambda x: [clip[: 1 + i % 3] for i, clip in enumerate(x)], "audio"),
    "a name twice": lambda: changed(lambda ids: [ids[1], *ids[1:]], "id", splits=["test"]),
    "text zero": lambda: changed(np.zeros_like, "text"),
    "all zero": lambda: changed(np.zeros_like, *MODALITIES),
    "audio lengths zero": lambda: changed(lambda _: [0] * 6, "audio_lengths", splits=["valid", "test"]),
    "lengths beyond the steps": lambda: changed(lambda _: [9] * 6, "audio_lengths", splits=["test"]),
    "steps differ": lambda: pieced((4, 2, 7), "steps"),
    "further keys": with_more,
    "float16": lambda: changed(lambda x: x.astype(np.float16), *MODALITIES),
    "features whole": lambda: changed(lambda x: (x * 10).astype(int), *MODALITIES),
    "1e6": lambda: changed(lambda x: x * 1e6, "audio"),
    "1e30": lambda: changed(lambda x: x * 1e30, "audio"),
    "1e-40": lambda: changed(lambda x: x * 1e-40, "audio"),
    "some NaN": lambda: changed(lambda x: np.where(x > 1, np.nan, x), "audio"),
    "one constant": lambda: changed(np.ones_like, "audio"),
    "all constant": lambda: changed(np.ones_like, *MODALITIES),
    "tokens": lambda: with_tokens(1),
    "tokens masked": lambda: with_tokens(0),
    "tokens of more steps": lambda: with_tokens(1, steps=6),
    "ids numbers": lambda: changed(lambda ids: [float(crc32(name.encode())) for name in ids], "id"),
    "ids bytes": lambda: changed(lambda ids: [name.encode() + b"\xff" for name in ids], "id"),
    "ids hostile": lambda: changed(lambda ids: [f"<b>\x1b[2J\0\n=cmd()|../{name}" for name in ids], "id"),
}
REFUSED = {  # with a word of the sentence that says why
    "no clip in training": (lambda: content(train=0), "empty"),
    "classes alone": (lambda: without(LABELS, classification_labels=[0]), f"has no '{LABELS}', and"),
    "labels misspelt": (lambda: without(LABELS, regresion_labels=[0]), "Did you mean 'regresion_labels'?"),
    "labels True and False": (lambda: changed(lambda y: y > 0, LABELS), "True and False"),
    "keys that a terminal obeys": (lambda: {s: {"a\nb\x1b[2J": 1} for s in SPLITS}, f"has no '{LABELS}'"),
    "a split missing": (lambda: {"train": content()["train"]}, "no split 'valid'"),
    "a list": (lambda: [1, 2], "list"),
    "lengths negative": (lambda: changed(lambda _: [-9] * 6, "audio_lengths", splits=["test"]), "-9"),
    "a name in two splits": (lambda: changed(lambda ids: list(range(2, 2 + len(ids))), "id"), "in both"),
    "a name empty": (lambda: changed(lambda ids: ["", *ids[1:]], "id", splits=["test"]), "empty name"),
    "names None": (lambda: changed(lambda ids: [None] * len(ids), "id"), "NoneType"),
    "a label NaN": (lambda: label(np.nan), "nan"),
    "a label of 100": (lambda: label(100), "label-scale="),
    "labels positive": (lambda: changed(lambda y: np.abs(y) * 0.9 + 0.1, LABELS), "other side of 0"),
    "labels texts": (lambda: changed(lambda y: [str(v) for v in y], LABELS), "must hold numbers, got str"),
    "widths differ": (lambda: pieced((3, 3, 2), "widths"), "train 3, valid 3, test 2"),
    "width 0": (lambda: content(widths=WIDTHS | {"vision": 0}), "width"),
    "0 steps": (lambda: content(steps=STEPS | {"vision": 0}), "steps"),
    "four axes": (lambda: changed(lambda x: x[..., None], "audio"), "shape"),
    "ragged widths": (
        lambda: changed(lambda x: [c[:, : 1 + i % 3] for i, c in enumerate(x)], "audio"),
        "shapes",
    ),
    "all NaN": (lambda: changed(lambda x: x * np.nan, "audio"), "finite"),
    "1e200": (lambda: changed(lambda x: x.astype(float) * 1e200, "audio"), "finite"),
}


def write(found, folder):
    """Write a file's content; returns its path."""
    path = folder / "awkward.pkl"
    path.write_bytes(pickle.dumps(found))
    return path

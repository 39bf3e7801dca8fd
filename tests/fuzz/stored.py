"""The project's stored files, their readers, and the permitted outcomes of reading changed files."""

import functools
import hashlib
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
import yaml

from backbones.text import BertSettings
from harness.config.tuned import read_tuned
from harness.data.store import file_fingerprint, load_dataset, save_dataset
from harness.data.strict.npy import read_npz
from harness.data.text_inputs import with_text
from harness.errors import UserError
from harness.launchers.job import _truth
from harness.study.unlogged import UnloggedResults, write_sums
from harness.tracking.artifacts import read_predictions, to_table
from harness.train.checkpoint import Checkpoint
from harness.train.result import Predictions, Result
from sweeps.space_file import FOLDER, read_space
from tests.fuzz.mutations import cut, flip_bits, move_blocks, replace_bytes, write_number
from tests.fuzz.programs import CANARY
from tests.harness.data.test_store import make_dataset
from tests.harness.data.test_unpickle import Call
from tests.harness.test_matrix import CELL

DAMAGED = (UserError, ValueError, OSError)
STATE = {"w": torch.arange(5.0), "step": torch.tensor(3.0), "curves": {"loss": [0.1, 0.2]}}
TUNED = (
    "study: a\nsweep: b\nobjective: c\nvalue: 1.0\ntrials: 3\nepochs: 2\nseeds: [1]\nfingerprint: f\n"
    "method: {xi1: 0.5}\nbackbone: {learning_rate: 0.01, batch_size: 8}\n"
)


@dataclass(frozen=True)
class Target:
    """A kind of stored file: write it into a folder, and read it there again.

    clean: exceptions that its reader may raise. check: of what it gave. form: "json" or "yaml" where it is
    text of that kind, to be changed as such. seal: puts right what guards a changed file against damage.
    """

    write: Callable[[Path], None]
    read: Callable[[Path], object]
    clean: tuple[type[Exception], ...] = (UserError,)
    check: Callable[[object], bool] = lambda value: True
    form: str = ""
    seal: Callable[[bytes], bytes] = lambda content: content


def result():
    ones = np.ones(2, np.float32)
    predictions = Predictions(np.array(["a", "b"]), 0 * ones, {0.0: ones, 0.5: ones})
    scores, curves = {"test": {"mae": 1.0, "corr": float("nan")}}, {"loss": [1.0, 2.0]}
    return Result("complete", scores, {}, {"train_s": 2.0}, curves, {}, predictions, samples=arrays())


def arrays():
    return {"test/u": np.ones((4, 3)), "test/a": np.ones((4, 3)), "half": np.ones((2, 5), np.float16)}


def write_tuned(folder):
    path = folder / "mixup" / "lmf" / "mosi.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(TUNED)


def write_states(folder):
    for name, split in make_dataset().splits.items():
        np.save(folder / f"{name}.npy", np.ones((len(split), 4, 6), np.float32))


def fingerprint(folder):
    return file_fingerprint(FOLDER / "delta.yaml", folder / "fingerprints.json")


def write_earlier(folder):
    text = b'{"result": {"status": "complete", "predictions": null, "samples": {}}, "tags": {}, "started": 1}'
    (folder / f"{CELL.cell_id}.json").write_bytes(seal(b"\n" + text))


def seal(content):
    text = content.partition(b"\n")[2]
    return hashlib.sha256(text).hexdigest().encode() + b"\n" + text


def read_unlogged(folder):
    """Yield the files unchanged, then with checksums that match the change."""
    unlogged, place = UnloggedResults(folder), folder / CELL.cell_id
    assert whole_result(unlogged.get(CELL.cell_id))
    if place.is_dir():
        write_sums(place)
    return unlogged.get(CELL.cell_id)


def whole_dataset(dataset):
    return all(
        len(split.ids) == len(split.labels)
        and all(split.lengths[m].max() <= split.features[m].shape[1] for m in split.lengths)
        and all(name.encode() is not None for name in split.ids.tolist() if name.isprintable())
        for split in dataset.splits.values()
    )


def whole_result(result):
    return result is None or (isinstance(result, Result) and isinstance(result.started, float))


def is_digest(text):
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


TARGETS = {
    "dataset": Target(
        lambda folder: save_dataset(make_dataset(), folder / "data"),
        lambda folder: load_dataset(folder / "data"),
        check=whole_dataset,
        form="json",
    ),
    "fingerprints": Target(fingerprint, fingerprint, check=is_digest, form="json"),
    "text states": Target(
        write_states,
        lambda folder: with_text(make_dataset(), BertSettings("bert", "x", False, 0.0, 0.0), folder),
    ),
    "checkpoint": Target(
        lambda folder: Checkpoint(folder / "c.npz", 0, {}).save(STATE),
        lambda folder: Checkpoint(folder / "c.npz", 0, {}).load(),
        (),
        lambda state: state is None or set(state) == set(STATE),
    ),
    "unlogged": Target(
        lambda folder: UnloggedResults(folder).put(
            CELL, replace(result(), tags={"commit": "c"}, started=1.0)
        ),
        read_unlogged,
        (),
        whole_result,
    ),
    "earlier unlogged": Target(
        write_earlier,
        lambda folder: UnloggedResults(folder).get(CELL.cell_id),
        (),
        whole_result,
        "json",
        seal,
    ),
    "tuned": Target(write_tuned, read_tuned, form="yaml"),
    "space": Target(
        lambda folder: (folder / "s.yaml").write_bytes((FOLDER / "xi.yaml").read_bytes()),
        lambda folder: read_space(folder / "s.yaml"),
        form="yaml",
    ),
    "predictions": Target(
        lambda folder: pq.write_table(to_table(result().predictions), folder / "p.parquet"),
        lambda folder: read_predictions(folder / "p.parquet"),
        DAMAGED,
    ),
    "samples": Target(
        lambda folder: np.savez_compressed(folder / "s.npz", allow_pickle=False, **arrays()),
        lambda folder: read_npz(folder / "s.npz"),
        DAMAGED,
    ),
    "truth": Target(
        lambda folder: np.savez(folder / "t.npz", allow_pickle=False, **arrays()),
        lambda folder: _truth(str(folder / "t.npz")),
    ),
    "result": Target(
        lambda folder: (folder / "r.json").write_text(result().to_json()),
        lambda folder: Result.from_json((folder / "r.json").read_text("utf-8"), None),
        (ValueError, TypeError, KeyError),
        form="json",
    ),
}


@functools.cache
def originals(target, folder):
    """The bytes of a kind's files by their place below its folder, once written."""
    place = Path(folder, target)
    place.mkdir()
    TARGETS[target].write(place)
    return {path: path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}


def saved(writer, *given, **more):
    file = io.BytesIO()
    writer(file, *given, **more)
    return file.getvalue()


def head(text):
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@functools.cache
def impostors():
    """Return other contents under the name of a stored file, some of which carry code."""
    code, objects = Call(os.mkdir, CANARY), np.empty(1, object)
    objects[0] = code
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("w.npy", "w") as member:
        member.write(head(b"{'descr': '|u1', 'fortran_order': False, 'shape': (1073741824,), }\n"))
        for _ in range(160):
            member.write(bytes(2**20))
    names = "".join(f"a{k + 1}: &a{k + 1} [{', '.join([f'*a{k}'] * 10)}]\n" for k in range(9))
    return {
        "nothing": b"",
        "pickle": pickle.dumps(code),
        "objects": saved(np.save, objects),
        "archive of objects": saved(np.savez, test=objects, text=objects, w=objects),
        "torch": saved(lambda file: torch.save({"w": code}, file)),
        "array": saved(np.save, np.ones((3, 4), np.float32)),
        "archive": saved(np.savez, text=np.ones(3, np.uint8)),
        "archive bomb": bomb.getvalue(),
        "huge array": head(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 4, 6), }\n"),
        "huge shape": head(b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"9" * 90 + b",), }\n"),
        "head of code": head(b"{'descr': __import__('os').mkdir('canary'), 'shape': (1,), }\n"),
        "deep head": head(b"(" * 9000 + b"\n"),
        "negated head": head(b"-" * 9000 + b"1\n"),
        "deep JSON": b"[" * 100_000,
        "long number": b'{"format": ' + b"9" * 6000 + b"}",
        "other JSON": b'{"format": 1, "files": [1], "label_scale": 1, "notes": []}',
        "YAML of code": f"a: !!python/object/apply:os.mkdir [{CANARY}]\n".encode(),
        "YAML of names": b"a0: &a0 [1]\n" + names.encode(),
        "YAML in itself": b"study: &a [*a]\n",
        "YAML merges": b"a0: &a0 {b: 1}\n" + names.replace("[", "{<<: [").replace("]", "]}").encode(),
        "deep YAML": b"[" * 5000,
        "long YAML": b"a: " + b"b" * 2**21,
    }


JSON_VALUES = (
    None, True, 0, -1, 1.5, 10**400, 2**70, float("nan"), "", "text", "<O", "|O", "../../x", [], {}, [[]],
    [1, "a"], {"a": 1}, "\ud800", [[[[1]]]],
)  # fmt: skip


def change_json(generator, value):
    """The value with one part of it replaced, dropped, or under another name."""
    if isinstance(value, dict | list) and value and generator.random() < 0.85:
        places = list(value) if isinstance(value, dict) else list(range(len(value)))
        place, changed = generator.choice(places), value.copy()
        action = generator.random()
        if action < 0.1:
            del changed[place]
        elif action < 0.2 and isinstance(value, dict):
            changed[generator.choice(("a", "", "test/../x"))] = changed.pop(place)
        else:
            changed[place] = change_json(generator, value[place])
        return changed
    return generator.choice(JSON_VALUES)


def as_json(generator, content):
    before, line, text = content.rpartition(b"\n") if content[:1] != b"{" else (b"", b"", content)
    return before + line + json.dumps(change_json(generator, json.loads(text))).encode()


def as_yaml(generator, content):
    changed = change_json(generator, yaml.safe_load(content))
    return yaml.safe_dump(changed, sort_keys=False, allow_unicode=False).encode("utf-8", "surrogatepass")


BYTES = (flip_bits, replace_bytes, cut, move_blocks, write_number)


def change_file(generator, target, content):
    """One changed file of a kind: what was done, and its bytes."""
    action = generator.random()
    if action < 0.25:
        name = generator.choice(list(impostors()))
        return name, impostors()[name]
    form = target.form
    if form and not content.startswith(b"\x93NUMPY") and action < 0.7:
        return f"{form} changed", target.seal({"json": as_json, "yaml": as_yaml}[form](generator, content))
    change = generator.choice(BYTES)
    changed = change(generator, content)
    return change.__name__.replace("_", " "), target.seal(changed) if action > 0.9 else changed

"""The same clips as a file of each layout: the test input of the readers and of the fuzzer."""

import io
import pickle

import h5py
import numpy as np

from backbones.batch import MODALITIES
from tests.harness.data.test_mmsa import LABELS, lay_out, make_file


def make_clips(seed=0):
    """A file in MMSA's layout without tokens, whose first clips have every step, and its sequences."""
    content, truth = make_file(seed, with_tokens=False)
    for split, parts in content.items():
        parts["id"] = [f"{split}{row // 2}$_${row}" for row in range(len(parts["id"]))]
        for m in MODALITIES:
            truth[split][m][0] = np.ones(parts[m].shape[1:], np.float32)
            parts[m][0] = 1
            parts[f"{m}_lengths"] = [len(sequence) for sequence in truth[split][m]]
    return content, truth


def mmsa(content, _):
    return content


def mult_mosi(content, truth):
    """Padded in front; labels (N, 1, 1); ids of bytes whose first column names the clip."""
    return {
        split: {m: lay_out(truth[split][m], parts[m].shape[1], True).astype(float) for m in MODALITIES}
        | {
            "labels": parts[LABELS].reshape(-1, 1, 1),
            "id": np.array([[name.replace("$_$", "_"), "0.5", "1.5"] for name in parts["id"]], "S"),
        }
        for split, parts in content.items()
    }


def mult_mosei(content, truth):
    """Seven labels per clip, and ids of text whose first column names the video."""
    files = mult_mosi(content, truth)
    for split, parts in files.items():
        rows = [[*name.split("$_$"), "9.0"] for name in content[split]["id"]]
        parts["id"] = np.array(rows, object)
        parts["labels"] = np.concatenate([parts["labels"], np.full((len(rows), 1, 6), 3)], 2)
    return files


def examples(content, truth):
    """MAG-BERT's file: without features of text."""
    return {
        {"valid": "dev"}.get(split, split): [
            (
                (np.arange(len(truth[split]["text"][row])), truth[split]["vision"][row], audio),
                parts[LABELS][row].reshape(1, 1),
                "{}[{}]".format(*parts["id"][row].split("$_$")),
            )
            for row, audio in enumerate(truth[split]["audio"])
        ]
        for split, parts in content.items()
    }


def mmim(content, truth):
    """Lists of MMIM's longer examples under MMSA's names of the splits, with seven labels each."""
    return {
        {"dev": "valid"}.get(split, split): [
            (([], visual, acoustic, ["a"], np.int64(len(visual)), np.int64(len(acoustic))),
             np.array([[label[0, 0], *[1] * 6]]), name.encode())
            for (_, visual, acoustic), label, name in rows
        ]
        for split, rows in examples(content, truth).items()
    }  # fmt: skip


PICKLED = {"mmsa": mmsa, "mult_mosi": mult_mosi, "mult_mosei": mult_mosei, "examples": examples, "mmim": mmim}


def npz(content, _):
    """Arrays under names like train/text."""
    file = io.BytesIO()
    arrays = {
        f"{split}/{key}": np.asarray(value)
        for split, parts in content.items()
        for key, value in parts.items()
    }
    np.savez(file, **arrays)
    return file.getvalue()


def hdf5(content, _):
    """The same names in an HDF5 file, compressed, with text of variable width."""
    file = io.BytesIO()
    with h5py.File(file, "w") as made:
        for split, parts in content.items():
            for key, value in parts.items():
                numbers = np.asarray(value).dtype.kind != "U"
                made.create_dataset(f"{split}/{key}", data=value, compression="gzip" if numbers else None)
    return file.getvalue()


def layout_bytes(name, seed=0):
    """The bytes of the file of a layout."""
    content, truth = make_clips(seed)
    if name in ARCHIVES:
        return ARCHIVES[name](content, truth)
    return pickle.dumps(PICKLED[name](content, truth), 4)


ARCHIVES = {"npz": npz, "hdf5": hdf5}
LAYOUT_NAMES = (*PICKLED, *ARCHIVES)

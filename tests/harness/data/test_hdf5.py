"""HDF5 files: what is read beside the layouts' common test, and what is refused."""

import io
import re
import sys

import h5py
import numpy as np
import pytest

from harness.data.dataset import SPLITS
from harness.data.labels import LabelScale
from harness.data.mmsa.reader import read_mmsa
from harness.data.mmsa.resplit import OWN_SPLITS, SplitChoice
from harness.data.strict.memory_limit import TooLargeError
from harness.errors import UserError
from tests.harness.data.layout_files import hdf5, layout_bytes, make_clips, mult_mosi


def read(content, tmp_path, choice=OWN_SPLITS):
    path = tmp_path / "file.h5"
    path.write_bytes(content)
    return read_mmsa(path, LabelScale(3.0), choice)


def changed(edit):
    """The bytes of the layout's file after an edit of its open file."""
    file = io.BytesIO(layout_bytes("hdf5"))
    with h5py.File(file, "a") as made:
        edit(made)
    return file.getvalue()


def test_the_keys_of_mult_are_read(tmp_path):
    expected = read(layout_bytes("hdf5"), tmp_path)
    dataset = read(hdf5(mult_mosi(*make_clips()), None), tmp_path)
    assert dataset.notes[0] == "the file has the layout of MulT and MultiBench."
    for split in SPLITS:
        assert dataset.splits[split].ids.tolist() == expected.splits[split].ids.tolist()
        assert dataset.splits[split].features["text"].tobytes() == (
            expected.splits[split].features["text"].tobytes()
        )


def test_a_file_without_splits_takes_a_table(tmp_path):
    table, parts = tmp_path / "splits.csv", make_clips()[0]["train"]
    rows = [f"{name},{split}\n" for name, split in zip(parts["id"], SPLITS, strict=False)]
    table.write_text("id,split\n" + "".join(rows))
    file = io.BytesIO()
    with h5py.File(file, "w") as made:
        for key, value in parts.items():
            made[key] = value
    dataset = read(file.getvalue(), tmp_path, SplitChoice(table=table))
    assert [dataset.splits[split].ids.tolist() for split in SPLITS] == [[name] for name in parts["id"][:3]]


def link_elsewhere(made):
    made["train"].pop("text")
    made["train/text"] = h5py.ExternalLink("/etc/hostname", "text")


def store_elsewhere(made):
    made["train"].pop("text")
    made["train"].create_dataset("text", (5, 2, 2), "f4", external=[("/etc/passwd", 0, 80)])


def store_virtually(made):
    made["train"].pop("text")
    layout = h5py.VirtualLayout((5, 2, 2), "f4")
    layout[:] = h5py.VirtualSource("/tmp/other.h5", "text", (5, 2, 2))
    made["train"].create_virtual_dataset("text", layout)


def store_compound(made):
    made["train"].pop("text")
    made["train/text"] = np.zeros(5, [("a", "f4")])


def make_sequence(made):
    made["covarep/data/video"], made["covarep/metadata/name"] = np.ones(3), "covarep"


REFUSED = {
    "external link": (link_elsewhere, "split 'train' has no 'text'"),
    "external data": (store_elsewhere, "/train/text is stored elsewhere or by an unknown filter."),
    "virtual data": (store_virtually, "/train/text is stored elsewhere or by an unknown filter."),
    "compound": (store_compound, "/train/text must be an array of numbers or of text."),
    "CMU-SDK": (make_sequence, "is a computational sequence of CMU-SDK, 'covarep', which is one modality"),
}


# Each case starts a process.
@pytest.mark.parametrize(
    "case",
    [name if name == "external link" else pytest.param(name, marks=pytest.mark.slow) for name in REFUSED],
)
def test_what_is_no_plain_array_is_refused(case, tmp_path):
    edit, message = REFUSED[case]
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        read(changed(edit), tmp_path)
    assert "\n" not in str(caught.value)


def test_large_arrays_and_chunks_are_refused_before_they_are_read(tmp_path):
    def declare(**more):
        return changed(lambda made: made["train"].create_dataset("more", dtype="f4", **more))

    with pytest.raises(TooLargeError):
        read(declare(shape=(10**6, 10**6)), tmp_path)
    with pytest.raises(TooLargeError):
        read(declare(shape=(2,), maxshape=(None,), chunks=(2**28,)), tmp_path)


def test_without_h5py_the_sentence_says_what_to_install(tmp_path, monkeypatch):
    content = layout_bytes("hdf5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(
        UserError, match=r"needs the package h5py; install it with pip install 'msa-mix.*hdf5"
    ):
        read(content, tmp_path)


@pytest.mark.parametrize("content", [b"\x89HDF\r\n\x1a\n" + bytes(90), layout_bytes("hdf5")[:-900]])
def test_a_damaged_file_is_refused(content, tmp_path):
    with pytest.raises(UserError, match=r"is not a readable HDF5 file \(OSError: ") as caught:
        read(content, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os; os.abort()", "the HDF5 library ended with status -6"),
        ("import time; time.sleep(60)", "took longer than 3 s to read"),
        ("import sys; sys.exit(3)", "needs more than 128 MiB of memory"),
    ],
)
def test_whatever_the_library_does_to_its_process_is_a_refusal(program, reason, tmp_path, monkeypatch):
    monkeypatch.setattr("harness.data.layouts.hdf5.PROGRAM", ("-c", program))
    monkeypatch.setattr("harness.data.layouts.hdf5.TIMEOUT_S", 3.0)
    with pytest.raises(UserError, match=reason):
        read(layout_bytes("hdf5"), tmp_path)

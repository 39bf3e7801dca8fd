"""One answer for a file: what it is if it is no feature file, and all that is wrong with it if it is one."""

import bz2
import gzip
import io
import lzma
import pickle
import tarfile
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch

from harness.data.labels import LabelScale
from harness.data.mmsa.reader import LABELS, read_mmsa
from harness.errors import UserError
from tests.harness.data.test_mmsa import change_splits, drop_keys, make_content


def answer(content, tmp_path):
    path = tmp_path / "file.pkl"
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, 4))
    with pytest.raises(UserError) as caught:
        read_mmsa(path, LabelScale(3.0))
    text = str(caught.value)
    assert text.startswith(repr(str(path)))
    assert "\n" not in text
    return text.removeprefix(repr(str(path)))


def in_memory(write):
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def zipped(file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("features.pkl", b"a pickle")


def tarred(file):
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("features.pkl"))


TENSORS = {"train": torch.ones(3)}
KINDS = {
    "torch": (
        in_memory(lambda f: torch.save(TENSORS, f)),
        "a PyTorch archive, as of torch.save; load it with",
    ),
    "old torch": (
        in_memory(lambda f: torch.save(TENSORS, f, _use_new_zipfile_serialization=False)),
        "a file of torch.save in its old format; load it with torch.load(FILE, weights_only=True)",
    ),
    "zip": (in_memory(zipped), "a zip archive; unpack it and give the file in it."),
    "damaged zip": (in_memory(zipped)[:-30], "a damaged zip archive; download it again."),
    "npy": (in_memory(lambda f: np.save(f, np.ones(3))), "a single numpy array; save all arrays with"),
    "gzip": (gzip.compress(pickle.dumps(1)), "compressed with gzip; unpack it"),
    "xz": (lzma.compress(b"1"), "compressed with xz; unpack it"),
    "bzip2": (bz2.compress(b"1"), "compressed with bzip2; unpack it"),
    "tar": (in_memory(tarred), "a tar archive; unpack it"),
    "html": (b"\n<!DOCTYPE html><html>Sign in", "a web page, as of a download that asks for a login"),
    "git lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n",
        "a Git LFS pointer to the file; fetch the file with git lfs pull.",
    ),
    "zeros": (bytes(5000), "zeros at its start, as after an interrupted download; download it again."),
    "csv": (b"id,label\n1,2\n", "text; read its numbers"),
    "long text": ("é".encode() * 3000, "text; read its numbers"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_no_pickle_is_named_by_its_first_bytes(kind, tmp_path):
    content, expected = KINDS[kind]
    assert answer(content, tmp_path).startswith(f" is not a pickle but {expected}")


@pytest.mark.parametrize(
    ("value", "name", "advice"),
    [
        (TENSORS, "torch.", "it holds PyTorch tensors; convert each with tensor.numpy() and pickle again."),
        (pd.DataFrame({"a": [1]}), "pandas.", "it holds pandas objects; convert each with to_numpy()"),
    ],
)
def test_objects_of_other_libraries_are_named(value, name, advice, tmp_path):
    text = answer(value, tmp_path)
    assert f"asks for '{name}" in text
    assert advice in text


def test_all_missing_keys_are_said_at_once(tmp_path):
    content = make_content()
    drop_keys(LABELS)(content)
    del content["valid"]["audio"]
    text = answer(content, tmp_path)
    assert text.startswith(": split 'train' has no 'regression_labels'; found: text, audio, vision")
    assert text.count("has no 'regression_labels'") == 1
    assert "; also, split 'valid' has no 'audio'; found: text, vision, id" in text


def test_all_missing_splits_are_said_at_once(tmp_path):
    content = make_content()
    text = answer({"train": content["train"], "dev": content["valid"]}, tmp_path)
    assert text == (
        " has no split 'valid'; found: train, dev; rename 'dev' to 'valid'; "
        "also, it has no split 'test'; found: train, dev."
    )


def test_all_damaged_arrays_are_said_at_once(tmp_path):
    def damage(parts):
        parts["audio"] = parts["audio"][:2]
        parts["vision"] = ["a"] * len(parts["id"])
        parts["text_bert"][0, 1, 0] = 7

    text = answer(change_splits(damage), tmp_path)
    assert text == (
        ": train/audio has 2 clips, but regression_labels has 5; also, train/vision must hold numbers, "
        "got str; also, train/text_bert attention mask holds 7.0; values must be integers in 0 .. 1."
    )


def test_labels_off_the_scale_and_a_clip_in_two_splits_are_each_said(tmp_path):
    content = make_content()
    content["test"][LABELS][1] = -9
    content["test"]["id"] = ["a", "b"]
    assert "outside [-3, 3]" in (text := answer(content, tmp_path))
    assert "; also, test/id must be a list of 4 names, one per clip, got 2." in text


def test_a_long_answer_is_cut(tmp_path):
    content = make_content()
    drop_keys(LABELS)(content)
    for split, parts in content.items():
        for number in range(12):
            parts[f"{'x' * 50}{split}{number}"] = 0
        parts.pop("audio") if split == "train" else parts.pop("vision") if split == "test" else None
    text = answer(content, tmp_path)
    assert len(text) < 1500
    assert text.endswith("other problems.")

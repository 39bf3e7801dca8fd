"""The dataset on disk: equal after a round trip, whole or absent, and clear about damage."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from unittest.mock import Mock

import numpy as np
import pytest

from backbones.batch import MODALITIES
from harness.data.dataset import SPLITS, Dataset, Split
from harness.data.store import file_fingerprint, load_dataset, save_dataset
from harness.errors import UserError


def make_split(seed, clips, with_tokens):
    generator = np.random.default_rng(seed)
    shapes = {"text": (4, 3), "audio": (1, 2), "vision": (5, 1)}
    return Split(
        ids=np.array([f"video{seed}$_${row}é" for row in range(clips)]),
        features={m: generator.normal(size=(clips, *shapes[m])).astype(np.float32) for m in MODALITIES},
        lengths={m: generator.integers(1, shapes[m][0] + 1, clips) for m in MODALITIES},
        labels=generator.uniform(-1, 1, clips).astype(np.float32),
        tokens=generator.integers(0, 9, (clips, 3, 4)) if with_tokens else None,
    )


def make_dataset(with_tokens=True, seed=0):
    splits = {name: make_split(seed + row, 3 + row, with_tokens) for row, name in enumerate(SPLITS)}
    return Dataset(splits, 1.0, ("audio held -inf, set to 0 (values: train 3).",))


def arrays_of(dataset):
    """All arrays of a dataset by split and name, those of missing tokens left out."""
    arrays = {}
    for name, split in dataset.splits.items():
        arrays |= {(name, key): getattr(split, key) for key in ("ids", "labels", "tokens")}
        for m in MODALITIES:
            arrays |= {(name, m): split.features[m], (name, m, "lengths"): split.lengths[m]}
    return {key: array for key, array in arrays.items() if array is not None}


def assert_equal(one, other):
    """The same clips, bit for bit, from the same range and with the same notes."""
    assert (one.label_scale, one.notes) == (other.label_scale, other.notes)
    expected, arrays = arrays_of(other), arrays_of(one)
    assert list(arrays) == list(expected)
    for key, array in arrays.items():
        assert array.dtype == expected[key].dtype, key
        assert array.shape == expected[key].shape, key
        assert array.tobytes() == expected[key].tobytes(), key


@pytest.mark.parametrize("with_tokens", [True, False])
def test_round_trip_and_a_folder_that_is_there_stays(tmp_path, with_tokens):
    dataset = make_dataset(with_tokens)
    save_dataset(dataset, tmp_path / "deep" / "cache")
    loaded = load_dataset(tmp_path / "deep" / "cache")
    assert_equal(loaded, dataset)
    features = loaded.splits["train"].features["text"]
    assert isinstance(features, np.memmap)
    features[...] = 7
    save_dataset(make_dataset(seed=7), tmp_path / "deep" / "cache")
    assert_equal(load_dataset(tmp_path / "deep" / "cache"), dataset)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["cache"]


def test_the_files_hold_no_pickled_objects(tmp_path):
    splits = make_dataset().splits
    splits["train"] = replace(splits["train"], ids=np.array([None] * 3))
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        save_dataset(Dataset(splits, 1.0), tmp_path / "cache")
    assert not any(tmp_path.iterdir())


def test_writers_at_the_same_time_leave_one_whole_folder(tmp_path, monkeypatch):
    datasets = [make_dataset(seed=10 * number) for number in range(4)]
    barrier = Barrier(len(datasets))
    rename = Path.rename

    def rename_together(self, target):
        barrier.wait()
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", rename_together)
    with ThreadPoolExecutor(len(datasets)) as threads:
        list(threads.map(lambda dataset: save_dataset(dataset, tmp_path / "cache"), datasets))
    loaded = load_dataset(tmp_path / "cache")
    (winner,) = (d for d in datasets if d.splits["train"].ids[0] == loaded.splits["train"].ids[0])
    assert_equal(loaded, winner)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cache' cannot be written"):
        save_dataset(make_dataset(), tmp_path / "file" / "cache")
    with pytest.raises(UserError, match="file' cannot be written"):
        save_dataset(make_dataset(), tmp_path / "file")

    monkeypatch.setattr(np, "save", Mock(side_effect=PermissionError(13, "Permission denied")))
    with pytest.raises(UserError, match="cache' cannot be written: Permission denied"):
        save_dataset(make_dataset(), tmp_path / "cache")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "other"])
def test_every_damaged_file_is_noticed(tmp_path, damage):
    folder = tmp_path / "cache"
    save_dataset(make_dataset(), folder)
    for name in sorted(path.name for path in folder.iterdir()):
        content = (folder / name).read_bytes()
        if damage == "missing":
            (folder / name).unlink()
        elif damage == "other":
            np.save(folder / "other.npy", np.zeros((2, 2)))
            (folder / "other.npy").rename(folder / name)
        else:
            (folder / name).write_bytes(b"" if damage == "empty" else content[:-1])
        with pytest.raises(UserError, match=r"damaged.*delete that folder"):
            load_dataset(folder)
        (folder / name).write_bytes(content)
    assert_equal(load_dataset(folder), make_dataset())
    with pytest.raises(UserError, match="nothing"):
        load_dataset(tmp_path / "nothing")
    for meta in ("[]", "{}", '{"format": 0}', '{"format": 1, "files": 3, "label_scale": 1}'):
        (folder / "meta.json").write_text(meta)
        with pytest.raises(UserError, match="delete that folder"):
            load_dataset(folder)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "data.pkl"
    path.write_bytes(b"one")
    return path


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_fingerprint_is_remembered_until_the_file_changes(tmp_path, file, monkeypatch):
    cache = tmp_path / "deep" / "fingerprints.json"
    assert file_fingerprint(file, cache) == sha256(file)
    assert [path.name for path in cache.parent.iterdir()] == ["fingerprints.json"]
    real = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("hashed again"))
    assert file_fingerprint(file, cache) == sha256(file)
    monkeypatch.chdir(tmp_path)
    assert file_fingerprint("data.pkl", cache) == sha256(file)
    monkeypatch.setattr(hashlib, "file_digest", real)
    file.write_bytes(b"other")
    assert file_fingerprint(file, cache) == sha256(file)
    other = tmp_path / "second.pkl"
    other.write_bytes(b"two")
    assert file_fingerprint(other, cache) == sha256(other)
    assert set(json.loads(cache.read_text())) == {str(file), str(other)}


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"PATH": 3}', '{"PATH": {"stamp": null}}', "\x00", '"a"']
)
def test_a_damaged_cache_of_fingerprints_is_ignored(tmp_path, file, content):
    cache = tmp_path / "fingerprints.json"
    cache.write_text(content.replace("PATH", str(file)))
    assert file_fingerprint(file, cache) == sha256(file)
    assert json.loads(cache.read_text())[str(file)]["sha256"] == sha256(file)


def test_a_cache_that_cannot_be_written_is_ignored_a_file_that_cannot_be_read_is_not(tmp_path, file):
    assert file_fingerprint(file, file / "fingerprints.json") == sha256(file)
    (tmp_path / "folder").mkdir()
    assert file_fingerprint(file, tmp_path / "folder") == sha256(file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.pkl", "folder"]
    for name in ("missing", "."):
        with pytest.raises(UserError, match="cannot be read"):
            file_fingerprint(tmp_path / name, tmp_path / "fingerprints.json")

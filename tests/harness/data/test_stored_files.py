"""What is stored carries no code, and nothing else is taken for it: by hand, beside the fuzzer."""

import contextlib
import io
import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
import yaml
from transformers import BertConfig, BertModel

from harness.config.safe_yaml import MOST_YAML, load_yaml
from harness.data.pretrained import find_model
from harness.data.store import load_dataset, save_dataset
from harness.data.strict.npy import check_npz, map_array, read_npz
from harness.errors import UserError
from harness.train.checkpoint import Checkpoint, serialize
from tests.fuzz.programs import CANARY
from tests.fuzz.stored import STATE, TARGETS, TUNED, arrays, impostors, originals
from tests.harness.data.test_store import make_dataset
from tests.harness.train.test_checkpoint_file import saved


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, where a canary would be left; files lie in another one."""
    place = tmp_path / "work"
    place.mkdir()
    monkeypatch.chdir(place)
    return tmp_path


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_else_is_taken_for_a_stored_file(target, folder):
    """The reader refuses an impostor in its own words, ignores it, or reads what the file says."""
    known = TARGETS[target]
    originals.cache_clear()
    files = list(originals(target, str(folder)).items())[:6]
    for name, content in impostors().items():
        for path, original in files:
            path.write_bytes(content)
            with contextlib.suppress(*known.clean):
                assert known.check(known.read(folder / target)), name
            path.write_bytes(original)
        known.read(folder / target)
    assert list((folder / "work").iterdir()) == []


def test_the_impostors_carry_code(folder):
    """Whoever loads them without care leaves the canary."""
    careless = {
        "pickle": pickle.loads,
        "objects": lambda content: np.load(io.BytesIO(content), allow_pickle=True),
        "archive of objects": lambda content: np.load(io.BytesIO(content), allow_pickle=True)["w"],
        "torch": lambda content: torch.load(io.BytesIO(content), weights_only=False),
        "YAML of code": yaml.unsafe_load,
    }
    canary = folder / "work" / CANARY
    for name, load in careless.items():
        load(impostors()[name])
        assert canary.exists(), name
        canary.rmdir()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", "<f2", "<i8", "|u1", "|b1", "<U7", "<f8"])
def test_arrays_come_back_as_they_were(dtype, order, tmp_path):
    array = np.asarray(np.arange(24).reshape(2, 3, 4).astype(dtype), order=order)
    for made in (array, array[0, 0, :1], array.reshape(-1)[0], array[:, :0]):
        np.save(tmp_path / "a.npy", made)
        found = map_array(tmp_path / "a.npy")
        assert found.dtype == made.dtype
        np.testing.assert_array_equal(found, made)


@pytest.mark.parametrize("change", ["longer", "shorter", "version 2", "structured", "big-endian"])
def test_other_arrays_are_refused(change, tmp_path):
    path, array = tmp_path / "a.npy", np.ones((2, 3), np.float32)
    if change == "version 2":
        with path.open("wb") as file:
            np.lib.format.write_array(file, array, (2, 0))
    elif change in ("structured", "big-endian"):
        np.save(path, np.zeros(2, "f4,i4") if change == "structured" else array.astype(">f4"))
    else:
        np.save(path, array)
        path.write_bytes(path.read_bytes() + b"\0" if change == "longer" else path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"match its header|not an array in npy|not describe a plain array"):
        map_array(path)


def test_an_archive_whose_arrays_are_longer_than_they_say_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", **arrays())
    check_npz(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("a.npy", impostors()["huge array"] + bytes(96))
    with pytest.raises(ValueError, match="does not match its header"):
        read_npz(tmp_path / "b.npz")


NAMES = ("load", "Tensor", "nn", "nothing", "__class__")
SHAPES = ([2**40], [2**62, 4], [-1], [1e3], ["a"], None, [5, 0])


@pytest.mark.parametrize(("part", "value"), [(1, name) for name in NAMES] + [(2, shape) for shape in SHAPES])
def test_a_checkpoint_takes_no_other_shape_or_dtype(part, value, tmp_path, caplog):
    path, packed = tmp_path / "c.npz", {}
    content = {"identity": {"format": "1"}, "state": serialize(STATE, packed)}
    content["state"]["dict"][0][1]["tensor"][part] = value
    packed["text"] = np.frombuffer(json.dumps(content).encode(), np.uint8)
    np.savez(path, **packed)
    assert Checkpoint(path, 0, {}).load() is None
    assert "is ignored" in caplog.text


def test_a_checkpoint_that_unpacks_to_much_more_is_ignored(tmp_path, caplog):
    checkpoint = saved(tmp_path / "c.npz", STATE)
    checkpoint.path.write_bytes(impostors()["archive bomb"])
    assert checkpoint.load() is None
    assert "far more than the size of the file" in caplog.text
    with pytest.raises(UserError, match="far more than the size of the file"):
        read_npz(checkpoint.path)


@pytest.mark.parametrize(
    ("name", "end", "words"),
    [
        ("train_lengths_text", np.int64(2**40), "are inconsistent"),
        ("train_lengths_audio", np.int64(0), "are inconsistent"),
        ("test_labels", np.float32(np.nan), "are inconsistent"),
        ("test_labels", np.float32(7), "are inconsistent"),
        ("train_ids", np.uint32(0x7FFFFFFF), "the ids are not valid text"),
    ],
)
def test_values_that_do_not_fit_the_stored_dataset_are_noticed(name, end, words, tmp_path):
    save_dataset(make_dataset(), tmp_path / "data")
    path = tmp_path / "data" / f"{name}.npy"
    path.write_bytes(path.read_bytes()[: -end.nbytes] + end.tobytes())
    with pytest.raises(UserError, match=words):
        load_dataset(tmp_path / "data")


@pytest.mark.parametrize("name", ["YAML of names", "YAML in itself", "YAML merges"])
def test_yaml_gives_no_names_to_values(name):
    with pytest.raises(yaml.YAMLError, match="aliases are not allowed"):
        load_yaml(impostors()[name])


@pytest.mark.parametrize("text", ["[" * 5000, "a" * (MOST_YAML + 1), "9" * 5000, "2024-99-99", "'\\ud800'"])
def test_yaml_is_bounded(text):
    with pytest.raises((ValueError, yaml.YAMLError)):
        load_yaml(text.replace("'", '"'))
    assert load_yaml(TUNED) == yaml.safe_load(TUNED)


@pytest.fixture
def model(tmp_path):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(**sizes)).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.mark.parametrize("content", ["pickle", "torch"])
def test_weights_that_carry_code_are_refused(content, model, folder):
    """Hugging Face directories may hold weights as a pickle; torch reads tensors of it only."""
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(impostors()[content])
    with pytest.raises(UserError, match="cannot be used as a Hugging Face model"):
        find_model(str(model), folder)
    assert list((folder / "work").iterdir()) == []


def test_a_model_that_brings_its_own_code_is_refused_without_a_question(model, folder):
    config = json.loads((model / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}
    (model / "config.json").write_text(json.dumps(config))
    (model / "own.py").write_text(f"import os\nos.mkdir({CANARY!r})\nclass Config: pass\nclass Model: pass\n")
    with pytest.raises(UserError, match="cannot be used as a Hugging Face model"):
        find_model(str(model), folder)
    assert list((folder / "work").iterdir()) == []

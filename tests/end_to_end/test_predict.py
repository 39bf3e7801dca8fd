"""Weights that ``keep=weights`` stores, and predictions with them."""

import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlparse

import numpy as np
import pandas as pd
import pytest
import torch

import harness
from backbones.base import Sizes
from harness.benchmark import main as benchmark
from harness.collect import main as collect
from harness.data.__main__ import main as data
from harness.predict import main as predict
from harness.shards.stored import read_cell
from harness.tracking.tracker import Tracker
from harness.train.weights import pack, unpack

SMALL = ["methods=[none]", "backbones=[lmf]", "datasets=[mine]", "seeds=[1]", "train.max_epochs=2"]
SMALL += ["launcher=inline", "report=false", "dataset.mine.path=my.pkl"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a feature file, and a study of one cell with weights and one without."""
    folder = tmp_path_factory.mktemp("predict")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert data(["synth", "synthetic_mosi", "--out", "my.pkl", "--clips", "90"]) == 0
        assert benchmark([*SMALL, "study=plain"]) == 0
        # A result of another study lacks the weights, so it is not reused.
        assert benchmark([*SMALL, "study=kept", "keep=weights"]) == 0
    return folder


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


def only_run(study, **where):
    (run,) = Tracker(where.get("uri"), Path("var"), study, create=False).complete().values()
    return run


def logged(study):
    tracker = Tracker(None, Path("var"), study, create=False)
    (run,) = tracker.complete().values()
    return tracker.load(run)


def table(run, file="my.pkl"):
    assert predict([f"run={run.run_id}", f"data={file}", "out=out.csv"]) == 0
    return pd.read_csv("out.csv", dtype={"id": str, "prediction": np.float32, "label": np.float32})


def written(change, name="changed.pkl"):
    content = pickle.loads(Path("my.pkl").read_bytes())
    Path(name).write_bytes(pickle.dumps(change(content) or content))
    return name


def test_weights_reproduce_the_logged_predictions(here):
    stored = logged("kept").predictions
    frame = table(only_run("kept"))
    assert list(frame.columns) == ["id", "split", "prediction", "label"]
    assert len(frame) == 90
    test = frame[frame["split"] == "test"]
    assert test["id"].tolist() == stored.ids.tolist()
    np.testing.assert_array_equal(test["prediction"], stored.values[0.0])
    np.testing.assert_array_equal(test["label"], stored.labels)


def test_keeping_changes_neither_the_cell_nor_its_numbers(here):
    plain, kept = logged("plain"), logged("kept")
    assert only_run("plain").tags["cell_id"] == only_run("kept").tags["cell_id"]
    assert kept.scores == plain.scores
    assert (plain.weights is None, kept.weights is None) == (True, False)


@pytest.mark.parametrize("launcher", ["processes", "shard"])
def test_weights_travel_from_workers(launcher, here):
    settings = [text for text in SMALL if text != "launcher=inline"] + [f"study={launcher}", "keep=weights"]
    if launcher == "shard":
        assert benchmark([*settings, "launcher=inline", "shard=1/1"]) == 0
        assert collect([f"study={launcher}"]) == 0
    else:
        # Otherwise the result of study "kept" would be reused.
        assert benchmark([*settings, f"launcher={launcher}", "jobs=1", "seeds=[2]"]) == 0
    stored = logged(launcher)
    frame = table(only_run(launcher))
    np.testing.assert_array_equal(
        frame["prediction"][frame["split"] == "test"], stored.predictions.values[0.0]
    )


def test_a_done_cell_without_weights_is_named(here, capsys):
    assert benchmark([*SMALL, "study=plain", "keep=weights"]) == 0
    assert "1 cells have no weights, because they were trained without keep=weights" in " ".join(
        capsys.readouterr().out.split()
    )


def test_splits_and_labels_may_be_absent(here):
    run = only_run("kept")
    expected = table(run)

    def flat(content):
        one = content["test"]
        return {key: one[key] for key in ("text", "audio", "vision", "id")}

    frame = table(run, written(flat))
    assert list(frame.columns) == ["id", "prediction"]
    test = expected[expected["split"] == "test"]
    np.testing.assert_allclose(frame["prediction"], test["prediction"], atol=1e-5)

    def short(content):
        for name in ("train", "valid"):
            del content[name]
        for m in ("text", "audio", "vision"):
            content["test"][m] = content["test"][m][:3]
        for key in set(content["test"]) - {"text", "audio", "vision"}:
            del content["test"][key]

    frame = table(run, written(short))
    assert list(frame.columns) == ["id", "split", "prediction"]
    assert frame["id"].tolist() == ["test_0", "test_1", "test_2"]


def wider(content):
    for part in content.values():
        part["audio"] = np.concatenate([part["audio"]] * 2, 2)


def longer(content):
    for part in content.values():
        part["audio"] = np.concatenate([part["audio"]] * 9, 1)
        part.pop("audio_lengths", None)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run=0123", "data=my.pkl", "out=o.csv"], "There is no run '0123'"),
        (["run=PLAIN", "data=my.pkl", "out=o.csv"], "has no weights, because .* keep=weights"),
        (["run=KEPT", "data=gone.pkl", "out=o.csv"], "'gone.pkl'"),
        (["run=KEPT", "data=wider.pkl", "out=o.csv"], "audio 16.* was trained on .* audio 8"),
        (["run=KEPT", "data=longer.pkl", "out=o.csv"], "steps of audio; the run's network takes at most"),
        (["run=KEPT", "data=my.pkl", "out=gone/o.csv"], "'gone/o.csv' cannot be written"),
        (["run=KEPT", "data=my.pkl"], "give out=FILE.csv"),
        (["run=KEPT", "out=o.csv"], "give data=FILE"),
        (["data=my.pkl", "out=o.csv"], "give run=RUN_ID"),
        (["run=KEPT", "data=my.pkl", "out=o.csv", "devise=cpu"], "Did you mean 'device'"),
        (["run=KEPT", "data=my.pkl", "out=o.csv", "device=tpu"], "allowed: cpu, cuda"),
        (["run=KEPT", "data=my.pkl", "out=o.csv", "var_dir=other"], "There are no results yet"),
    ],
)
def test_a_bad_request_is_one_sentence(arguments, sentence, here, capsys):
    written(wider, "wider.pkl")
    written(longer, "longer.pkl")
    ids = {"run=KEPT": only_run("kept").run_id, "run=PLAIN": only_run("plain").run_id}
    given = [f"run={ids[text]}" if text in ids else text for text in arguments]
    assert predict(given) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(sentence, line), line


@pytest.mark.parametrize("keys", [["dataset.mine.standardize=true"], ["text=bert", "bert.model=x"]])
def test_weights_are_refused_where_features_are_not_plain(keys, here, capsys):
    assert benchmark([*SMALL, "study=refused", "keep=weights", *keys]) == 2
    assert f"keep=weights does not work with {keys[0]}" in capsys.readouterr().err


def test_damaged_files_are_refused(here):
    content = logged("kept").weights
    places = [*range(0, 400, 7), *range(400, len(content), len(content) // 50)]
    for at in places:
        damaged = bytearray(content)
        damaged[at] ^= 1
        try:
            kept = unpack(bytes(damaged))
        except ValueError:
            continue
        # A changed letter of a name or of a setting leaves a valid file, which does not fit the run.
        assert at < int.from_bytes(content[:8], "little") + 8
        assert kept.tensors.keys() != unpack(content).tensors.keys() or kept.cell != unpack(content).cell
    for cut in (0, 4, 8, 100, len(content) - 1):
        with pytest.raises(ValueError, match=r"^(it|its|a) "):
            unpack(content[:cut])
    with pytest.raises(ValueError, match="no whole safetensors file"):
        unpack(content + b"x")


@pytest.mark.parametrize("change", ["flip", "other"])
def test_weights_that_are_not_the_runs_are_refused(change, place, tmp_path, monkeypatch, capsys):
    shutil.copytree(place, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    run = only_run("kept")
    file = Path(unquote(urlparse(run.artifact_uri).path)) / "weights.safetensors"
    content = file.read_bytes()
    if change == "flip":
        content = content[:-1] + bytes([content[-1] ^ 1])
    else:
        kept = unpack(content)
        content = pack(replace(read_cell(kept.cell), seed=7), kept.sizes, kept.tensors)
    file.write_bytes(content)
    assert predict([f"run={run.run_id}", "data=my.pkl", "out=o.csv"]) == 2
    assert "cannot be used" in capsys.readouterr().err


def test_every_dtype_of_a_network_is_stored(here):
    cell = read_cell(unpack(logged("kept").weights).cell)
    state = {
        "a": torch.arange(6.0).view(2, 3),
        "b": torch.tensor(3),
        "c": torch.zeros(0, 2, dtype=torch.float64),
        "d": torch.tensor([True, False]),
        "e": torch.ones(3, dtype=torch.bfloat16),
    }
    kept = unpack(pack(cell, Sizes({"text": 1}, {"text": 1}, 3.0), state))
    for name, tensor in state.items():
        assert kept.tensors[name].dtype == tensor.dtype
        assert torch.equal(kept.tensors[name], tensor)


def test_python_keeps_weights_too(here):
    given = dict(text.split("=", 1) for text in SMALL) | {"study": "kept", "keep": "weights"}
    frame = harness.run(**{key: value.strip("[]") for key, value in given.items()})
    assert frame["run_id"].unique().tolist() == [only_run("kept").run_id]

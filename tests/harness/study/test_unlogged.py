"""Results that wait for MLflow on disk: whole or absent, whatever happens while they are written."""

import base64
import dataclasses
import hashlib
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.study.unlogged import UnloggedResults, write_sums
from harness.train.result import Predictions, Result
from tests.harness.test_matrix import CELL
from tests.support.drivers.fakes import CELLS, FIRST, SECOND, result_of


def make_predictions(numbers):
    values = np.array(numbers, np.float32)
    ids = np.array([f"clip_{k}é" for k in range(len(values))])
    return Predictions(ids, values[::-1].copy(), {0.0: values, 0.3: -values})


SAMPLES = {"u": np.arange(6, dtype=np.float16).reshape(2, 3), "indices": np.array([[1, 2]])}
words = st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2)
tables = st.dictionaries(st.text(max_size=5), st.floats(), max_size=3)  # NaN and infinities included
results = st.builds(
    Result,
    status=st.sampled_from(["complete", "diverged"]),
    scores=st.dictionaries(st.sampled_from(["valid", "test", "test_r0.30"]), tables),
    undefined=words,
    cell=tables,
    curves=st.dictionaries(st.text(max_size=5), st.lists(st.floats(), max_size=3), max_size=2),
    environment=words,
    reason=st.text(max_size=5),
    predictions=st.none() | st.lists(st.floats(width=32), min_size=1, max_size=5).map(make_predictions),
    samples=st.just(SAMPLES),
    tags=st.just({"k": "v"}),
    started=st.floats(0, 1e12),
)


@given(result=results)
def test_a_result_comes_back_bit_for_bit(result):
    """NaN equals NaN, arrays are equal bit for bit but for the sign of NaN."""
    with tempfile.TemporaryDirectory() as folder:
        unlogged = UnloggedResults(Path(folder, "new"))
        assert unlogged.put(CELL, result) is None
        back = unlogged.get(CELL.cell_id)
    for field in dataclasses.fields(Result):
        if field.name != "predictions":
            np.testing.assert_equal(getattr(back, field.name), getattr(result, field.name))
    assert back.to_json() == result.to_json()
    assert [array.dtype for array in back.samples.values()] == [np.float16, np.int64]
    a, b = back.predictions, result.predictions
    assert (a is None) == (b is None)
    if a is not None:
        assert list(a.values) == list(b.values)
        for x, y in [(a.ids, b.ids), (a.labels, b.labels), *((a.values[r], b.values[r]) for r in a.values)]:
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)
            assert x.dtype.kind == "U" or (np.signbit(x) == np.signbit(y))[~np.isnan(x)].all()


@given(data=st.data(), cut=st.booleans())
def test_a_damaged_result_is_none(data, cut):
    with tempfile.TemporaryDirectory() as folder:
        unlogged = UnloggedResults(Path(folder))
        unlogged.put(CELL, dataclasses.replace(result_of(1), samples={"a": np.ones(2)}, tags={"k": "v"}))
        path = data.draw(st.sampled_from(sorted(Path(folder, CELL.cell_id).iterdir())))
        whole = path.read_bytes()
        place = data.draw(st.integers(0, len(whole) - 1))
        other = whole[place] ^ data.draw(st.integers(1, 255))
        path.write_bytes(whole[:place] if cut else whole[:place] + bytes([other]) + whole[place + 1 :])
        assert unlogged.get(CELL.cell_id) is None
        path.unlink()
        assert unlogged.get(CELL.cell_id) is None
        unlogged.put(CELL, result_of(2))
        assert unlogged.get(CELL.cell_id).scores["test"]["mae"] == 2


@pytest.mark.parametrize("name", ["waiting.json", "result.json", "predictions.parquet"])
@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"tags": [], "started": 0}', '{"a": 1}'])
def test_a_file_of_another_form_is_no_result(tmp_path, name, content):
    unlogged = UnloggedResults(tmp_path)
    unlogged.put(CELL, result_of(1))
    (tmp_path / CELL.cell_id / name).write_text(content)
    write_sums(tmp_path / CELL.cell_id)
    assert unlogged.get(CELL.cell_id) is None


def write_earlier(path, **changes):
    """An unlogged result in the format of earlier versions."""
    fields = {
        **{"status": "complete", "scores": {"test": {"mae": 0.5}}, "undefined": {}, "cell": {}, "curves": {}},
        **{"environment": {"device": "cpu"}, "reason": ""},
        "predictions": {"ids": ["a", "é"], "labels": [1.0, 2.0], "values": [[0.3, [0.1, -2.0]]]},
        "samples": {"u": {"dtype": "<f2", "shape": [1, 2], "data": base64.b64encode(b"\0<\0@").decode()}},
    }
    text = json.dumps({"result": fields, "tags": {"k": "v"}, "started": 3.0} | changes)
    path.write_text(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}", "utf-8")


def test_a_result_of_an_earlier_version_is_read(tmp_path):
    path = tmp_path / f"{CELL.cell_id}.json"
    write_earlier(path)
    unlogged = UnloggedResults(tmp_path)
    found = unlogged.get(CELL.cell_id)
    assert (found.scores, found.tags, found.started) == ({"test": {"mae": 0.5}}, {"k": "v"}, 3.0)
    assert found.predictions.ids.tolist() == ["a", "é"]
    assert found.predictions.values[0.3].tolist() == np.float32([0.1, -2]).tolist()
    assert found.samples["u"].tolist() == [[1.0, 2.0]]
    unlogged.put(CELL, result_of(1))
    assert [p.name for p in tmp_path.iterdir()] == [path.name], "it is as good as any other"
    for damage in ({"result": 1}, {"tags": {"k": 1}}, {"started": "x"}):
        write_earlier(path, **damage)
        assert unlogged.get(CELL.cell_id) is None
    path.write_text("0" * 64 + "\n{}")
    assert unlogged.get(CELL.cell_id) is None
    unlogged.drop(CELL.cell_id)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    unlogged = UnloggedResults(tmp_path)

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert unlogged.put(CELL, result_of(1)).strerror == "No space left on device"
        assert not list(tmp_path.iterdir())
        said = f"1 result is only in memory: cannot write to {tmp_path} (No space left on device)"
        assert unlogged.state() == said
    assert unlogged.get(CELL.cell_id) is not None, "from memory"
    assert unlogged.state() == "all trained results are saved"
    assert UnloggedResults(tmp_path).get(CELL.cell_id).to_json() == result_of(1).to_json()


def test_tidy_removes_what_is_done_and_nothing_else(tmp_path):
    unlogged = UnloggedResults(tmp_path)
    for cell in CELLS[:2]:
        unlogged.put(cell, result_of(1))
    for cell in CELLS:
        (tmp_path / f"{cell.cell_id}.77.tmp").mkdir()
        (tmp_path / f"{cell.cell_id}.77.tmp" / "result.json").write_text("cut")
    unlogged.tidy({FIRST, CELLS[2].cell_id})
    assert sorted(p.name for p in tmp_path.iterdir()) == [SECOND, f"{SECOND}.77.tmp"]

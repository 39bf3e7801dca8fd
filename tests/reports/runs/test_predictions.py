"""The export of predictions: in order, some at a time, the store read once; and those of a single run."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.errors import StoreError
from harness.tracking.tracker import PREDICTIONS_FILE, Tracker
from reports import export
from reports.export import prediction_schema, prediction_tables, write_predictions
from reports.runs.study_runs import StudyRuns

SCHEMA = prediction_schema()


@pytest.fixture(scope="module")
def var(train_study):
    """A study of both protocols, ratios 0, 0.5 and 1; do not write into it."""
    protocols = "occlusion.protocols=[test,train]"
    return train_study("methods=[none]", "backbones=[lmf]", protocols, "train.max_epochs=1", "seeds=[1111]")


@pytest.fixture
def tracker(var):
    return Tracker(None, var, "s", create=False)


def test_rows_are_those_of_the_stored_results(tracker):
    tables = list(prediction_tables(StudyRuns(tracker)))
    found = tracker.complete()
    assert [set(table["cell_id"].to_pylist()) for table in tables] == [{c} for c in sorted(found)]
    for table, (_, one) in zip(tables, sorted(found.items()), strict=True):
        assert table.schema.equals(SCHEMA)
        stored, protocol = tracker.load(one).predictions, one.tags["occlusion_protocol"]
        ratios = sorted(stored.values)
        shown = [float(one.tags["train_ratio"])] if protocol == "train" else ratios
        assert set(table["occlusion_protocol"].to_pylist()) == {protocol}
        np.testing.assert_array_equal(table["occlusion_ratio"], np.repeat(shown, len(stored.ids)))
        assert table["id"].to_pylist() == stored.ids.tolist() * len(ratios)
        names = ("dataset", "backbone", "method", "settings", "seed")
        cell = [{str(value) for value in table[name].to_pylist()} for name in names]
        assert cell == [{one.tags[name]} for name in names]
        np.testing.assert_array_equal(table["label"], np.tile(stored.labels, len(ratios)))
        np.testing.assert_array_equal(table["prediction"], np.concatenate([stored.values[r] for r in ratios]))
    assert {one.tags["occlusion_protocol"] for one in found.values()} == {"test", "train"}
    # A run without an address is asked for it.
    assert one.artifact_uri
    bare = tracker.predictions(dataclasses.replace(one, artifact_uri=""))
    np.testing.assert_array_equal(bare.labels, stored.labels)


@pytest.mark.parametrize("sizes", [(), (0,), (2, 2, 2), (1, 5, 1, 1, 9)])
def test_tables_are_written_some_at_a_time(tmp_path, monkeypatch, sizes):
    monkeypatch.setattr(export, "ROWS", 4)
    rows = [[f"cell{size}", "a", "test", 1.0, 1.0, 1.0, *"dbm", "{}", 1] for size in sizes]
    tables = [
        pa.table({name: [value] * size for name, value in zip(SCHEMA.names, row, strict=True)}, SCHEMA)
        for row, size in zip(rows, sizes, strict=True)
    ]
    assert write_predictions(iter(tables), tmp_path / "a.parquet") == sum(sizes)
    written = pq.ParquetFile(tmp_path / "a.parquet")
    assert written.read().equals(pa.concat_tables(tables or [SCHEMA.empty_table()]))
    assert written.num_row_groups <= max(1, len(sizes))


def test_both_files_are_made_of_one_look_at_the_store(var, tmp_path, monkeypatch):
    looks, complete = [], Tracker.complete
    monkeypatch.setattr(Tracker, "complete", lambda self: looks.append(1) or complete(self))
    files = f"out={tmp_path / 'a.csv'}", f"predictions={tmp_path / 'a.parquet'}"
    assert export.main([f"var_dir={var}", "study=s", *files]) == 0
    assert looks == [1]


def test_predictions_as_text_are_refused(var, tmp_path, capsys):
    assert export.main([f"var_dir={var}", "study=s", f"predictions={tmp_path / 'a.CSV'}"]) == 2
    assert "give a name like predictions=clips.parquet" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [None, b"", b"PAR1 is no table PAR1"])
def test_predictions_that_are_gone_or_damaged_end_the_export(
    var, tracker, tmp_path, monkeypatch, capsys, content
):
    one = next(iter(tracker.complete().values()))
    (tmp_path / "files").mkdir()
    if content is not None:
        (tmp_path / "files" / PREDICTIONS_FILE).write_bytes(content)
    moved = dataclasses.replace(one, artifact_uri=(tmp_path / "files").as_uri())
    with pytest.raises(StoreError):
        tracker.predictions(moved)
    monkeypatch.setattr(Tracker, "complete", lambda self: {one.tags["cell_id"]: moved})
    out = tmp_path / "a.parquet"
    assert export.main([f"var_dir={var}", "study=s", f"predictions={out}"]) == 2
    assert capsys.readouterr().err.startswith("Error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["files"]

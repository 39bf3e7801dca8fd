"""What the predictions of runs say of the clips: their moves of scores, and the cache of predictions."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from harness.errors import StoreError
from harness.train.result import Predictions
from reports.runs.clips import SplitClips, StudyClips
from reports.runs.predictions import load_predictions
from reports.stats.clips import video_moves

IDS = np.array(["a$_$0", "a$_$1", "b$_$0", "c$_$0", "c$_$1", "c$_$2"])
LABELS = np.float32([1, -2, 0.5, 3, -1, 0])


def run(name, dataset="mosi"):
    return SimpleNamespace(run_id=name, tags={"dataset": dataset})


def predictions(seed, ratios=(0.0, 0.5), ids=IDS, labels=LABELS):
    generator = np.random.default_rng(seed)
    values = {r: generator.normal(size=len(labels)).astype(np.float32) for r in ratios}
    return Predictions(ids, labels, values)


def rows(*names, ratio=0.0, protocol="test", dataset="mosi"):
    frame = pd.DataFrame({"run_id": names, "dataset": dataset})
    return frame.assign(occlusion_ratio=ratio, occlusion_protocol=protocol)


def clips_of(stored, dataset="mosi"):
    return StudyClips(
        [run(name, dataset) for name in stored], {"mosi": "mosi", "sims": "sims"}, lambda _: stored
    )


def test_moves_are_those_of_each_runs_predictions_by_video():
    stored = {"x": predictions(1), "y": predictions(2)}
    clips = clips_of(stored)
    assert clips.shares("mosi").tolist() == pytest.approx([2 / 6, 1 / 6, 3 / 6])
    for ratio, protocol in ((0.0, "test"), (0.5, "test"), (0.3, "train")):
        found = clips.moves(rows("y", "x", ratio=ratio, protocol=protocol), "corr")
        stored_ratio = 0.0 if protocol == "train" else ratio
        for name, moves in zip(("y", "x"), found, strict=True):
            values = stored[name].values[stored_ratio][None]
            expected = video_moves("mosi", "corr", values, LABELS, np.array([0, 0, 1, 2, 2, 2]))[1]
            np.testing.assert_array_equal(moves, expected[0])
    assert clips.moves(rows("x"), "loss") == [None], "not a function of predictions alone"
    assert clips.moves(rows("x", ratio=0.7), "mae") == [None]
    assert clips.without_predictions([run("x"), run("y")]) == 0


def test_runs_without_predictions_or_on_other_clips_are_counted_and_have_no_moves():
    stored = {"x": predictions(1), "y": predictions(2), "other": predictions(3, labels=LABELS + 1)}
    clips = StudyClips([run(name) for name in (*stored, "gone")], {"mosi": "mosi"}, lambda _: stored)
    moves = clips.moves(rows("x", "other", "gone"), "mae")
    assert [move is None for move in moves] == [False, True, True]
    assert clips.without_predictions([run(name) for name in (*stored, "gone")]) == 2
    assert clips.without_predictions([run("x"), run("gone")]) == 1
    assert clips.moves(rows("x", dataset="sims"), "mae") == [None]
    assert clips.shares("sims").size == 0


def test_ids_that_name_no_video_leave_each_clip_to_itself():
    split = SplitClips.of(np.array(["a$_$0", "a$_$1", "c"]), LABELS[:3])
    assert not split.by_video
    assert split.shares.tolist() == pytest.approx([1 / 3] * 3)


class Store:
    """A tracker that counts what is read."""

    study = "s"

    def __init__(self, stored):
        self.stored, self.read = stored, []

    def predictions(self, one):
        self.read.append(one.run_id)
        if one.run_id not in self.stored:
            raise StoreError("its artifacts are gone")
        return self.stored[one.run_id]


def assert_equal(found, expected):
    assert set(found) == set(expected)
    for name, own in expected.items():
        assert found[name].ids.tolist() == own.ids.tolist()
        np.testing.assert_array_equal(found[name].labels, own.labels)
        assert list(found[name].values) == sorted(own.values)
        for ratio, values in own.values.items():
            np.testing.assert_array_equal(found[name].values[ratio], values)


def test_predictions_are_read_once_and_a_damaged_cache_is_read_anew(tmp_path):
    stored = {"x": predictions(1), "y": predictions(2, (0.0,)), "z": predictions(3, labels=LABELS[:6] + 1)}
    store = Store(stored)
    runs = [run(name) for name in stored]
    for _ in range(2):
        assert_equal(load_predictions(store, tmp_path, runs), stored)
        assert store.read == ["x", "y", "z"]
    store.stored["new"] = predictions(4)
    assert_equal(load_predictions(store, tmp_path, [run("new"), run("gone"), run("x")]),
                 {"x": stored["x"], "new": store.stored["new"]})  # fmt: skip
    assert store.read == ["x", "y", "z", "new", "gone"]
    [cache] = (tmp_path / "runs").iterdir()
    cache.write_bytes(cache.read_bytes()[:-20])
    assert_equal(load_predictions(store, tmp_path, runs[:1]), {"x": stored["x"]})
    assert store.read[5:] == ["x"]
    assert_equal(load_predictions(store, None, runs[:1]), {"x": stored["x"]})

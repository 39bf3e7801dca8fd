"""The hours of the paper profile, from made-up measurements."""

from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

import harness.conf
from harness.train.loop import batches
from methods import METHODS
from tests.perf import hours
from tests.perf.hours import EPOCHS, estimated_hours


def measured():
    usual = {
        "error": None,
        "steps_per_s": {"fp32": 100.0},
        "evaluated_clips_per_s": 1000.0,
        "packed": {"1": {"steps_per_s": 90.0}, "2": {"steps_per_s": 135.0}},
    }
    return {
        "gpu": "G",
        "pairs": [{**usual, "backbone": b, "method": m} for b in EPOCHS for m in hours.METHODS],
    }


def test_hours_by_hand():
    one = {"gpu": "G", "pairs": measured()["pairs"][:1]}  # tfn, none
    found = estimated_hours(one, {"tfn": 10}, ["none"])
    seconds = 0.0
    for train, valid, test, size in ((1284, 229, 686, 32), (16326, 1871, 4659, 128), (1368, 456, 457, 32)):
        epoch = len(batches(np.arange(train), size)) * size / 32 / 100 + valid / 1000
        for ratios in (10, 1, 1, 1, 1):  # trained clean, or at one of four ratios
            seconds += 5 * (10 * epoch + (valid + ratios * test) / 1000)
    assert found["hours"] == pytest.approx({"1": seconds / 3600, "2": seconds / 3600 / 1.5})
    assert (found["trainings"], found["missing"]) == (3 * 5 * 5, [])
    assert "tfn 10" in found["assumptions"][0]


def test_the_hours_name_the_pairs_that_they_leave_out():
    found = measured()
    whole = estimated_hours(found)
    assert whole["trainings"] == 6 * 8 * 3 * 25
    assert sum(row["1"] for row in whole["backbones"].values()) == pytest.approx(whole["hours"]["1"])
    found["pairs"][0]["error"] = "OutOfMemoryError: no"
    del found["pairs"][-1]
    less = estimated_hours(found)
    assert less["missing"] == ["tfn/none", "glomo/ms_mix"]
    assert less["hours"]["1"] < whole["hours"]["1"]
    assert less["trainings"] == whole["trainings"] - 2 * 75


def test_methods_that_were_not_packed_gain_as_others_of_the_backbone():
    found = measured()
    for pair in found["pairs"]:
        if pair["method"] != "none":
            del pair["packed"]
    assert estimated_hours(found)["hours"] == pytest.approx(estimated_hours(measured())["hours"])


def test_the_matrix_is_the_paper_profiles():
    paper = OmegaConf.load(Path(harness.conf.__file__).parent / "profile" / "paper.yaml")
    assert (tuple(paper.methods), tuple(paper.datasets)) == (hours.METHODS, hours.DATASETS)
    assert set(hours.METHODS) <= set(METHODS)
    assert list(paper.backbones) == list(EPOCHS)
    counts = len(paper.seeds), len(paper.occlusion.ratios), len(paper.occlusion.train_ratios)
    assert counts == (hours.SEEDS, hours.TEST_RATIOS, hours.TRAIN_RATIOS)

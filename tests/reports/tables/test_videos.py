"""The table of videos: counts of videos with a gain or a loss, and a CSV row per video."""

import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from reports.tables.clips import clip_numbers
from reports.tables.table import DASH
from reports.tables.videos import video_numbers, video_table
from tests.support.scores import CLIPS, STILL, DrawnErrors
from tests.support.studies import make_study


def small(seeds=2):
    return make_study(seeds=seeds, datasets=("synthetic_mosi",), methods=("none", "mixup", "powmix"),
                      ablation=False, backbones=("tfn", "misa"), samples=False, sweeps=False)  # fmt: skip


def rows_of(table):
    return [row for part in table.parts for group in part.groups for row in group]


def test_gains_are_the_means_of_the_clips_gains():
    study = small()
    of_clips = clip_numbers(study).groupby(["method", "video"])["gain"].mean()
    found = video_numbers(study).set_index(["method", "video"])["gain"]
    assert found.index.is_unique
    pd.testing.assert_series_equal(found.sort_index().astype(float), of_clips, check_names=False)


def test_rows_count_the_rows_of_the_csv():
    study = small()
    table = video_table(study, ("powmix", "mixup"))
    written = pd.read_csv(io.StringIO(table.csv))
    assert written["clips"].sum() == 2 * len(CLIPS)
    rows = rows_of(table)
    assert [row[1].text for row in rows] == ["PowMix", "Mixup"]
    for row, method in zip(rows, ("powmix", "mixup"), strict=True):
        own = written[written["method"] == method]
        expected = len(own), (own["low_seeds"] > 0).sum(), (own["high_seeds"] < 0).sum(), 0.05 * len(own)
        assert [row[k].order for k in (2, 3, 4, 5)] == pytest.approx(expected)
        assert (row[6].order, row[7].order) == pytest.approx((own["gain"].min(), own["gain"].max()), rel=1e-4)
        assert row[8].text == "4"


def test_one_seed_decides_no_video():
    assert {row[k].text for row in rows_of(video_table(small(seeds=1))) for k in (3, 4, 5)} == {DASH}


class Nameless(DrawnErrors):
    def errors(self, dataset):
        ids = np.array([f"x{k}" for k in range(len(CLIPS))])
        return replace(super().errors(dataset), ids=ids, by_video=False)


@pytest.mark.parametrize("clips", [None, STILL, Nameless()])
def test_without_predictions_or_videos_the_table_names_the_command(clips):
    table = video_table(replace(small(), clips=clips))
    assert len(table) == 0
    assert table.fill.startswith("make benchmark")

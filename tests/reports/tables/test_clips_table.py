"""The table of clips: shares of clips and videos with a gain, and a CSV row per clip."""

import io
from dataclasses import replace

import pandas as pd
import pytest

from reports.names import dataset_name, method_name
from reports.tables.clips import clip_numbers, clip_table
from reports.tables.table import DASH
from tests.support.scores import CLIPS, STILL, DrawnErrors
from tests.support.studies import make_study

ORDER = ("synthetic_sims", "powmix", "mixup")


def small():
    datasets = ("synthetic_mosi", "synthetic_sims")
    return make_study(seeds=2, datasets=datasets, methods=("none", "mixup", "powmix"), ablation=False,
                      backbones=("tfn", "misa"), samples=False, sweeps=False)  # fmt: skip


def test_shares_are_those_of_the_rows_per_clip():
    study = small()
    table, numbers = clip_table(study, ORDER), clip_numbers(study, ORDER)
    written = pd.read_csv(io.StringIO(table.csv))
    assert len(written) == 2 * 2 * len(CLIPS)
    assert written["clip"].tolist() == list(CLIPS) * 4
    assert written["text_length"].tolist() == [5 + k for k in range(len(CLIPS))] * 4
    rows = [row for part in table.parts for group in part.groups for row in group]
    assert [(row[0].text, row[1].text) for row in rows] == [
        (dataset, method)
        for dataset in ("synthetic SIMS", "synthetic MOSI")
        for method in ("PowMix", "Mixup")
    ]
    for row in rows:
        named = numbers["dataset"].map(dataset_name), numbers["method"].map(method_name)
        own = numbers[(named[0] == row[0].text) & (named[1] == row[1].text)]
        videos = own.groupby("video")["gain"].mean()
        assert row[2].order == pytest.approx(own["gain"].mean())
        assert row[3].text == f"{100 * (own['gain'] > 0).mean():.1f}"
        assert row[5].text == f"{100 * (videos > 0).mean():.1f}"
        assert [row[k].text for k in (4, 6, 7)] == ["20", "10", "4"]


def test_unknown_videos_and_lengths_are_dashes_and_holes():
    class Nameless(DrawnErrors):
        def errors(self, dataset):
            ids = CLIPS.astype("U20")
            ids[3] = "x"
            return replace(super().errors(dataset), ids=ids, by_video=False)

    study = replace(small(), clips=Nameless(), datasets=())
    rows = [row for group in clip_table(study).parts[0].groups for row in group]
    assert {row[5].text for row in rows} == {DASH}
    assert clip_numbers(study)["text_length"].isna().all()
    assert (clip_numbers(study)["video"] == "").all()


@pytest.mark.parametrize("clips", [None, STILL])
def test_without_predictions_the_table_names_the_command(clips):
    table = clip_table(replace(small(), clips=clips))
    assert len(table) == 0
    assert "predictions" in table.notes[0]
    assert table.fill.startswith("make benchmark")

"""Published results among our runs: their percentile, our best run, and the best test epoch."""

import dataclasses
import io

import numpy as np
import pandas as pd
import pytest

from reports.page import report
from reports.page.report import write
from reports.stats.comparison import BASELINE
from reports.tables import places as module
from reports.tables.places import place_table, places, sentences
from reports.tables.published import published
from tests.reports.tables.test_golden import golden_study
from tests.support.studies import make_study, score_rows

MAE = [0.9, 0.94, 0.9473, 0.96, 1.0]


def study_of(values=MAE, dataset="mosi", best=None, method=BASELINE):
    """A study of TFN with these MAE, one a seed, and the best test epoch of each if it has some."""
    rows = score_rows(method, {"mae": values}, dataset=dataset)
    for k, row in enumerate(rows):
        row["run_id"] = f"run{k}"
    more = score_rows(method, {"mae": best or []}, dataset=dataset, split="test_best_epoch")
    for k, row in enumerate(more):
        row["run_id"] = f"run{k}"
    base = make_study(1, (), (), sweeps=False)
    return dataclasses.replace(base, frame=pd.DataFrame([*rows, *more]), kinds={dataset: "mosi"})


def test_published_values_have_their_source_and_seeds():
    table = published()
    assert list(table.columns) == [
        *("dataset", "backbone", "method", "metric", "value", "seeds", "source", "selection")
    ]
    assert not table.isna().any(axis=None)
    assert not table.duplicated(["dataset", "backbone", "method", "metric", "source"]).any()
    assert table["value"].between(0, 1).all()
    tfn = table.set_index(["dataset", "backbone", "metric"]).loc[("mosi", "tfn", "mae")]
    assert (tfn["value"], tfn["seeds"], tfn["source"]) == (0.9473, 5, "MMSA")


def test_the_place_is_counted_by_hand():
    [row] = places(study_of()).to_dict("records")
    # Lower is better: two of five runs are worse, and one is equal.
    assert row["percentile"] == pytest.approx(50)
    assert (row["best"], row["n"], row["curves"]) == (0.9, 5, 0)
    assert row["mean"] == pytest.approx(np.mean(MAE))
    assert np.isnan(row["best_epoch"])
    [said] = sentences(places(study_of()))
    assert said == (
        "MMSA's MAE of 0.947 for TFN on CMU-MOSI lies at the 50th percentile of our runs, and is not as good "
        "as the best of 5."
    )


def test_the_best_test_epoch_is_compared_on_the_same_runs():
    [row] = places(study_of(best=[0.8, 0.92])).to_dict("records")
    assert row["best_epoch"] == pytest.approx(0.86)
    assert row["added"] == pytest.approx((0.1 + 0.02) / 2)
    assert row["curves"] == 2
    [said] = sentences(places(study_of([0.99, 0.98], best=[0.9, 0.91])))
    assert said.endswith("100th percentile of our runs, and is better than the best of 2 and not as good as "
                         "their best test epochs.")  # fmt: skip


def test_only_runs_of_the_same_method_on_real_data_count():
    assert places(study_of(method="mixup")).empty
    assert place_table(study_of(dataset="synthetic_mosi")) == []
    assert place_table(dataclasses.replace(study_of(), synthetic=frozenset({"mosi"}))) == []
    [table] = place_table(study_of())
    assert table.parts[0].groups[0][0][5].text == "50"
    assert pd.read_csv(io.StringIO(table.csv))["source"].tolist() == ["MMSA"]


@pytest.mark.slow
def test_nothing_but_this_table_shows_the_best_test_epoch(tmp_path, monkeypatch):
    """With test curves, all other files of the report keep their bytes, and so do the other tables."""
    monkeypatch.setattr("reports.figures.parts.style.ENDINGS", ("svg",))
    monkeypatch.setattr(report, "FIGURES", report.FIGURES[-3:])
    plain = golden_study()
    tests = plain.frame[(plain.frame["split"] == "test") & (plain.frame["occlusion_ratio"] == 0)]
    curves = tests.assign(split="test_best_epoch", value=tests["value"] * 0.5)
    curved = dataclasses.replace(plain, frame=pd.concat([plain.frame, curves], ignore_index=True))
    for name, study in (("plain", plain), ("curved", curved)):
        write(study, tmp_path / name)
    files = {path.relative_to(tmp_path / "plain") for path in (tmp_path / "plain").rglob("*.*")}
    differ = {
        str(path)
        for path in files
        if (tmp_path / "plain" / path).read_bytes() != (tmp_path / "curved" / path).read_bytes()
    }
    assert differ == {f"tables/{module.NAME}.{end}" for end in ("csv", "md", "tex")} | {"index.html"}

"""Published results of the backbones without mixing, to stand beside ours on the real data."""

from __future__ import annotations

import math
from importlib import resources

import pandas as pd

from reports.stats.comparison import BASELINE
from reports.study import Study

LABEL = "none (published)"
SOURCE = "results of MMSA (github.com/thuiar/MMSA, results/result-stat.md), unaligned data"


def published() -> pd.DataFrame:
    """MMSA's own results (``SOURCE``): dataset, backbone, metric, percent (a hundred times the score)."""
    with resources.files("reports.tables").joinpath("published.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


def published_numbers(numbers: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Rows as in `reports.tables.seed_means` of each `none` on real data that has a published result.

    ``published`` is true, ``mean`` the published value, and there are no seeds.
    """
    ours = numbers[(numbers["method"] == BASELINE) & ~numbers["dataset"].isin(study.synthetic)]
    known = published()
    # MMSA trains MISA's text encoder.
    fine_tuned = (known["backbone"] == "misa") & ("misa[bert]" in set(ours["backbone"]))
    known["backbone"] = known["backbone"].where(~fine_tuned, "misa[bert]")
    found = ours.merge(known, on=["dataset", "backbone", "metric"])
    counts = dict.fromkeys(("n", "undefined", "seeds"), 0)
    rows = found.assign(mean=found["percent"] / 100, std=math.nan, method=LABEL, outside="", **counts)
    return rows.assign(published=True)[[*numbers.columns, "published"]]

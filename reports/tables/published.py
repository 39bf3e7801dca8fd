"""Published results of the backbones without mixing, for comparison on the real data sets."""

from __future__ import annotations

import math
from importlib import resources

import pandas as pd

from reports.stats.comparison import BASELINE
from reports.study import Study

LABEL = "none (published)"
SOURCE = "results of MMSA (github.com/thuiar/MMSA, results/result-stat.md), unaligned data"


def published() -> pd.DataFrame:
    """Read MMSA's own results (``SOURCE``): dataset, backbone, metric, percent (100 times the score)."""
    with resources.files("reports.tables").joinpath("published.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


def published_numbers(numbers: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Return rows, as in `reports.tables.seed_means`, of published results of `none` on real data.

    ``published`` is true, ``mean`` is the published value, and the counts of seeds are 0.
    """
    ours = numbers[(numbers["method"] == BASELINE) & ~numbers["dataset"].isin(study.synthetic)]
    known = published()
    # MMSA fine-tunes MISA's text encoder, so its result is comparable with misa[bert] if the study has it.
    fine_tuned = (known["backbone"] == "misa") & ("misa[bert]" in set(ours["backbone"]))
    known["backbone"] = known["backbone"].where(~fine_tuned, "misa[bert]")
    rows = ours.merge(known, on=["dataset", "backbone", "metric"])
    counts = dict.fromkeys(("n", "undefined", "seeds"), 0)
    rows = rows.assign(mean=rows["percent"] / 100, std=math.nan, method=LABEL, verdict="", **counts)
    return rows.assign(published=True)[[*numbers.columns, "published"]]

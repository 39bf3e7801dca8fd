"""Published results of the backbones without mixing, for comparison on the real data sets."""

from __future__ import annotations

import math
from collections.abc import Collection
from importlib import resources

import pandas as pd

from reports.runs.study import Study
from reports.stats.comparison import BASELINE

LABEL = "none (published)"
KEYS = ("dataset", "backbone", "method", "metric")
SOURCE = "results of MMSA (github.com/thuiar/MMSA, results/result-stat.md), unaligned data"


def published() -> pd.DataFrame:
    """Read published results.

    Columns: dataset, backbone, method, metric, value, seeds (how many it is a mean of), source and selection
    (how the epoch was chosen, where the source states it). Those of MMSA are of the seeds 1111 to 1115
    (thuiar/MMSA, issues 11 and 81).
    """
    with resources.files("reports.tables").joinpath("published.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


def of_backbones(known: pd.DataFrame, backbones: Collection[str]) -> pd.DataFrame:
    """Return published results under the names of the study's backbones."""
    # MMSA fine-tunes MISA's text encoder, so its result is comparable with misa[bert] if the study has it.
    fine_tuned = (known["backbone"] == "misa") & ("misa[bert]" in backbones)
    return known.assign(backbone=known["backbone"].where(~fine_tuned, "misa[bert]"))


def published_numbers(numbers: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Return rows, as in `reports.tables.seed_means`, of published results of `none` on real data.

    ``published`` is true, ``mean`` is the published value, and the counts of seeds are 0.
    """
    ours = numbers[(numbers["method"] == BASELINE) & ~numbers["dataset"].isin(study.synthetic)]
    known = of_backbones(published(), set(ours["backbone"]))
    rows = ours.merge(known[[*KEYS, "value"]], on=list(KEYS))
    counts = dict.fromkeys(("n", "undefined", "seeds"), 0)
    rows = rows.assign(mean=rows["value"], std=math.nan, method=LABEL, verdict="", **counts)
    return rows.assign(published=True)[[*numbers.columns, "published"]]

"""Published results among a study's runs: their place in the distribution, and against the best of them.

This is the only place that shows the test split's best epoch (``evaluate.test_curve=true``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from harness.metrics import DIRECTION
from reports.names import METRIC_NAMES, backbone_name, dataset_name, method_name
from reports.runs.frame import named
from reports.runs.study import Study
from reports.tables.published import KEYS, of_backbones, published
from reports.tables.scores import format_score, heading
from reports.tables.seed_means import place
from reports.tables.table import DASH, Column, Part, Table, Value

NAME = "published"
NUMBERS = ("value", "percentile", "mean", "std", "n", "best", "best_epoch", "added", "curves")
COLUMNS = (*KEYS, *NUMBERS, "seeds", "source", "selection")
HEADS = (
    *("Dataset", "Backbone", "Method", "Metric", "Published", "Percentile", "Our mean", "Best run"),
    *("Best test epoch", "Added by it", "n", "Source"),
)
TEXTS = ("Dataset", "Backbone", "Method", "Metric", "Source")
NOTES = (
    "Published: a mean of as many seeds as its source states. Percentile: the share of our runs that are "
    "worse; ties count half.",
    "Best run: the best of our n runs, each at the epoch with the lowest validation loss.",
    "Best test epoch: mean over runs of the best test score of any epoch, chosen for each metric by itself; "
    "added by it: what choosing the epoch on the test split would have added, on the same runs. It needs "
    "evaluate.test_curve=true, and nothing else in this report depends on it.",
)


def place_table(study: Study, order: Sequence[str] = ()) -> list[Table]:
    """Return the table of published results, or none if the study has no runs to compare with."""
    rows = places(study, order)
    if rows.empty:
        return []
    columns = [Column(head, head not in TEXTS) for head in HEADS]
    groups = [
        [_values(row, study) for row in part.to_dict("records")]
        for _, part in rows.groupby(["dataset", "backbone"], sort=False)
    ]
    selections = sorted({f"{row.source}: {row.selection}" for row in rows.itertuples()})
    notes = [*NOTES, f"How the epoch was chosen, by source: {'; '.join(selections)}.", *sentences(rows)]
    title = f"Published results among our runs, study {study.name}"
    return [Table(NAME, title, [Part(columns, groups)], notes, rows.to_csv(index=False, lineterminator="\n"))]


def places(study: Study, order: Sequence[str] = ()) -> pd.DataFrame:
    """Return a row per published result of a real data set, backbone and method that the study has.

    ``percentile`` is in [0, 100]; ``best`` is our best run; ``best_epoch`` is the mean of the best test
    epochs of ``curves`` runs, and ``added`` what these gain over the runs' usual scores; both are NaN
    without curves.
    """
    frame = study.frame
    clean = (frame["occlusion_protocol"] == "test") & (frame["occlusion_ratio"] == 0)
    rows = named(frame[clean & ~frame["dataset"].isin(list(study.synthetic))])
    ours = rows[rows["split"] == "test"].groupby(list(KEYS), observed=True)
    known = of_backbones(published(), set(rows["backbone"]))
    best = rows[rows["split"] == "test_best_epoch"]
    found = [
        {**entry, **_place(entry, ours.get_group(key), best)}
        for entry in known.to_dict("records")
        if (key := tuple(entry[name] for name in KEYS)) in ours.groups
    ]
    table = pd.DataFrame(found, columns=list(COLUMNS))
    keys = [
        (place(d, order), place(b, order)) for d, b in zip(table["dataset"], table["backbone"], strict=True)
    ]
    return table.iloc[sorted(range(len(table)), key=keys.__getitem__)].reset_index(drop=True)


def _place(entry: Mapping[Any, Any], ours: pd.DataFrame, best: pd.DataFrame) -> dict[str, float]:
    sign = DIRECTION[entry["metric"]]
    # Fix the order, because the last bits of a sum depend on it.
    own = ours[np.isfinite(ours["value"].astype(float))].sort_values("value")
    values = own["value"].to_numpy(float)
    if not len(values):
        return dict.fromkeys(NUMBERS[1:], math.nan) | {"n": 0, "curves": 0}
    worse = (sign * values < sign * entry["value"]).mean() + (values == entry["value"]).mean() / 2
    peeked = best[(best["metric"] == entry["metric"]) & best["run_id"].isin(list(own["run_id"]))]
    pairs = own.merge(peeked[["run_id", "value"]].drop_duplicates(), on="run_id", suffixes=("", "_best"))
    gains = sign * (pairs["value_best"] - pairs["value"])
    return {
        "percentile": 100 * float(worse),
        "mean": float(values.mean()),
        "std": float(values.std(ddof=1)) if len(values) > 1 else math.nan,
        "n": len(values),
        "best": float(sign * (sign * values).max()),
        "best_epoch": float(pairs["value_best"].mean()),
        "added": float(gains.mean()),
        "curves": len(pairs),
    }


def sentences(rows: pd.DataFrame, metric: str = "mae") -> Iterator[str]:
    """Yield a sentence per data set and backbone. rows: see `places`."""
    for row in rows[(rows["metric"] == metric) & (rows["n"] > 0)].to_dict("records"):
        sign = DIRECTION[metric]
        where = f"{backbone_name(row['backbone'])} on {dataset_name(row['dataset'])}"
        against = _against(sign * row["value"], sign * row["best"], f"the best of {row['n']:.0f}")
        text = (
            f"{row['source']}'s {METRIC_NAMES[metric]} of {row['value']:.3f} for {where} lies at the "
            f"{_ordinal(round(row['percentile']))} percentile of our runs, and is {against}"
        )
        if row["curves"]:
            text += (
                f" and {_against(sign * row['value'], sign * row['best_epoch'], 'their best test epochs')}"
            )
        yield f"{text}."


def _against(value: float, ours: float, name: str) -> str:
    """Return on which side of our result a published one is; higher is better."""
    return f"{'better than' if value > ours else 'equal to' if value == ours else 'not as good as'} {name}"


def _ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th") if number % 100 not in (11, 12, 13) else "th"
    return f"{number}{ending}"


def _values(row: Mapping[Any, Any], study: Study) -> list[Value]:
    metric, link = row["metric"], study.links.behind({name: row[name] for name in KEYS[:3]})
    text = {
        name: format_score(row[name], metric) for name in ("value", "mean", "best", "best_epoch", "added")
    }
    spread = "" if math.isnan(row["std"]) else f" ± {format_score(row['std'], metric)}"
    percentile = DASH if math.isnan(row["percentile"]) else f"{row['percentile']:.0f}"
    return [
        Value(dataset_name(row["dataset"]), order=row["dataset"]),
        Value(backbone_name(row["backbone"]), order=row["backbone"]),
        Value(method_name(row["method"]), order=row["method"]),
        Value(heading(metric), order=metric),
        Value(text["value"], order=row["value"]),
        Value(percentile, order=row["percentile"]),
        Value(text["mean"] + spread, order=row["mean"], link=link),
        Value(text["best"], order=row["best"], link=link),
        Value(text["best_epoch"], order=row["best_epoch"], link=link),
        Value(text["added"] if math.isnan(row["added"]) else f"+{text['added']}", order=row["added"]),
        Value(f"{row['n']:.0f}", order=float(row["n"]), link=link),
        Value(f"{row['source']}, {row['seeds']} seeds", order=row["source"]),
    ]

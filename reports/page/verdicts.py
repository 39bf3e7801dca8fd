"""Sentences on how each method compares with a baseline on each data set, one verdict per sentence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from reports.names import dataset_name, method_name, signed
from reports.runs.study import Study
from reports.stats.intervals import FEWEST
from reports.tables.seed_means import place

Row = Mapping[Any, Any]


def by_dataset(study: Study, gains: pd.DataFrame, baseline: str, order: Sequence[str]) -> Iterator[str]:
    """Yield a paragraph per data set. gains: rows of `summary.compare_methods` of one metric, the MAE."""
    for dataset in sorted(gains["dataset"].unique(), key=lambda name: place(name, order)):
        part = gains[gains["dataset"] == dataset]
        # Methods with all backbones come first: a mean over fewer backbones is not comparable.
        part = part.assign(lacking=part["strata"].max() - part["strata"])
        ranked = part.sort_values(["lacking", "gain", "method"], ascending=[True, False, True])
        text = " ".join(_sentences(study, ranked.to_dict("records"), baseline))
        first = text[0].lower() if text.startswith("Undecided") else text[0]
        yield f"On {dataset_name(dataset)}, test MAE: {first}{text[1:]}"


def p_text(value: float) -> str:
    """Format a p-value; a dash for NaN."""
    return "\u2013" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.2g}"


def _sentences(study: Study, rows: Sequence[Row], baseline: str) -> Iterator[str]:
    baseline = method_name(baseline)
    for row in rows:
        if row["verdict"] in ("better", "worse"):
            yield f"{_named(row)} is {row['verdict']} than {baseline}: {_gain(row)}."
    for row in rows:
        if row["verdict"] == "equal":
            margin = study.margins["mae"]
            yield f"{_named(row)} and {baseline} are equal within {margin:g}: {_gain(row)}."
    undecided = [row for row in rows if row["verdict"] == "undecided"]
    if undecided:
        gains = "; ".join(f"{_named(row)} {_gain(row)}" for row in undecided)
        yield f"Undecided against {baseline}: {gains}."
        yield from _outlook(study, undecided)
    if any(not math.isnan(row["low"]) for row in rows):
        yield f"In parentheses: 95% intervals for other seeds and other clips; {_size(study, rows)}."


def _named(row: Row) -> str:
    """Return a method's name, with its number of backbones if other methods have more."""
    few = f" (on only {_count(row['strata'], 'backbone')})" if row["lacking"] else ""
    return f"{method_name(row['method'])}{few}"


def _gain(row: Row) -> str:
    interval = "" if math.isnan(row["low"]) else f" ({signed(row['low'])} to {signed(row['high'])})"
    return f"{signed(row['gain'])}{interval}"


def _outlook(study: Study, rows: Sequence[Row]) -> Iterator[str]:
    """Yield why methods are undecided, and what would decide."""
    seeds = max(int(row["seeds"]) for row in rows)
    few = [
        f"{method_name(row['method'])} has {_count(row['seeds'], 'seed')}"
        for row in rows
        if row["seeds"] < FEWEST
    ]
    if seeds < FEWEST:
        yield f"{_count(seeds, 'seed')} decide{'s' * (seeds == 1)} nothing: a verdict needs three."
    elif few:
        yield f"{' and '.join(few)}: a verdict needs three."
    elif any(math.isnan(row["low_seeds"]) for row in rows):
        yield "Where all seeds gain exactly the same, no uncertainty can be given."
    elif any(math.isnan(row["low"]) for row in rows):
        yield "A verdict needs the predictions of all runs, to judge other clips."
    known = [
        row
        for row in rows
        if not math.isnan(row["smallest_gain"]) and (seeds < FEWEST or row["seeds"] >= FEWEST)
    ]
    if not known:
        return
    if seeds >= FEWEST:
        yield f"With 80% probability this study finds gains of {_range(known, 'smallest_gain')} or more."
    halving = [row["halving_seeds"] for row in known]
    if all(math.isinf(number) for number in halving):
        least = _range(known, "smallest_gain_of_any_seeds")
        yield f"With any number of seeds {_clips(study, rows)} show no gains below {least}."
    else:
        low, high = int(min(halving)), max(halving)
        many = f"{low}" if high == low else f"{low} or more" if math.isinf(high) else f"{low} to {int(high)}"
        yield f"Intervals half as wide take {many} seeds."


def _range(rows: Sequence[Row], name: str) -> str:
    low, high = (f"{end(row[name] for row in rows):.3f}" for end in (min, max))
    return low if low == high else f"{low} to {high}"


def _clips(study: Study, rows: Sequence[Row]) -> str:
    split = next((e["splits"]["test"] for e in study.datasets if e["name"] == rows[0]["dataset"]), None)
    if split is None:
        return "these clips"
    if split["videos"]:
        return f"these {_count(split['clips'], 'clip')} of {_count(split['videos'], 'video')}"
    return f"these {_count(split['clips'], 'clip')}"


def _size(study: Study, rows: Sequence[Row]) -> str:
    counts = _count(rows[0]["strata"], "backbone"), _count(max(row["seeds"] for row in rows), "seed")
    return f"{', '.join(counts)}, {_clips(study, rows).removeprefix('these ')}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"

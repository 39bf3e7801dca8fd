"""Table 1: the data sets of a study."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from backbones.batch import MODALITIES
from harness.data.dataset import SPLITS
from harness.data.labels import interval
from harness.study.description import twins_sentence
from reports import commands
from reports.names import dataset_name
from reports.runs.study import Study
from reports.tables.seed_means import place
from reports.tables.table import DASH, Column, Part, Table, Value

NAME, TITLE = "table1_datasets", "Table 1: data sets"
NUMBERS = ("clips", "videos", "label_mean", "label_std", "negative", "neutral", "positive")
HEADS = {
    "dataset": "Dataset",
    "split": "Split",
    "clips": "Clips",
    "videos": "Videos",
    "label_mean": "Label mean",
    "label_std": "Label std",
    "negative": "Negative %",
    "neutral": "Neutral %",
    "positive": "Positive %",
}


def dataset_table(study: Study, order: Sequence[str] = ()) -> Table:
    """Build Table 1: a row per data set and split, and a row per data set and modality."""
    ordered = sorted(study.datasets, key=lambda entry: place(entry["name"], order))
    study = dataclasses.replace(study, datasets=ordered)
    title = TITLE + study.stand_in([entry["name"] for entry in study.datasets])
    splits = dataset_numbers(study)
    if splits.empty:
        return Table(
            NAME, title, [], ["There are no statistics of the data yet."], fill=commands.again(study)
        )
    columns = [Column(text, name not in ("dataset", "split")) for name, text in HEADS.items()]
    groups = [
        [[_value(name, row[name]) for name in HEADS] for row in part.to_dict("records")]
        for _, part in splits.groupby("dataset", sort=False)
    ]
    sources = [
        f"{dataset_name(entry['name'])}: {entry['source']}; labels in {_label_range(entry)}; "
        f"fingerprint {entry['fingerprint'][:16]}."
        for entry in study.datasets
    ]
    notes = [
        "Lengths: time steps in the training split; shorter sequences are zero-padded to the padded length.",
        "Videos: counted from the clips' ids; a dash: the ids do not name videos.",
        *sources,
        *(
            f"{dataset_name(e['name'])}: {note}"
            for e in study.datasets
            if not e["synthetic"]
            for note in e["notes"]
        ),
        *(twins_sentence(*pair) for pair in study.twins.items()),
    ]
    csv = splits.to_csv(index=False, lineterminator="\n")
    return Table(NAME, title, [Part(columns, groups), _shapes(study)], notes, csv)


def _label_range(entry: Mapping[str, Any]) -> str:
    # Entries of earlier versions have no center, and stand for 0.
    center, scale = entry.get("label_center", 0.0), entry["label_scale"]
    return interval(center - scale, center + scale)


def dataset_numbers(study: Study) -> pd.DataFrame:
    """Return one row per data set and split: counts, label statistics, and D_m, T_m, lengths per modality."""
    rows = [_row(entry, split) for entry in study.datasets for split in SPLITS]
    sizes = [f"{m}_{what}" for m in MODALITIES for what in ("width", "padded", "median", "p95")]
    return pd.DataFrame(rows, columns=["dataset", "split", *NUMBERS, *sizes])


def _row(entry: Mapping[str, Any], split: str) -> dict[str, Any]:
    figures = entry["splits"][split]
    row = {"dataset": entry["name"], "split": split, **{name: figures[name] for name in NUMBERS}}
    for m in MODALITIES:
        row[f"{m}_width"], row[f"{m}_padded"] = entry["widths"][m], entry["steps"][m]
        row |= {f"{m}_{name}": figures["lengths"][m][name] for name in ("median", "p95")}
    return row


def _value(name: str, value: Any) -> Value:
    if isinstance(value, str):
        return Value(dataset_name(value), order=dataset_name(value))
    if value is None or pd.isna(value):
        return Value(DASH)
    share = name in ("negative", "neutral", "positive")
    text = f"{100 * value:.1f}" if share else f"{value:.3f}" if name.startswith("label_") else f"{value:.0f}"
    return Value(text, order=float(value))


def _shapes(study: Study) -> Part:
    titles = ("Dataset", "Modality", "Width", "Padded length", "Median length", "95% length")
    columns = [Column(title, k > 1) for k, title in enumerate(titles)]
    return Part(columns, [[_shape(entry, m) for m in MODALITIES] for entry in study.datasets])


def _shape(entry: Mapping[str, Any], modality: str) -> list[Value]:
    lengths = entry["splits"]["train"]["lengths"][modality]
    sizes = (entry["widths"][modality], entry["steps"][modality], lengths["median"], lengths["p95"])
    names = [Value(text, order=text) for text in (dataset_name(entry["name"]), modality)]
    return [*names, *(Value(f"{x:g}", order=float(x)) for x in sizes)]

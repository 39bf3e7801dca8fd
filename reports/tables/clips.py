"""Table of the clips and videos that each method improves; its CSV has a row per clip and method."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from harness.data.dataset import videos_of
from reports import commands
from reports.names import dataset_name, method_name, signed
from reports.runs.study import Study
from reports.stats.kinds import BY_CLIP, gains_by_clip
from reports.tables.seed_means import place
from reports.tables.table import DASH, Column, Part, Table, Value

NAME, TITLE = "clips", "Clips that each method improves"
HEADS = ("Dataset", "Method", "Gain", "Clips better %", "Clips", "Videos better %", "Videos", "n")
TEXTS = 2  # columns of text before the numbers
COLUMNS = ("dataset", "method", "video", "text_length", *BY_CLIP[1:])
MISSING = "No method shares seed, backbone and data set with a run of none where both have predictions."
NOTES = (
    "Gain in MAE over none, in units of the labels: mean over clips of the mean over backbones of the mean "
    "difference over seeds. Better: clips, and videos that clips are cut from, with a mean gain above 0. "
    "Without any effect, half of them would be.",
    "n: pairs of runs. The CSV has a row per clip and method; better counts the pairs in which the method's "
    "error on the clip is lower. A single clip is mostly noise: a verdict needs kinds of clips (Figure 10).",
)


def clip_table(study: Study, order: Sequence[str] = ()) -> Table:
    """Build the table with a row per data set and method, and the CSV with one per clip."""
    numbers, title = clip_numbers(study, order), TITLE + study.stand_in(list(study.clip_pairs))
    if numbers.empty:
        return Table(NAME, title, [], [MISSING], fill=commands.compared(study))
    csv = numbers.to_csv(index=False, lineterminator="\n", float_format="%.6g")
    return Table(NAME, title, [by_method(study, numbers, HEADS, _row)], NOTES, csv)


def by_method(
    study: Study,
    numbers: pd.DataFrame,
    heads: Sequence[str],
    row_of: Callable[[str, str, pd.DataFrame, str], list[Value]],
) -> Part:
    """Build a row per data set and method, a group per data set.

    numbers: in the table's order. heads: of columns; the first two are texts. row_of: builds a row from data
    set, method, their numbers and the link to their runs.
    """
    columns = [Column(head, k >= TEXTS) for k, head in enumerate(heads)]
    groups: dict[str, list[list[Value]]] = {}
    for (dataset, method), rows in numbers.groupby(["dataset", "method"], sort=False):
        link = study.links.behind({"dataset": dataset, "method": method})
        groups.setdefault(str(dataset), []).append(row_of(str(dataset), str(method), rows, link))
    return Part(columns, list(groups.values()))


def clip_numbers(study: Study, order: Sequence[str] = ()) -> pd.DataFrame:
    """Return a row per data set, method and test clip, in the table's order, with the columns ``COLUMNS``.

    ``video`` is empty where ids name no videos, ``text_length`` where it is unknown.
    """
    parts = [pd.DataFrame(columns=list(COLUMNS))]
    for dataset in sorted(study.clip_pairs, key=lambda name: place(name, order)):
        clips, pairs = study.clip_pairs[dataset]
        videos, lengths = videos_of(clips.ids), study.text_lengths(dataset, clips.ids)
        rows = gains_by_clip(pairs, clips)
        methods = len(rows) // max(1, len(clips.ids))
        rows["video"] = "" if videos is None else np.tile(videos, methods)
        rows["text_length"] = np.nan if lengths is None else np.tile(lengths, methods)
        ranked = sorted(set(rows["method"]), key=lambda name: place(name, order))
        rows = rows.assign(dataset=dataset, place=rows["method"].map(ranked.index))
        parts.append(rows.sort_values("place", kind="stable")[list(COLUMNS)])
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)


def _row(dataset: str, method: str, rows: pd.DataFrame, link: str) -> list[Value]:
    videos = rows.groupby("video")["gain"].mean() if rows["video"].iloc[0] else rows["gain"][:0]
    gain, count = float(rows["gain"].mean()), int(rows["n"].iloc[0])
    return [
        Value(dataset_name(dataset), order=dataset_name(dataset)),
        Value(method_name(method), order=method_name(method)),
        Value(signed(gain), order=gain, link=link),
        *_share(rows["gain"]),
        *_share(videos),
        Value(str(count), order=float(count), link=link),
    ]


def _share(gains: pd.Series) -> list[Value]:
    """Return the percentage of gains above 0, and their number; dashes if there are none."""
    if gains.empty:
        return [Value(DASH), Value(DASH)]
    share = 100 * float((gains > 0).mean())
    return [Value(f"{share:.1f}", order=share), Value(str(len(gains)), order=float(len(gains)))]

"""Table of the videos, mostly of one speaker, that each method improves; its CSV has a row per video."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from harness.data.dataset import videos_of
from reports import commands
from reports.names import dataset_name, method_name, signed
from reports.runs.study import Study
from reports.stats.kinds import BY_VIDEO, gains_by_video
from reports.tables.clips import by_method
from reports.tables.seed_means import place
from reports.tables.table import DASH, Table, Value

NAME, TITLE = "videos", "Videos (speakers) that each method improves"
HEADS = ("Dataset", "Method", "Videos", "Better", "Worse", "By chance", "Smallest gain", "Largest gain", "n")
COLUMNS = ("dataset", *BY_VIDEO)
MISSING = "No data set whose ids name videos has runs with predictions of both a method and none."
NOTES = (
    "Gain in MAE over none on the clips of a video, in units of the labels: mean over backbones of the mean "
    "difference over seeds. Better, worse: videos whose 95% interval over seeds (Student's t, for these "
    "clips) excludes 0. By chance: how many of both together to expect if the method changed nothing.",
    "A video shows one speaker, in most data sets. n: pairs of runs. The CSV has a row per video and method. "
    "Smallest and largest gain of many videos are far from 0 by chance, too.",
)


def video_table(study: Study, order: Sequence[str] = ()) -> Table:
    """Build the table with a row per data set and method, and the CSV with one per video."""
    numbers = video_numbers(study, order)
    title = TITLE + study.stand_in(list(dict.fromkeys(numbers["dataset"])))
    if numbers.empty:
        return Table(NAME, title, [], [MISSING], fill=commands.compared(study))
    csv = numbers.to_csv(index=False, lineterminator="\n", float_format="%.6g")
    return Table(NAME, title, [by_method(study, numbers, HEADS, _row)], NOTES, csv)


def video_numbers(study: Study, order: Sequence[str] = ()) -> pd.DataFrame:
    """Return a row per data set, method and video, in the table's order, with the columns ``COLUMNS``.

    Data sets whose ids name no videos are left out.
    """
    parts = [pd.DataFrame(columns=list(COLUMNS))]
    for dataset in sorted(study.clip_pairs, key=lambda name: place(name, order)):
        clips, pairs = study.clip_pairs[dataset]
        names = videos_of(clips.ids)
        if names is None or not clips.by_video:
            continue
        rows = gains_by_video(pairs, clips)
        first = np.unique(clips.videos, return_index=True)[1]
        ranked = sorted(set(rows["method"]), key=lambda name: place(name, order))
        rows = rows.assign(dataset=dataset, place=rows["method"].map(ranked.index))
        rows["video"] = np.asarray(names)[first][rows["video"].to_numpy(int)]
        parts.append(rows.sort_values("place", kind="stable")[list(COLUMNS)])
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)


def _row(dataset: str, method: str, rows: pd.DataFrame, link: str) -> list[Value]:
    tested = int(rows["low_seeds"].notna().sum())
    counts = (rows["low_seeds"] > 0).sum(), (rows["high_seeds"] < 0).sum()
    decided = [_number(f"{count:.3g}", count, link) for count in (*counts, 0.05 * tested)]
    ends = float(rows["gain"].min()), float(rows["gain"].max())
    return [
        Value(dataset_name(dataset), order=dataset_name(dataset)),
        Value(method_name(method), order=method_name(method)),
        _number(str(len(rows)), len(rows), link),
        *(decided if tested else [Value(DASH)] * 3),
        *(_number(signed(gain), gain, link) for gain in ends),
        _number(str(int(rows["n"].iloc[0])), float(rows["n"].iloc[0]), link),
    ]


def _number(text: str, order: float, link: str) -> Value:
    return Value(text, order=float(order), link=link)

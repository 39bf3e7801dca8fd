"""Score tables: means over seeds formatted as `reports.tables.table.Table`.

Accuracies and F1 are in percent. Marks show the best and second-best method of each group, and methods that
differ from `none` by more than the noise between seeds. The CSV of a table holds the raw numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from harness.config.tuned import tuned_label
from harness.metrics import DIRECTION, METRICS
from methods import METHODS
from reports.names import METRIC_NAMES, base_method, proper_name
from reports.runs.frame import is_ablation
from reports.runs.study import Study
from reports.stats.comparison import BASELINE
from reports.tables.published import SOURCE, published_numbers
from reports.tables.seed_means import CONDITIONS
from reports.tables.table import BEST, DASH, OTHER, SECOND, Column, Part, Table, Value

RAW = ("loss", *METRICS["score"])
HEADS = {
    "dataset": "Dataset",
    "backbone": "Backbone",
    "occlusion_protocol": "Occlusion in",
    "occlusion_ratio": "Ratio",
    "method": "Method",
}
SIGNS = {"better": " ⁺", "worse": " ⁻", "equal": " ⁼"}
Row = dict[Any, Any]


def score_table(numbers: pd.DataFrame, name: str, title: str, study: Study, fill: str = "") -> Table:
    """Build a table of scores with one part per data set.

    numbers: see `reports.tables.seed_means.main_numbers`. title: the title without the suffix about synthetic
    data. fill: the command that produces results if there are none.
    """
    published = numbers[:0] if set(CONDITIONS) <= set(numbers.columns) else published_numbers(numbers, study)
    rows = _with_published(numbers, published)
    parts = [
        _part(part, study, title + study.stand_in([str(dataset)]))
        for dataset, part in rows.groupby("dataset", sort=False)
    ]
    full = title + study.stand_in(list(dict.fromkeys(numbers["dataset"])))
    csv = rows.to_csv(index=False, lineterminator="\n")
    return Table(name, full, parts, _notes(rows, study), csv, fill if numbers.empty else "")


def no_cells(study: Study) -> str:
    """Return the note of a table that has no rows."""
    if study.frame.empty:
        return "There are no complete cells yet."
    return "No complete cell of the study belongs in this table."


def heading(metric: str) -> str:
    """Return a metric's name with an arrow for its better direction: ``MAE ↓``."""
    return f"{METRIC_NAMES.get(metric, metric)} {'↑' if DIRECTION.get(metric, 1) > 0 else '↓'}"


def format_score(value: float, metric: str) -> str:
    """Format a mean or spread: accuracies and F1 in percent, a dash for NaN."""
    if math.isnan(value):
        return DASH
    return f"{value:.3f}" if metric in RAW else f"{100 * value:.2f}"


def _with_published(numbers: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Insert the published numbers of each backbone after its row of `none`."""
    numbers = numbers.assign(published=False)
    if published.empty:
        return numbers
    numbers = numbers.assign(place=range(len(numbers)))
    last = numbers[numbers["method"] == BASELINE].groupby(["dataset", "backbone"])["place"].max()
    after = [last[pair] + 0.5 for pair in zip(published["dataset"], published["backbone"], strict=True)]
    joined = pd.concat([numbers, published.assign(place=after)])
    rows = joined.sort_values("place", kind="stable", ignore_index=True).drop(columns="place")
    rows.attrs = numbers.attrs
    return rows


def _part(part: pd.DataFrame, study: Study, title: str) -> Part:
    keys = [name for name in HEADS if name in part.columns]
    metrics = METRICS[part["kind"].iloc[0]]
    columns = [Column(HEADS[key], key == "occlusion_ratio") for key in keys]
    columns += [Column("n", True), *(Column(heading(metric), True) for metric in metrics)]
    rows = part.to_dict("records")
    groups = [_rows(group, keys, study) for group in _grouped(rows, keys[:-1]).values()]
    return Part(columns, groups, title)


def _grouped(rows: Sequence[Row], keys: Sequence[str]) -> dict[tuple[Any, ...], list[Row]]:
    """Group rows by the values of their keys, in order of first occurrence."""
    # pandas takes seconds for thousands of small groups.
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def _rows(group: Sequence[Row], keys: list[str], study: Study) -> list[list[Value]]:
    ranks = {metric: _ranks(rows, metric) for (metric,), rows in _grouped(group, ["metric"]).items()}
    rows = []
    for key, figures in _grouped(group, keys).items():
        most = max(row["n"] + row["undefined"] for row in figures)
        repeated = "‡" * any(row["n"] + row["undefined"] > row["seeds"] for row in figures)
        link = study.links.behind(dict(zip(keys, key, strict=True))) if most else ""
        count = DASH if figures[0]["published"] else f"{most}{repeated}"
        values = [
            Value(
                _cell(row),
                ranks[row["metric"]].get(row["method"], OTHER),
                None if math.isnan(row["mean"]) else row["mean"],
                link,
            )
            for row in figures
        ]
        rows.append([*map(_name, key), Value(count, order=float(most), link=link), *values])
    return rows


def _name(name: Any) -> Value:
    if isinstance(name, float):
        return Value(f"{name:g}", order=name)
    return Value(proper_name(str(name)), order=proper_name(str(name)))


def _ranks(figures: Sequence[Row], metric: str) -> dict[str, int]:
    """Return method -> BEST or SECOND, by the displayed value, so that equal texts have equal marks.

    The best is BEST where it is better than `none` beyond noise, else SECOND like the second-best.
    """
    # Rank only complete means: without its failed seeds, a method's mean could be too good.
    most = max(row["n"] for row in figures)
    ranked = [row for row in figures if row["n"] == most > 0 and not row["undefined"]]
    if len(ranked) < 2:
        return {}
    values = [DIRECTION[metric] * float(format_score(row["mean"], metric)) for row in ranked]
    first, *_ = shown = sorted(set(values), reverse=True)[:2]
    return {
        row["method"]: BEST if value == first and row["verdict"] == "better" else SECOND
        for row, value in zip(ranked, values, strict=True)
        if value in shown
    }


def _cell(row: Row) -> str:
    """Format mean ± std of one row with its mark against `none`; a dash if there is no result."""
    mean, std = (format_score(row[name], row["metric"]) for name in ("mean", "std"))
    text = mean if row["published"] else f"{mean} ± {std}" if row["n"] else DASH
    text += SIGNS.get(row["verdict"], "")
    return f"{text} †{row['undefined']}/{row['n'] + row['undefined']}" if row["undefined"] else text


def _notes(numbers: pd.DataFrame, study: Study) -> list[str]:
    """Return the notes that apply to these numbers."""
    if numbers.empty and numbers.attrs.get("sweeps"):
        return ["The only complete cells are those of sweeps; see sweep_*.md."]
    if numbers.empty:
        return [no_cells(study)]
    own = numbers[~numbers["published"]]
    return [*_reading(own), *_completeness(own), *_comparing(own), *_about_tuned(own), *_sources(numbers)]


def _reading(numbers: pd.DataFrame) -> Iterator[str]:
    yield "Test split; mean ± standard deviation over n seeds; accuracies and F1 in percent."
    yield "↑ higher is better, ↓ lower is better."
    if numbers["method"].nunique() > 1:
        yield (
            "Underlined: best and second-best mean of a group, among rows with all seeds; the difference may "
            "be chance. Bold: the best mean, where it is also better than none beyond noise."
        )


def _completeness(numbers: pd.DataFrame) -> Iterator[str]:
    counts, superseded = numbers["n"] + numbers["undefined"], numbers.attrs.get("superseded", 0)
    if (numbers["n"] == 1).any():
        yield f"With one seed no spread can be given: ± {DASH}."
    if numbers["undefined"].any():
        yield "†k/n: undefined for k of n seeds, left out of the mean and not ranked."
    if (counts > numbers["seeds"]).any():
        yield "‡ some seeds count repeatedly, with settings that this table does not distinguish."
    if (counts == 0).any():
        yield f"{DASH} alone: no complete cell."
    if superseded:
        others = f"{superseded} cells with other backbone or training settings, or with other ratios"
        yield f"{others}, are left out: only the latest request counts."


def _comparing(numbers: pd.DataFrame) -> list[str]:
    """Return notes on the marks against `none`, or why there are no marks."""
    others = numbers[numbers["method"] != BASELINE]
    if others.empty or BASELINE not in set(numbers["method"]):
        return []
    if numbers["n"].max() < 3:
        return ["There are no marks against none, because they need at least three seeds."]
    texts = [
        "⁺ better, ⁻ worse than none: the 95% interval of the paired difference for other seeds and other "
        "clips excludes 0. If no method has an effect, one comparison in twenty is still marked."
    ]
    if (others["verdict"] == "equal").any():
        texts.append("⁼ equal to none: the interval lies within the margin of report.equal_within.")
    return texts


def _about_tuned(numbers: pd.DataFrame) -> Iterator[str]:
    mark, outdated = tuned_label(""), numbers.attrs.get("outdated", 0)
    tuned = numbers["method"].str.endswith(mark)
    if tuned.any():
        yield (
            f"{mark}: settings chosen on the validation split for each data set and backbone; the runs' "
            "parameters list them, and the files under tuned=DIR list the budgets. A search tunes a method's "
            "own settings (for none: learning rate and dropout); its seeds may be among the evaluated ones."
        )
    if outdated:
        cells = f"{outdated} {'cells' if outdated > 1 else 'cell'}"
        yield f"{mark} uses only the newest file; left out: {cells} with settings of earlier files."
    if tuned.any() and not tuned.all():
        yield f"Rows without {mark} were not tuned: gains over them may be due to tuning."


def _sources(numbers: pd.DataFrame) -> Iterator[str]:
    if any(is_ablation(name) for name in numbers["method"]):
        yield "In square brackets: the components that are on; without brackets all are on, with [] none."
    bases = dict.fromkeys(base_method(name) for name in numbers["method"])
    titles = [METHODS[name].title for name in bases if name in METHODS]
    titles = [title for title in titles if "reconstruction" in title]
    if titles:
        yield f"{', '.join(titles)}: the authors released no code."
    if numbers["published"].any():
        yield f"Published: {SOURCE}; its data and choice of epochs differ from ours, as may its settings."
        if "misa" in set(numbers[numbers["published"]]["backbone"]):
            yield (
                "MISA's published results are those of a fine-tuned BERT, but ours have fixed text features; "
                "text=bert fine-tunes it with the published settings."
            )

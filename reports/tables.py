"""Result tables: the tidy frame -> one plain frame of numbers -> CSV, Markdown, LaTeX.

`main_numbers` and `occlusion_numbers` compute, the three writers only show. The CSV holds the raw numbers;
the other two show accuracies and F1 in percent and mark the best and second-best method of each group.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import pandas as pd

from harness.matrix import method_label
from harness.metrics import DIRECTION, METRICS
from harness.tuned import tuned_label
from methods import METHODS
from reports.markup import LATEX, MARKDOWN, Dialect
from reports.stats import check_frame, summarise

_CONDITIONS = ("occlusion_protocol", "occlusion_ratio")
_FIGURES = ("mean", "std", "n", "undefined", "seeds")
_DASH = "\u2013"
_LABELS = {
    "acc2_has0": "Acc-2 has-0",
    "f1_has0": "F1 has-0",
    "acc2_non0": "Acc-2 non-0",
    "f1_non0": "F1 non-0",
    "acc2": "Acc-2",
    "acc3": "Acc-3",
    "acc5": "Acc-5",
    "acc7": "Acc-7",
    "f1": "F1",
    "mae": "MAE",
    "corr": "Corr",
}
_RAW = ("mae", "corr")
_HEADS = {
    "dataset": "Dataset",
    "backbone": "Backbone",
    "occlusion_protocol": "Occlusion in",
    "occlusion_ratio": "Ratio",
    "method": "Method",
}
_SYNTHETIC = "synthetic stand-in data"


def main_numbers(frame: pd.DataFrame, kind_of: Mapping[str, str], order: Sequence[str] = ()) -> pd.DataFrame:
    """Test scores of clean input, over seeds.

    Args:
        frame: the tidy frame (see `reports.stats`) of one study.
        kind_of: data set -> kind of metrics, a key of ``harness.metrics.METRICS``.
        order: names of data sets, backbones and methods that come first, in this order; the others follow
            alphabetically, ``none`` ahead of the other methods and variants after their method.

    Returns:
        One row per (data set, backbone, method, metric) in the order of the table, with the columns
        ``dataset, backbone, method, kind, metric, mean, std, n, undefined, seeds``. A variant of a method is
        named like ``ms_mix{delta:0.4}``; what a column ``tuned`` marks is named ``ms_mix{tuned}``, whatever
        its settings (and once more after these, if it is the method alone that was tuned and others have the
        same), unless a column ``outdated`` marks it, too: ``attrs`` counts these cells. ``n`` values are
        defined and enter the mean, ``undefined`` are NaN, ``seeds`` is how many seeds gave them. A
        combination without results has 0 in all three.

    Raises:
        ValueError: if columns are missing, or ``kind_of`` lacks a data set or names an unknown kind.
    """
    check_frame(frame)
    clean = frame[(frame["occlusion_protocol"] == "test") & (frame["occlusion_ratio"] == 0)]
    return _numbers(clean, (), kind_of, order)


def occlusion_numbers(
    frame: pd.DataFrame, kind_of: Mapping[str, str], order: Sequence[str] = ()
) -> pd.DataFrame:
    """Like `main_numbers` for every occlusion protocol and ratio, two more columns of the result."""
    check_frame(frame)
    return _numbers(frame, _CONDITIONS, kind_of, order)


def to_csv(numbers: pd.DataFrame) -> str:
    """Write raw numbers at full precision, an empty field where a number does not exist."""
    return numbers.to_csv(index=False, lineterminator="\n")


def to_markdown(numbers: pd.DataFrame, title: str) -> str:
    """Write a heading, one table per data set, and the notes that explain its marks."""
    parts = [f"### {MARKDOWN.escape(_full_title(numbers, title))}"]
    for _, part in numbers.groupby("dataset", sort=False):
        header, groups = _header(part, MARKDOWN), _groups(part, MARKDOWN)
        names = header.index("n")
        rule = ["---"] * names + ["---:"] * (len(header) - names)
        rows = [header, rule, *(row for group in groups for row in group)]
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
    parts.append("\n".join(f"- {note}" for note in _notes(numbers, MARKDOWN)))
    return "\n\n".join(parts) + "\n"


def to_latex(numbers: pd.DataFrame, title: str) -> str:
    """Write one ``table*`` (package booktabs) per data set; its caption is the title and the notes."""
    parts = [part for _, part in numbers.groupby("dataset", sort=False)] or [numbers]
    return "% needs \\usepackage{booktabs}\n" + "\n".join(_latex_table(part, title) for part in parts)


def method_name(method: str, settings: str) -> str:
    """The name of a method or variant, as one writes it on the command line. settings: JSON."""
    components = METHODS[method].Settings.components if method in METHODS else ()
    return method_label(method, json.loads(settings), components)


def _numbers(
    frame: pd.DataFrame, conditions: tuple[str, ...], kind_of: Mapping[str, str], order: Sequence[str]
) -> pd.DataFrame:
    tests = frame[frame["split"] == "test"]
    outdated = tests.loc[_outdated(tests), "cell_id"].nunique()
    tests = _named(tests)
    keys = ["dataset", "backbone", *conditions, "method"]
    groups = dict(iter(tests.groupby([*keys, "metric"])))
    rows = []
    for key in _grid(tests, conditions, order):
        kind = _kind(key[0], kind_of)
        for metric in METRICS[kind]:
            rows.append((*key, kind, metric, *_figures(groups.get((*key, metric)))))
    numbers = pd.DataFrame(rows, columns=[*keys, "kind", "metric", *_FIGURES])
    numbers.attrs = {"sweeps": frame.attrs.get("sweeps", False), "outdated": outdated}
    return numbers


def _outdated(tests: pd.DataFrame) -> pd.Series:
    return tests["outdated"].astype(bool) if "outdated" in tests.columns else tests["seed"].isna()


def _named(tests: pd.DataFrame) -> pd.DataFrame:
    """The rows with the name of the table's row as their method."""
    pairs = zip(tests["method"], tests["settings"], strict=True)
    plain = tests.assign(method=[method_name(*pair) for pair in pairs])
    if "tuned" not in tests.columns:
        return plain
    tuned = tests["tuned"].astype(bool)
    named = plain.assign(method=plain["method"].where(~tuned, [tuned_label(m) for m in tests["method"]]))
    # A search may end at settings that have a row of their own, which would show a hole there.
    own_row = plain["method"].isin(set(plain["method"][~tuned])) & ~tests["tuned_backbone"].astype(bool)
    return pd.concat([named[~_outdated(tests)], plain[tuned & own_row]])


def _grid(tests: pd.DataFrame, conditions: tuple[str, ...], order: Sequence[str]) -> Iterator[tuple]:
    """Every combination of what was seen, in the order of the table, so that holes show."""
    datasets, backbones, methods = (
        sorted(tests[column].unique(), key=lambda name: _place(name, order))
        for column in ("dataset", "backbone", "method")
    )
    seen = sorted(set(tests[list(conditions)].itertuples(index=False, name=None))) if conditions else [()]
    for dataset, backbone, condition, method in product(datasets, backbones, seen, methods):
        yield (dataset, backbone, *condition, method)


def _place(name: str, order: Sequence[str]) -> tuple:
    """Sort key: the given order, then ``none``, then the alphabet; a variant stands after its method."""
    base = name.partition("{")[0]
    listed = name if name in order else base
    return (order.index(listed) if listed in order else len(order), base != "none", base, name)


def _kind(dataset: str, kind_of: Mapping[str, str]) -> str:
    kind = kind_of.get(dataset)
    if kind not in METRICS:
        raise ValueError(f"data set {dataset!r} must have a kind among {', '.join(METRICS)}, however: {kind}")
    return kind


def _figures(group: pd.DataFrame | None) -> tuple[float, float, int, int, int]:
    if group is None:
        return math.nan, math.nan, 0, 0, 0
    summary = summarise(group["value"].to_numpy())
    return summary.mean, summary.std, summary.n, summary.n_undefined, group["seed"].nunique()


def _full_title(numbers: pd.DataFrame, title: str) -> str:
    synthetic = {name.startswith("synthetic_") for name in numbers["dataset"]}
    if True not in synthetic or _SYNTHETIC in title:
        return title
    return f"{title} ({_SYNTHETIC})" if synthetic == {True} else f"{title} (includes {_SYNTHETIC})"


def _latex_table(part: pd.DataFrame, title: str) -> str:
    caption = [LATEX.escape(_full_title(part, title)) + ".", *_notes(part, LATEX)]
    lines = ["\\begin{table*}", "\\centering", "\\caption{" + "\n".join(caption) + "}"]
    if len(part):
        header = _header(part, LATEX)
        names = header.index("n")
        columns = "l" * names + "r" * (len(header) - names)
        bodies = ["\n".join(map(_latex_row, group)) for group in _groups(part, LATEX)]
        lines += ["\\scriptsize", "\\setlength{\\tabcolsep}{2pt}", f"\\begin{{tabular}}{{{columns}}}"]
        lines += ["\\toprule", _latex_row(header), "\\midrule", "\n\\addlinespace\n".join(bodies)]
        lines += ["\\bottomrule", "\\end{tabular}"]
    return "\n".join([*lines, "\\end{table*}"]) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _keys(part: pd.DataFrame) -> list[str]:
    return [name for name in _HEADS if name in part.columns]


def _header(part: pd.DataFrame, dialect: Dialect) -> list[str]:
    metrics = METRICS[part["kind"].iloc[0]]
    heads = (f"{_LABELS[name]} {'↑' if DIRECTION[name] > 0 else '↓'}" for name in metrics)
    return [*(_HEADS[key] for key in _keys(part)), "n", *map(dialect.signs, heads)]


def _groups(part: pd.DataFrame, dialect: Dialect) -> list[list[list[str]]]:
    """Rows of cells, in groups; methods are compared inside a group."""
    keys = _keys(part)
    return [_rows(group, keys, dialect) for _, group in part.groupby(keys[:-1], sort=False)]


def _rows(group: pd.DataFrame, keys: list[str], dialect: Dialect) -> list[list[str]]:
    ranks = {metric: _ranks(figures, str(metric)) for metric, figures in group.groupby("metric")}
    rows = []
    for key, figures in group.groupby(keys, sort=False):
        counts = figures["n"] + figures["undefined"]
        repeated = "‡" if (counts > figures["seeds"]).any() else ""
        names = [dialect.escape(f"{name:g}" if isinstance(name, float) else str(name)) for name in key]
        cells = []
        for row in figures.to_dict("records"):
            template = dialect.emphasis[ranks[row["metric"]].get(row["method"], -1)]
            cells.append(template.format(dialect.signs(_cell(row))))
        rows.append([*names, dialect.signs(f"{counts.max()}{repeated}"), *cells])
    return rows


def _ranks(figures: pd.DataFrame, metric: str) -> dict[str, int]:
    """Method -> 0 (best) or 1 (second), by the value as shown: what reads equal is marked equal."""
    # A mean over only those seeds that did not fail would win by its failures.
    ranked = figures[(figures["n"] > 0) & (figures["undefined"] == 0)]
    if len(ranked) < 2:
        return {}
    values = [DIRECTION[metric] * float(_shown(mean, metric)) for mean in ranked["mean"]]
    places = {value: place for place, value in enumerate(sorted(set(values), reverse=True)[:2])}
    pairs = zip(ranked["method"], values, strict=True)
    return {method: places[value] for method, value in pairs if value in places}


def _cell(row: Mapping[Any, Any]) -> str:
    """Mean ± std of one row of the numbers; a dash where there is none."""
    mean, std = (_shown(row[name], row["metric"]) for name in ("mean", "std"))
    text = f"{mean} ± {std}" if row["n"] else _DASH
    return f"{text} †{row['undefined']}/{row['n'] + row['undefined']}" if row["undefined"] else text


def _shown(value: float, metric: str) -> str:
    if math.isnan(value):
        return _DASH
    return f"{value:.3f}" if metric in _RAW else f"{100 * value:.2f}"


def _notes(numbers: pd.DataFrame, dialect: Dialect) -> list[str]:
    """What the reader must know, only as far as it applies to these numbers."""
    outdated = numbers.attrs.get("outdated", 0)
    if numbers.empty and numbers.attrs.get("sweeps"):
        return [f"There are no complete cells but those of sweeps: see {dialect.escape('sweep_*.md')}."]
    if numbers.empty:
        return ["There are no complete cells yet."]
    counts = numbers["n"] + numbers["undefined"]
    tuned, mark = numbers["method"].str.endswith(tuned_label("")), dialect.escape(tuned_label(""))
    best, second = dialect.emphasis[0].format("best"), dialect.emphasis[1].format("second-best")
    notes = (
        (True, "Test split; mean ± standard deviation over n seeds; accuracies and F1 in percent."),
        (True, "↑ higher is better, ↓ lower is better."),
        (numbers["method"].nunique() > 1, f"Marked: {best} and {second} mean of a group; it may be chance."),
        ((numbers["n"] == 1).any(), f"With one seed no spread can be given: ± {_DASH}."),
        (
            numbers["undefined"].any(),
            "†k/n: undefined for k of n seeds, left out of the mean and not ranked.",
        ),
        (
            (counts > numbers["seeds"]).any(),
            "‡ some seeds count repeatedly, with other settings that this table does not show.",
        ),
        ((counts == 0).any(), f"{_DASH} alone: no complete cell."),
        (
            tuned.any(),
            f"{mark}: settings chosen on the validation split for each data set and backbone; "
            "the parameters of the runs hold them, and the files under tuned=DIR the budgets. A method's own "
            "settings are tuned, for none learning rate and dropout; the seeds of the search may be among "
            "those evaluated.",
        ),
        (
            outdated > 0,
            f"{mark} takes the newest file alone: {outdated} "
            f"{'cells' if outdated > 1 else 'cell'} of earlier ones left out.",
        ),
        (
            tuned.any() and not tuned.all(),
            f"Rows without {mark} had no such choice: a gain over them may be due to it.",
        ),
    )
    return [dialect.signs(note) for applies, note in notes if applies]

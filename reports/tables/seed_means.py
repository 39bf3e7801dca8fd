"""Means over seeds of the tidy frame's scores, with spread, counts and the comparison with `none`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd

from harness.metrics import METRICS
from reports.runs.frame import check_frame, is_ablation, named
from reports.stats.comparison import BASELINE, Clips, intervals, paired_everywhere

CONDITIONS = ("occlusion_protocol", "occlusion_ratio")


def main_numbers(
    frame: pd.DataFrame,
    kind_of: Mapping[str, str],
    order: Sequence[str] = (),
    clips: Clips | None = None,
    margins: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Average the test scores of clean input over seeds.

    Args:
        frame: the tidy frame (see `reports.runs.frame.load_frame`) of one study.
        kind_of: data set -> kind of metrics, a key of ``harness.metrics.METRICS``.
        order: names of data sets, backbones and methods that come first, in this order; other names follow
            alphabetically, ``none`` before other methods and variants after their method.
        clips: what predictions say of the test clips, see `reports.stats.comparison`. margins: metric ->
            gains that count as equal.

    Returns:
        One row per (data set, backbone, method, metric) in the order of the table, with the columns
        ``dataset, backbone, method, kind, metric, mean, std, n, undefined, seeds, verdict``. Methods have the
        names of `reports.runs.frame.named`; ``attrs["outdated"]`` and ``attrs["superseded"]`` count the cells
        left out. Ablations are left out, see `ablation_numbers`. The mean is over ``n`` defined values;
        ``undefined`` values are NaN; ``seeds`` counts distinct seeds. A combination without results has 0 in
        all three. ``verdict``: that of the comparison with `none`, "" for `none` itself.

    Raises:
        ValueError: if columns are missing, or ``kind_of`` lacks a data set or names an unknown kind.
    """
    return _numbers(_clean(frame), (), kind_of, order, clips, margins)


def occlusion_numbers(
    frame: pd.DataFrame,
    kind_of: Mapping[str, str],
    order: Sequence[str] = (),
    clips: Clips | None = None,
    margins: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Compute `main_numbers` for every occlusion protocol and ratio, which become two more columns."""
    check_frame(frame)
    return _numbers(frame, CONDITIONS, kind_of, order, clips, margins)


def ablation_numbers(
    frame: pd.DataFrame,
    kind_of: Mapping[str, str],
    order: Sequence[str] = (),
    clips: Clips | None = None,
    margins: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Compute `main_numbers` for ablations, their complete methods and `none`, where there are ablations."""
    clean = _clean(frame)
    tests = named(clean[clean["split"] == "test"])
    variants = tests[np.array([is_ablation(name) for name in tests["method"]], bool)]
    wholes = {BASELINE, *(name.partition("[")[0] for name in variants["method"])}
    pairs = set(zip(variants["dataset"], variants["backbone"], strict=True))
    numbers = _numbers(clean, (), kind_of, order, clips, margins, ablation=True)
    rows = zip(numbers["dataset"], numbers["backbone"], numbers["method"], strict=True)
    keep = [(d, b) in pairs and (m in wholes or is_ablation(m)) for d, b, m in rows]
    return numbers[np.array(keep, bool)].reset_index(drop=True)


def _clean(frame: pd.DataFrame) -> pd.DataFrame:
    check_frame(frame)
    return frame[(frame["occlusion_protocol"] == "test") & (frame["occlusion_ratio"] == 0)]


def _numbers(
    frame: pd.DataFrame,
    conditions: tuple[str, ...],
    kind_of: Mapping[str, str],
    order: Sequence[str],
    clips: Clips | None,
    margins: Mapping[str, float] | None,
    *,
    ablation: bool = False,
) -> pd.DataFrame:
    tests = frame[frame["split"] == "test"]
    outdated, replaced = (
        tests.loc[tests[name].astype(bool), "cell_id"].nunique() if name in tests else 0
        for name in ("outdated", "superseded")
    )
    tests = named(tests)
    if not ablation:
        tests = tests[np.array([not is_ablation(name) for name in tests["method"]], bool)]
    keys = ["dataset", "backbone", *conditions, "method"]
    rows = [
        (*key, kind, metric)
        for key in _grid(tests, conditions, order)
        for kind in [_kind(key[0], kind_of)]
        for metric in METRICS[kind]
    ]
    grid = pd.DataFrame(rows, columns=[*keys, "kind", "metric"])
    numbers = _joined(grid, _figures(tests, [*keys, "metric"]), [*keys, "metric"])
    numbers = _joined(numbers, _verdicts(tests, conditions, clips, margins), [*keys, "metric"])
    numbers[["n", "undefined", "seeds"]] = numbers[["n", "undefined", "seeds"]].fillna(0).astype(int)
    numbers["verdict"] = ["" if pd.isna(word) else str(word) for word in numbers["verdict"]]
    numbers = numbers.astype({name: str for name in ("dataset", "backbone", "method", "metric")})
    numbers.attrs = {
        "sweeps": frame.attrs.get("sweeps", False),
        "outdated": outdated,
        "superseded": replaced,
    }
    return numbers


def _joined(left: pd.DataFrame, right: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    if left.empty or right.empty:
        return left.assign(**{name: np.nan for name in right.columns if name not in keys})
    return left.merge(right, how="left", on=keys)


def _figures(tests: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Compute mean and standard deviation of the defined values of each group, and the counts."""
    defined = tests["value"].where(np.isfinite(tests["value"].astype(float)))
    # Fix the order, because the last bits of a sum depend on it.
    groups = tests.assign(value=defined.astype(float)).sort_values([*keys, "value"]).groupby(keys, sort=False)
    how = {"mean": "mean", "std": "std", "n": "count", "undefined": "size"}
    figures = groups.agg(**{name: ("value", f) for name, f in how.items()}, seeds=("seed", "nunique"))
    return figures.assign(undefined=figures["undefined"] - figures["n"]).reset_index()


def _verdicts(
    tests: pd.DataFrame,
    conditions: tuple[str, ...],
    clips: Clips | None,
    margins: Mapping[str, float] | None,
) -> pd.DataFrame:
    """Return the verdict of each group in the comparison with `none`."""
    columns = ["dataset", "backbone", *conditions, "metric", "method", "verdict"]
    return intervals(paired_everywhere(tests, clips=clips), clips, margins)[columns]


def _grid(tests: pd.DataFrame, conditions: tuple[str, ...], order: Sequence[str]) -> Iterator[tuple]:
    """Yield all combinations of data set, backbone, condition and method in the order of the table."""
    # Missing combinations become rows without results.
    datasets, backbones, methods = (
        sorted(tests[column].unique(), key=lambda name: place(name, order))
        for column in ("dataset", "backbone", "method")
    )
    seen = sorted(set(tests[list(conditions)].itertuples(index=False, name=None))) if conditions else [()]
    for dataset, backbone, condition, method in product(datasets, backbones, seen, methods):
        yield (dataset, backbone, *condition, method)


def place(name: str, order: Sequence[str]) -> tuple:
    """Return a sort key: the given order, then ``none``, then alphabetical; variants after their method."""
    base = name.partition("{")[0].partition("[")[0]
    listed = name if name in order else base
    components = name.partition("{")[0].partition("[")[2]
    # The complete method comes first, then ablations with more components before those with fewer.
    off = -components.count(",") - (len(components) > 1) if components else -99
    return (order.index(listed) if listed in order else len(order), base != BASELINE, base, off, name)


def _kind(dataset: str, kind_of: Mapping[str, str]) -> str:
    kind = kind_of.get(dataset)
    if kind not in METRICS:
        raise ValueError(f"data set {dataset!r} must have a kind among {', '.join(METRICS)}, got {kind}")
    return kind

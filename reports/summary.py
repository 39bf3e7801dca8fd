"""What a study says in a few sentences, and the table behind them: each method against `none`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from reports import compare
from reports.numbers import BASELINE, place
from reports.study import Study
from reports.table import BEST, OTHER, Column, Part, Table, Value
from reports.tables import LABELS

NAME, TITLE = "comparison", "Each method against none"
METRICS = ("mae", "corr")
PRIMARY = METRICS[0]
HEADS = (
    "Dataset",
    "Method",
    "Metric",
    "Gain",
    "95% interval",
    "p",
    "p (Holm)",
    "Better",
    "Worse",
    "Noise",
    "n",
)
DASH = "\u2013"
NOTES = (
    "Gain: mean over backbones of the mean paired difference to none over seeds, positive where better; MAE "
    "in units of the labels. Its interval is a stratified bootstrap over seeds.",
    "p: Wilcoxon signed-rank test over backbones; Holm: adjusted for the methods of a data set. Backbones "
    "share the data, so take it with care. It cannot fall below 0.05 with fewer than six backbones.",
    "Better, worse, noise: on how many backbones the 95% interval (t) of the paired difference over seeds "
    "leaves out 0 or not; from three seeds on.",
    "Bold: the interval leaves out 0.",
)


def compare_methods(study: Study) -> pd.DataFrame:
    """`compare.overall` per data set and method with the counts of `compare.wins`, for both ``METRICS``."""
    scores, parts = compare.clean(study.scores()), []
    for metric in METRICS:
        pairs = compare.paired(scores, metric, BASELINE)
        counts = compare.wins(compare.intervals(pairs))
        found = compare.overall(pairs).merge(counts, on=["dataset", "method"])
        parts.append(found.assign(metric=metric))
    return pd.concat(parts, ignore_index=True)


def comparison_table(study: Study, found: pd.DataFrame, order: Sequence[str] = ()) -> Table:
    """The table of `compare_methods`, one part for all data sets."""
    title = TITLE + study.stand_in(list(dict.fromkeys(found["dataset"])))
    if found.empty:
        notes = ["There is nothing to compare: that takes cells of none and of another method."]
        return Table(NAME, title, [], notes, fill="make benchmark")
    columns = [Column(head, k > 2) for k, head in enumerate(HEADS)]
    rows = sorted(found.to_dict("records"), key=lambda row: _place(row, order))
    groups: dict[tuple[str, str], list[list[Value]]] = {}
    for row in rows:
        link = study.links.behind({"dataset": row["dataset"], "method": row["method"]})
        groups.setdefault((row["dataset"], row["metric"]), []).append(_row(row, link))
    csv = pd.DataFrame(rows)[["dataset", "method", "metric", *_numbers(found)]]
    text = csv.to_csv(index=False, lineterminator="\n")
    return Table(NAME, title, [Part(columns, list(groups.values()))], NOTES, text)


def sentences(study: Study, found: pd.DataFrame) -> list[str]:
    """Which method wins where, and whether that is outside the noise."""
    said = [*_by_dataset(found[found["metric"] == PRIMARY]), *_ranking(study)]
    return said or ["There is nothing to compare yet: that takes cells of none and of another method."]


def _place(row: Mapping[Any, Any], order: Sequence[str]) -> tuple:
    metric = METRICS.index(row["metric"])
    return place(row["dataset"], order), metric, place(row["method"], order)


def _numbers(found: pd.DataFrame) -> list[str]:
    return [c for c in found.columns if c not in ("dataset", "method", "metric")]


def _row(row: Mapping[Any, Any], link: str) -> list[Value]:
    names = [Value(str(text), order=str(text)) for text in (row["dataset"], row["method"])]
    metric = Value(LABELS[row["metric"]], order=row["metric"])
    gain = Value(f"{row['gain']:+.3f}", BEST if row["outside"] else OTHER, row["gain"], link)
    undefined = math.isnan(row["low"])
    interval = (
        Value(DASH) if undefined else Value(f"{row['low']:+.3f} to {row['high']:+.3f}", order=row["low"])
    )
    tests = [
        Value(_p(row[name]), order=None if math.isnan(row[name]) else row[name]) for name in ("p", "p_holm")
    ]
    tested = row["better"] + row["worse"] + row["inside"]
    counts = [
        Value(str(row[name]), order=float(row[name])) if tested else Value(DASH)
        for name in ("better", "worse", "inside")
    ]
    return [
        *names,
        metric,
        gain,
        interval,
        *tests,
        *counts,
        Value(str(row["n"]), order=float(row["n"]), link=link),
    ]


def _p(value: float) -> str:
    return DASH if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.2g}"


def _by_dataset(found: pd.DataFrame) -> Iterator[str]:
    for dataset, part in found.groupby("dataset", sort=True):
        ranked = part.sort_values(["gain", "method"], ascending=[False, True])
        best, *others = ranked.to_dict("records")
        yield f"{dataset}: {_finding(best)} {_others(others)}".rstrip()


def _finding(best: Mapping[Any, Any]) -> str:
    seeds, strata = int(best["seeds"]), int(best["strata"])
    counts = f"{strata} backbone{'s' * (strata != 1)}, {seeds} seed{'s' * (seeds != 1)}"
    head = f"{best['method']} has the largest mean gain in test MAE over none"
    if best["gain"] <= 0:
        head = f"no method has a lower mean test MAE than none; {best['method']} comes closest"
    if math.isnan(best["low"]):
        why = "with one seed no uncertainty can be given" if seeds == 1 else "no uncertainty can be given"
        return f"{head} ({best['gain']:+.3f}; {counts}); {why}."
    where = {"better": "outside the noise", "worse": "worse beyond the noise", "": "inside the noise"}
    interval = f"95% interval {best['low']:+.3f} to {best['high']:+.3f}"
    verdict = where[best["outside"]] + _corrected(best)
    finding = f"{head} ({best['gain']:+.3f}, {interval}; {counts}): {verdict}."
    if not best["better"] + best["worse"] + best["inside"]:
        return finding
    single = f"better on {best['better']}, worse on {best['worse']}, inside the noise on {best['inside']}"
    return f"{finding} On single backbones it is {single}."


def _corrected(row: Mapping[Any, Any]) -> str:
    """What Holm's correction for the number of methods says of an interval that leaves out 0."""
    if not row["outside"] or math.isnan(row["p_holm"]):
        return ""
    kept = "also" if row["p_holm"] <= compare.LEVEL else "but not"
    return f", {kept} after Holm's correction (p = {_p(row['p_holm'])})"


def _others(rows: Sequence[Mapping[Any, Any]]) -> str:
    """The other methods whose intervals leave out 0."""
    heads = {"better": "Also better beyond the noise", "worse": "Worse than none beyond the noise"}
    lists = {head: [row for row in rows if row["outside"] == mark] for mark, head in heads.items()}
    return " ".join(
        f"{head}: {'; '.join(row['method'] + _corrected(row) for row in found)}."
        for head, found in lists.items()
        if found
    )


def _ranking(study: Study) -> Iterator[str]:
    found = compare.ranks(compare.clean(study.scores()), PRIMARY)
    if len(found.methods) < 2 or not found.blocks:
        return
    blocks = f"{found.blocks} combination{'s' * (found.blocks != 1)} of data set and backbone"
    order = ", ".join(f"{m} {r:.2f}" for m, r in zip(found.methods, found.average, strict=True))
    if math.isnan(found.p):
        yield f"Average ranks on test MAE over {blocks}: {order}; too few results to test them."
        return
    same = next((group for group in found.cliques if found.methods[0] in group), ())
    if found.p > compare.LEVEL:
        verdict = "the ranks do not differ beyond chance"
    else:
        others = [m for m in same if m != found.methods[0]]
        verdict = f"not told apart from the first by Nemenyi's test: {', '.join(others) or 'no other'}"
    test = f"Friedman's test: p = {_p(found.p)}; {verdict}."
    yield f"Average ranks on test MAE over {blocks} (1 is best): {order}. {test}"

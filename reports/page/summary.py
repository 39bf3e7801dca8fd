"""Summary of a study: the comparison of each method with a baseline, in a table and a few sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from harness.files import safe_name
from reports import commands
from reports.names import METRIC_NAMES, method_name, proper_name, signed
from reports.page.verdicts import by_dataset, p_text
from reports.runs.study import Study
from reports.stats import comparison
from reports.stats.comparison import BASELINE, VERDICTS
from reports.stats.permutation import LEVEL
from reports.stats.ranking import ranks
from reports.tables.seed_means import place
from reports.tables.table import BEST, OTHER, Column, Part, Table, Value

METRICS = ("mae", "corr")
PRIMARY = METRICS[0]
HEADS = (
    *("Dataset", "Method", "Metric", "Gain", "95%, other clips", "95%, these clips", "Verdict"),
    *("Smallest gain", "p", "p (Holm)", "Better", "Worse", "Equal", "Undecided", "n"),
)
TEXTS = 3  # columns of text before the numbers
DASH = "\u2013"
NOTES = (
    "Gain: mean over backbones of the mean paired difference to {baseline} over seeds, positive where "
    "better; MAE in units of the labels.",
    "95%, these clips: interval over seeds (stratified bootstrap), for this test split. 95%, other clips: "
    "interval over seeds and over the videos that the clips are cut from (over clips, where ids name no "
    "videos); the verdict needs it.",
    "Verdict: better or worse where the interval for other clips excludes 0 and each backbone has at least "
    "three seeds; equal where it lies within the margin that report.equal_within gives; else undecided. "
    "If no method has an effect, one verdict in twenty is still better or worse.",
    "Smallest gain: what a study of this size finds with 80% probability.",
    "p: Wilcoxon signed-rank test over backbones; Holm: adjusted for the methods of a data set. Backbones "
    "share the data, so interpret p with care. With k backbones p is at least 2 / 2^k, and Holm "
    "multiplies the least by the number of methods: with six backbones and four methods it is 0.12 or more.",
    "Better, worse, equal, undecided: number of single backbones with this verdict.",
)


def compare_methods(study: Study) -> pd.DataFrame:
    """Return `comparison.overall` and the counts of `comparison.wins`, by baseline and for ``METRICS``."""
    scores, parts = comparison.clean(study.scores()), []
    for baseline in study.baselines:
        for metric in METRICS:
            pairs = comparison.paired(scores, metric, baseline, study.clips)
            counts = comparison.wins(comparison.intervals(pairs, study.clips, study.margins))
            gains = comparison.overall(pairs, study.clips, study.margins)
            gains = gains.merge(counts, on=["dataset", "method"])
            parts.append(gains.assign(metric=metric, baseline=baseline))
    return pd.concat(parts, ignore_index=True)


def comparison_tables(study: Study, gains: pd.DataFrame, order: Sequence[str] = ()) -> list[Table]:
    """Lay out the frame of `compare_methods`: a table per baseline, with one part for all data sets."""
    return [
        _comparison_table(study, gains[gains["baseline"] == baseline], baseline, order)
        for baseline in study.baselines
    ]


def _comparison_table(study: Study, gains: pd.DataFrame, baseline: str, order: Sequence[str]) -> Table:
    name = "comparison" if baseline == BASELINE else f"comparison_{safe_name(baseline)}"
    other = method_name(baseline)
    title = f"Each method against {other}" + study.stand_in(list(dict.fromkeys(gains["dataset"])))
    if gains.empty:
        notes = [f"There is nothing to compare: this needs {other} and another method with a common seed."]
        return Table(name, title, [], notes, fill=commands.compared(study, baseline))
    columns = [Column(head, k >= TEXTS and head != "Verdict") for k, head in enumerate(HEADS)]
    rows = sorted(gains.to_dict("records"), key=lambda row: _place(row, order))
    groups: dict[tuple[str, str], list[list[Value]]] = {}
    for row in rows:
        link = study.links.behind({"dataset": row["dataset"], "method": row["method"]})
        groups.setdefault((row["dataset"], row["metric"]), []).append(_row(row, link))
    keys = ["dataset", "method", "metric"]
    csv = pd.DataFrame(rows).drop(columns="baseline")
    csv = csv[[*keys, *(column for column in csv.columns if column not in keys)]]
    text = csv.to_csv(index=False, lineterminator="\n")
    notes = [note.format(baseline=other) for note in NOTES]
    return Table(name, title, [Part(columns, list(groups.values()))], notes, text)


def sentences(study: Study, gains: pd.DataFrame, order: Sequence[str] = ()) -> list[str]:
    """Return sentences with a verdict on each method, for each data set and baseline, and on their ranks."""
    primary = gains[gains["metric"] == PRIMARY]
    texts = [
        *(
            sentence
            for baseline in study.baselines
            for sentence in by_dataset(study, primary[primary["baseline"] == baseline], baseline, order)
        ),
        *_ranking(study),
        *_improvement(study),
    ]
    return texts or [
        "There is nothing to compare yet: this needs none and another method with a common seed."
    ]


def _place(row: Mapping[Any, Any], order: Sequence[str]) -> tuple:
    metric = METRICS.index(row["metric"])
    return place(row["dataset"], order), metric, place(row["method"], order)


def _row(row: Mapping[Any, Any], link: str) -> list[Value]:
    decided = row["verdict"] != "undecided"
    return [
        *(Value(name, order=name) for name in map(proper_name, (row["dataset"], row["method"]))),
        Value(METRIC_NAMES[row["metric"]], order=row["metric"]),
        Value(signed(row["gain"]), BEST if decided else OTHER, row["gain"], link),
        _interval(row["low"], row["high"]),
        _interval(row["low_seeds"], row["high_seeds"]),
        Value(row["verdict"], BEST if decided else OTHER, row["verdict"]),
        _number(row["smallest_gain"], f"{row['smallest_gain']:.3f}"),
        *(_number(row[p], p_text(row[p])) for p in ("p", "p_holm")),
        *(Value(str(row[name]), order=float(row[name])) for name in VERDICTS),
        Value(str(row["n"]), order=float(row["n"]), link=link),
    ]


def _interval(low: float, high: float) -> Value:
    return _number(low, f"{signed(low)} to {signed(high)}")


def _number(value: float, text: str) -> Value:
    """Return the text, sorted by the value; a dash for NaN."""
    return Value(DASH) if math.isnan(value) else Value(text, order=value)


def _ranking(study: Study) -> Iterator[str]:
    ranking = ranks(study.distinct_scores(), PRIMARY)
    if len(ranking.methods) < 2 or not ranking.blocks:
        return
    blocks = f"{ranking.blocks} combination{'s' * (ranking.blocks != 1)} of data set and backbone"
    order = ", ".join(
        f"{method_name(m)} {r:.2f}" for m, r in zip(ranking.methods, ranking.average, strict=True)
    )
    if math.isnan(ranking.p):
        yield f"Average ranks in test MAE over {blocks}: {order}; there are too few results for a test."
        return
    same = next((group for group in ranking.cliques if ranking.methods[0] in group), ())
    if ranking.p > LEVEL:
        verdict = "the ranks do not differ beyond chance"
    else:
        others = [method_name(m) for m in same if m != ranking.methods[0]]
        apart = [method_name(m) for m in ranking.methods[1:] if m not in same] or ["no other"]
        verdict = f"Nemenyi's test distinguishes the first from {', '.join(apart)}"
        verdict += f", not from {', '.join(others)}" if others else ""
    test = f"Friedman's test: p = {p_text(ranking.p)}; {verdict}."
    test += " The test holds the test clips fixed, and assumes independent backbones, which share them."
    lost = [f"{ranking.left_out} combinations lack some method"] if ranking.left_out else []
    dropped = ", ".join(map(method_name, ranking.dropped))
    lost += [f"absent from most and not ranked: {dropped}"] if dropped else []
    left = f" ({'; '.join(lost)})" if lost else ""
    yield f"Average ranks in test MAE over {blocks} (1 is best): {order}{left}. {test}"


def _improvement(study: Study) -> Iterator[str]:
    """Yield a sentence with the probabilities of improvement that have an interval, if there are any."""
    chances = comparison.improvement(comparison.clean(study.scores()), PRIMARY).dropna(subset=["low"])
    if chances.empty:
        return
    ranked = chances.sort_values(["probability", "method"], ascending=[False, True]).to_dict("records")
    texts = (
        f"{method_name(r['method'])} {r['probability']:.2f} ({r['low']:.2f} to {r['high']:.2f})"
        for r in ranked
    )
    yield (
        f"Probability that a run has a lower test MAE than a run of {BASELINE} (0.5 means no difference; 95% "
        "intervals in parentheses hold the test clips fixed, and are too narrow for few seeds): "
        f"{', '.join(texts)}."
    )

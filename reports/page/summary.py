"""Summary of a study: comparison of each method with `none` in a few sentences and a table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from reports import commands
from reports.names import METRIC_NAMES
from reports.stats import comparison
from reports.stats.comparison import BASELINE
from reports.stats.permutation import LEVEL
from reports.stats.ranking import ranks
from reports.study import Study
from reports.tables.seed_means import place
from reports.tables.table import BEST, OTHER, Column, Part, Table, Value

NAME, TITLE = "comparison", "Each method against none"
METRICS = ("mae", "corr")
PRIMARY, STUDIED = METRICS[0], "ms_mix"
HEADS = (
    *("Dataset", "Method", "Metric", "Gain", "95% interval", "p", "p (Holm)"),
    *("Better", "Worse", "Noise", "n"),
)
DASH = "\u2013"
FEW_CLIPS = 50  # with fewer test clips, the MAE has a standard error of 0.1 label units or more
NOTES = (
    "Gain: mean over backbones of the mean paired difference to none over seeds, positive where better; MAE "
    "in units of the labels. Its interval is a stratified bootstrap over seeds; it does not cover "
    "variation between test clips.",
    "p: Wilcoxon signed-rank test over backbones; Holm: adjusted for the methods of a data set. Backbones "
    "share the data, so interpret p with care. With k backbones p is at least 2 / 2^k, and Holm "
    "multiplies the least by the number of methods: with six backbones and four methods it is 0.12 or more.",
    "Better, worse, noise: number of backbones whose 95% t interval of the paired difference over seeds lies "
    "above, below or around 0; it needs at least three seeds.",
    "Bold: the interval excludes 0, and each backbone has at least three seeds.",
)


def compare_methods(study: Study) -> pd.DataFrame:
    """Return `comparison.overall` joined with the counts of `comparison.wins`, for both ``METRICS``."""
    scores, parts = comparison.clean(study.scores()), []
    for metric in METRICS:
        pairs = comparison.paired(scores, metric)
        counts = comparison.wins(comparison.intervals(pairs))
        gains = comparison.overall(pairs).merge(counts, on=["dataset", "method"])
        parts.append(gains.assign(metric=metric))
    return pd.concat(parts, ignore_index=True)


def comparison_table(study: Study, gains: pd.DataFrame, order: Sequence[str] = ()) -> Table:
    """Lay out the frame of `compare_methods` as a table with one part for all data sets."""
    title = TITLE + study.stand_in(list(dict.fromkeys(gains["dataset"])))
    if gains.empty:
        notes = ["There is nothing to compare: this needs none and another method with a common seed."]
        return Table(NAME, title, [], notes, fill=commands.compared(study))
    columns = [Column(head, k > 2) for k, head in enumerate(HEADS)]
    rows = sorted(gains.to_dict("records"), key=lambda row: _place(row, order))
    groups: dict[tuple[str, str], list[list[Value]]] = {}
    for row in rows:
        link = study.links.behind({"dataset": row["dataset"], "method": row["method"]})
        groups.setdefault((row["dataset"], row["metric"]), []).append(_row(row, link))
    keys = ["dataset", "method", "metric"]
    csv = pd.DataFrame(rows)[[*keys, *(name for name in gains.columns if name not in keys)]]
    text = csv.to_csv(index=False, lineterminator="\n")
    return Table(NAME, title, [Part(columns, list(groups.values()))], NOTES, text)


def sentences(study: Study, gains: pd.DataFrame, order: Sequence[str] = ()) -> list[str]:
    """Return sentences on which method is best on each data set, and whether by more than the noise."""
    texts = [
        *_by_dataset(study, gains[gains["metric"] == PRIMARY], order),
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
    names = [Value(str(text), order=str(text)) for text in (row["dataset"], row["method"])]
    gain = Value(_signed(row["gain"]), BEST if row["outside"] else OTHER, row["gain"], link)
    interval = Value(DASH)
    if not math.isnan(row["low"]):
        interval = Value(f"{_signed(row['low'])} to {_signed(row['high'])}", order=row["low"])
    tests = [Value(_p(row[p]), order=None if math.isnan(row[p]) else row[p]) for p in ("p", "p_holm")]
    counts = [row[name] for name in ("better", "worse", "inside")]
    return [
        *names,
        Value(METRIC_NAMES[row["metric"]], order=row["metric"]),
        gain,
        interval,
        *tests,
        *(Value(str(count), order=float(count)) if sum(counts) else Value(DASH) for count in counts),
        Value(str(row["n"]), order=float(row["n"]), link=link),
    ]


def _p(value: float) -> str:
    return DASH if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.2g}"


def _by_dataset(study: Study, gains: pd.DataFrame, order: Sequence[str]) -> Iterator[str]:
    clips = {entry["name"]: entry["splits"]["test"]["clips"] for entry in study.datasets}
    for dataset in sorted(gains["dataset"].unique(), key=lambda name: place(name, order)):
        part = gains[gains["dataset"] == dataset]
        # Methods with all backbones come first: a mean over fewer backbones is not comparable.
        part = part.assign(lacking=part["strata"].max() - part["strata"])
        ranked = part.sort_values(["lacking", "gain", "method"], ascending=[True, False, True])
        best, *others = ranked.to_dict("records")
        tested = int(part["p"].notna().sum())
        texts = [_finding(best, tested), _others(others, best["outside"] == "better", tested)]
        texts += [_line(row) for row in others if row["method"] == STUDIED]
        texts += [_few_clips(clips.get(dataset, FEW_CLIPS))]
        yield f"{dataset}: {' '.join(filter(None, texts))}"


def _few_clips(count: int) -> str:
    """Return a warning about a small test split, or an empty string."""
    if count >= FEW_CLIPS:
        return ""
    clips = "1 clip" if count == 1 else f"{count} clips"
    return f"The test split has only {clips}: intervals cover seeds, and other clips may change the result."


def _line(row: Mapping[Any, Any]) -> str:
    """Return gain and interval of a method in a sentence."""
    interval = (
        "" if math.isnan(row["low"]) else f", 95% interval {_signed(row['low'])} to {_signed(row['high'])}"
    )
    return f"{row['method']}: {_signed(row['gain'])}{interval}."


def _signed(value: float) -> str:
    """Format a number with its sign; a value that rounds to zero is +0.000."""
    return f"{round(value, 3) + 0.0:+.3f}"


def _finding(best: Mapping[Any, Any], tested: int) -> str:
    seeds, strata = int(best["seeds"]), int(best["strata"])
    counts = f"{_backbones(strata)}, {seeds} seed{'s' * (seeds != 1)}"
    head = f"{best['method']} has the largest mean gain in test MAE over none"
    if best["gain"] <= 0:
        head = f"no method has a lower mean test MAE than none; {best['method']} comes closest"
    if math.isnan(best["low"]):
        why = "with one seed no uncertainty can be given" if seeds == 1 else "no uncertainty can be given"
        return f"{head} ({_signed(best['gain'])}; {counts}); {why}."
    verdicts = {"better": "outside the noise", "worse": "worse beyond the noise", "": "inside the noise"}
    if not best["outside"] and not best["low"] <= 0 <= best["high"]:
        verdicts[""] = "too few seeds to distinguish it from noise"
    interval = f"95% interval {_signed(best['low'])} to {_signed(best['high'])}"
    verdict = verdicts[best["outside"]] + _corrected(best, tested)
    finding = f"{head} ({_signed(best['gain'])}, {interval}; {counts}): {verdict}."
    if best["strata"] == 1 or not best["better"] + best["worse"] + best["inside"]:
        return finding
    single = f"better on {best['better']}, worse on {best['worse']}, inside the noise on {best['inside']}"
    return f"{finding} On single backbones it is {single}."


def _backbones(count: int) -> str:
    return f"{count} backbone{'s' * (count != 1)}"


def _corrected(row: Mapping[Any, Any], tested: int) -> str:
    """Return the result of Wilcoxon's test, corrected by Holm, for an interval that excludes 0."""
    if not row["outside"] or math.isnan(row["p_holm"]):
        return ""
    test = "Wilcoxon's test over backbones" if tested == 1 else f"Holm's correction for {tested} methods"
    least = tested * 2 / 2 ** row["strata"]
    if row["p_holm"] > LEVEL and least > LEVEL:
        return f" ({_backbones(int(row['strata']))} are too few for {test})"
    agreement = "also" if row["p_holm"] <= LEVEL else "but not"
    return f", {agreement} {'by' if tested == 1 else 'after'} {test} (p = {_p(row['p_holm'])})"


def _others(rows: Sequence[Mapping[Any, Any]], also: bool, tested: int) -> str:
    """List the other methods whose intervals exclude 0."""
    better = "Also better beyond the noise" if also else "Better beyond the noise"
    heads = {"better": better, "worse": "Worse than none beyond the noise"}
    lists = {head: [row for row in rows if row["outside"] == mark] for mark, head in heads.items()}
    return " ".join(
        f"{head}: {'; '.join(_named(row) + _corrected(row, tested) for row in part)}."
        for head, part in lists.items()
        if part
    )


def _named(row: Mapping[Any, Any]) -> str:
    """Return a method's name, with its number of backbones if other methods have more."""
    few = f" (on only {_backbones(int(row['strata']))})" if row["lacking"] else ""
    return f"{row['method']}{few}"


def _ranking(study: Study) -> Iterator[str]:
    ranking = ranks(study.distinct_scores(), PRIMARY)
    if len(ranking.methods) < 2 or not ranking.blocks:
        return
    blocks = f"{ranking.blocks} combination{'s' * (ranking.blocks != 1)} of data set and backbone"
    order = ", ".join(f"{m} {r:.2f}" for m, r in zip(ranking.methods, ranking.average, strict=True))
    if math.isnan(ranking.p):
        yield f"Average ranks in test MAE over {blocks}: {order}; there are too few results for a test."
        return
    same = next((group for group in ranking.cliques if ranking.methods[0] in group), ())
    if ranking.p > LEVEL:
        verdict = "the ranks do not differ beyond chance"
    else:
        others = [m for m in same if m != ranking.methods[0]]
        apart = [m for m in ranking.methods[1:] if m not in others] or ["no other"]
        verdict = f"Nemenyi's test distinguishes the first from {', '.join(apart)}"
        verdict += f", not from {', '.join(others)}" if others else ""
    test = f"Friedman's test: p = {_p(ranking.p)}; {verdict}."
    test += " The test assumes independent backbones, but these share test clips."
    lost = [f"{ranking.left_out} combinations lack some method"] if ranking.left_out else []
    lost += [f"absent from most and not ranked: {', '.join(ranking.dropped)}"] if ranking.dropped else []
    left = f" ({'; '.join(lost)})" if lost else ""
    yield f"Average ranks in test MAE over {blocks} (1 is best): {order}{left}. {test}"


def _improvement(study: Study) -> Iterator[str]:
    """Yield a sentence with the probabilities of improvement that have an interval, if there are any."""
    chances = comparison.improvement(comparison.clean(study.scores()), PRIMARY).dropna(subset=["low"])
    if chances.empty:
        return
    ranked = chances.sort_values(["probability", "method"], ascending=[False, True]).to_dict("records")
    texts = (f"{r['method']} {r['probability']:.2f} ({r['low']:.2f} to {r['high']:.2f})" for r in ranked)
    yield (
        f"Probability that a run has a lower test MAE than a run of {BASELINE} (0.5 means no difference; 95% "
        f"intervals in parentheses are too narrow for few seeds): {', '.join(texts)}."
    )

"""Figure 7: critical-difference diagram of average ranks, and performance profiles of single runs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import MaxNLocator, PercentFormatter

from reports import commands
from reports.figures.parts import style
from reports.figures.parts.base import Command, Figure
from reports.figures.parts.blocks import count_range
from reports.names import proper_name
from reports.runs.study import Study
from reports.stats.intervals import performance_profile
from reports.stats.permutation import LEVEL
from reports.stats.ranking import Ranks, ranks

METRIC, BASELINE = "mae", "none"
RANKS = ("rank", "blocks", "blocks_left_out", "p", "difference", "cliques")
PROFILE = ("backbone", "seed", "gain", "share", "low", "high", "runs", "tasks")
COLUMNS = ("panel", "dataset", "method", *RANKS, *PROFILE)
_TASK = ["dataset", "backbone", "environment"]
_INSIDE = 0.02
"""Fraction of runs beyond each end of the axis of gains, so that outliers do not set its scale."""


def data(study: Study) -> pd.DataFrame:
    """Return the rows of both panels, "ranks" and "profile", in the column ``panel``.

    "ranks": average ranks over blocks (pairs of data set and backbone), repeated for each data set.
    ``cliques`` is JSON with the groups of methods that do not differ; methods that are not ranked have NaN.
    "profile": a row per run of a task (data set and backbone in one environment) in which all methods and
    `none` have runs. ``gain`` is relative to the mean of `none` in the task; ``share``, with its band, is the
    fraction of the method's runs with at least this gain.
    """
    scores = study.distinct_scores()
    scores = scores[scores["metric"] == METRIC]
    ranking = ranks(scores, METRIC) if len(scores) else None
    if not ranking or not ranking.methods:
        return pd.DataFrame(columns=list(COLUMNS))
    rows = [*_rank_rows(ranking, sorted(set(scores["dataset"]))), *_profile_rows(scores, ranking.methods)]
    whole = dict.fromkeys(("blocks", "blocks_left_out", "seed", "runs", "tasks"), "Int64")
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(whole)


def _rank_rows(ranking: Ranks, datasets: Sequence[str]) -> list[dict[str, object]]:
    common = {
        "panel": "ranks",
        "blocks": ranking.blocks,
        "blocks_left_out": ranking.left_out,
        "p": ranking.p,
        "difference": ranking.critical_difference,
        "cliques": json.dumps(ranking.cliques, ensure_ascii=False),
    }
    averages = [*zip(ranking.methods, ranking.average, strict=True)]
    averages += [(name, math.nan) for name in ranking.dropped]
    return [
        {**common, "dataset": dataset, "method": method, "rank": rank}
        for dataset in datasets
        for method, rank in averages
    ]


def _profile_rows(scores: pd.DataFrame, methods: Sequence[str]) -> list[dict[str, object]]:
    names = style.ordered({*methods, BASELINE})
    keys = [*_TASK, "method", "seed"]
    runs = scores[np.isfinite(scores["value"].to_numpy(float))].groupby(keys)["value"].mean()
    wide = runs.unstack("method").reindex(columns=names).stack(future_stack=True)
    wide = wide.rename("value").reset_index()
    counts = wide.groupby([*_TASK, "method"])["value"].transform("count")
    complete = counts.groupby([wide[key] for key in _TASK]).transform("min") > 0
    wide = wide[complete & wide["value"].notna()]
    usual = wide[wide["method"] == BASELINE].groupby(_TASK)["value"].mean().rename("usual")
    wide = wide.merge(usual, on=_TASK)
    wide = wide[wide["usual"] > 0]
    wide["gain"] = (wide["usual"] - wide["value"]) / wide["usual"]
    rows: list[dict[str, object]] = []
    for method in names:
        part = wide[wide["method"] == method].sort_values(["gain", *_TASK, "seed"])
        matrix = part.pivot(index="seed", columns=_TASK, values="gain").to_numpy()
        shares = performance_profile(matrix, part["gain"].to_numpy()) if len(part) else ()
        part = part.assign(**dict(zip(("share", "low", "high"), shares, strict=False)))
        part = part.assign(panel="profile", runs=len(part), tasks=matrix.shape[1])
        rows += part[[name for name in COLUMNS if name in part.columns]].to_dict("records")
    return rows


def caption(data: pd.DataFrame) -> str:
    """Return the caption: contents, tests, and what is left out."""
    ranked = data[data["panel"] == "ranks"].drop_duplicates("method")
    first, dropped = ranked.iloc[0], ranked[ranked["rank"].isna()]["method"].tolist()
    blocks = count_range(ranked["blocks"].astype(int), "block")
    texts = [
        f"(a) Average rank in MAE on the test split (1 is best) over n = {blocks}; a block is a pair of data "
        "set and backbone."
    ]
    if math.isnan(first["p"]):
        texts.append("Tests need two seeds and two blocks; the ranks may be noise.")
    elif first["p"] > LEVEL:
        texts.append(
            f"Friedman's test finds no significant difference (p = {first['p']:.2g}); one bar joins all."
        )
    else:
        p = "p < 0.001" if first["p"] < 0.001 else f"p = {first['p']:.2g}"
        texts.append(
            f"Friedman's test: {p}; bars join methods that do not differ by Nemenyi's test "
            f"(critical difference CD = {first['difference']:.2f} at {LEVEL:g}; Demsar 2006)."
        )
    if first["blocks_left_out"]:
        lost = count_range(ranked["blocks_left_out"].astype(int), "block")
        texts.append(f"Left out: {lost} without a seed that all methods have.")
    if dropped:
        texts.append(f"Not ranked, because absent from most blocks: {', '.join(map(proper_name, dropped))}.")
    return " ".join([*texts, _profile_caption(data[data["panel"] == "profile"])])


def _profile_caption(runs: pd.DataFrame) -> str:
    if runs.empty:
        return f"(b) is empty: no pair of data set and backbone has runs of all methods and of {BASELINE}."
    counts = count_range(runs.groupby("method")["runs"].first().astype(int), "run")
    tasks = count_range(runs["tasks"].astype(int), "pair")
    band = "With one seed no uncertainty can be given."
    if runs["low"].notna().any():
        band = (
            "Bands: pointwise 95% bootstrap intervals over seeds within the pairs, too narrow for few seeds; "
            "where they overlap, the difference may be inside the noise."
        )
    return (
        f"(b) Fraction of runs with a gain in MAE of at least τ, averaged over {tasks} of data set and "
        f"backbone ({counts} per method); gains are relative to the mean of {BASELINE} in the pair (Agarwal "
        f"et al. 2021). Further right and up is better. The curve of {BASELINE} shows its spread over seeds. "
        f"{band}"
    )


def critical_differences(data: pd.DataFrame, ax: Axes, labels: Sequence[str]) -> None:
    """Draw average ranks, with bars that join methods that do not differ. data: rows of panel "ranks"."""
    rows = data.drop_duplicates("method").dropna(subset="rank").sort_values("rank", kind="stable")
    names, places = rows["method"].tolist(), rows["rank"].tolist()
    groups = [[places[names.index(name)] for name in group] for group in json.loads(rows["cliques"].iloc[0])]
    count, difference = len(names), float(rows["difference"].iloc[0])
    top = 0.55 + 0.34 * len(groups)
    half = (count + 1) // 2
    for i, (name, place) in enumerate(zip(names, places, strict=True)):
        left = i < half
        y, end = top + (i if left else count - 1 - i), 0.75 if left else count + 0.25
        shade = style.colour(name, labels)
        ax.plot([place, place, end], [0, y, y], color=shade, linewidth=0.9)
        ax.plot(place, 0, marker=style.marker(name, labels), color=shade, clip_on=False, zorder=3)
        ax.text(end + (-0.08 if left else 0.08), y, f"{style.wrapped(name, 24)}  {place:.2f}", fontsize=7,
                color=shade, ha="right" if left else "left", va="center")  # fmt: skip
    for i, group in enumerate(groups):
        y = 0.4 + 0.34 * i
        ax.plot([min(group) - 0.05, max(group) + 0.05], [y, y], color="black", linewidth=2.2,
                solid_capstyle="butt")  # fmt: skip
    _scale(ax, count, difference)
    ax.set_ylim(top + half - 0.4, -1.5)


def _scale(ax: Axes, count: int, difference: float) -> None:
    """Draw the axis of ranks on top, with the critical difference above it."""
    ax.set_xlim(0.7, count + 0.3)
    ax.spines["left"].set_visible(False)
    ax.spines["bottom"].set_visible(False)
    ax.set_yticks([])
    ax.set_xticks([])
    ax.plot([1, count], [0, 0], color="black", linewidth=0.8)
    for rank in range(1, count + 1):
        ax.plot([rank, rank], [0, -0.15], color="black", linewidth=0.8)
        ax.text(rank, -0.22, str(rank), ha="center", va="bottom", fontsize=7)
    if math.isfinite(difference):
        end = min(1 + difference, count + 0.3)
        ax.plot([1, end], [-1, -1], color="black", linewidth=1.2)
        for x in (1, end):
            ax.plot([x, x], [-0.88, -1.12], color="black", linewidth=0.8)
        ax.text((1 + end) / 2, -1.2, f"CD = {difference:.2f}", ha="center", va="bottom", fontsize=7)


def profiles(data: pd.DataFrame, ax: Axes, labels: Sequence[str]) -> None:
    """Draw fractions of runs against gains. data: the rows of panel "profile"."""
    low, high = data["gain"].quantile([_INSIDE, 1 - _INSIDE])
    margin = 0.08 * (high - low) or 0.01
    low, high = min(low, 0) - margin, max(high, 0) + margin
    ax.axvline(0, color="black", linewidth=0.6, zorder=0)
    for method in style.ordered(data["method"]):
        curve = data[data["method"] == method].sort_values("gain").drop_duplicates("gain")
        # The fraction is 1 up to the smallest gain and 0 beyond the largest.
        taus = [min(low, curve["gain"].iloc[0]), *curve["gain"], max(high, curve["gain"].iloc[-1])]
        shade = style.colour(method, labels)
        ax.step(taus, [1.0, *curve["share"], 0.0], where="pre", color=shade, linewidth=1,
                linestyle=style.dashes(method, labels))  # fmt: skip
        if curve["low"].notna().any():
            least, most = ([1.0, *curve[name], 0.0] for name in ("low", "high"))
            ax.fill_between(taus, least, most, step="pre", color=shade, alpha=0.12, linewidth=0)
        inside = curve[curve["gain"].between(low, high)]
        middle = inside.iloc[(inside["share"] - 0.5).abs().argsort(kind="stable")[:1]]
        ax.plot(middle["gain"], middle["share"], marker=style.marker(method, labels), color=shade)
    ax.set_xlim(low, high)
    ax.set_ylim(0, 1.02)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set_xlabel("relative gain τ in MAE over none (better →)")
    ax.set_ylabel("share of runs with gain ≥ τ ↑")


def draw(data: pd.DataFrame, title: str, command: Command) -> Drawing:
    """Draw ranks on the left and profiles on the right."""
    ranked, runs = (data[data["panel"] == name] for name in ("ranks", "profile"))
    labels = style.ordered(data.loc[data["rank"].notna() | data["gain"].notna(), "method"])
    size = (style.PAGE, 2.1 + 0.12 * len(labels))
    figure, (left, right) = plt.subplots(1, 2, figsize=size)
    style.set_title(figure, title)
    critical_differences(ranked, left, labels)
    left.set_title("(a) average rank in MAE, 1 is best", loc="left")
    if runs.empty:
        style.say(right, f"No pair of data set and backbone has runs of all methods and of {BASELINE}.")
    else:
        profiles(runs, right, labels)
    right.set_title("(b) gains of single runs", loc="left")
    style.legend(figure, style.method_handles(labels))
    return figure


FIGURE = Figure(
    name="figure7_ranks",
    title="Figure 7: Average ranks and performance profiles",
    caption=caption,
    data=data,
    draw=draw,
    missing="No two methods have runs with the same data set, backbone and seed.",
    fill=commands.compared,
)

"""Figure 4: effect of MS-Mix's settings, from the sweeps of delta, xi, alpha and heads."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

from harness.metrics import DIRECTION
from reports import commands
from reports.figures.parts import style
from reports.figures.parts.base import Command, Figure
from reports.figures.parts.blocks import count_range
from reports.names import METRIC_NAMES, proper_name
from reports.runs.study import Study
from reports.stats.intervals import FEWEST
from reports.stats.settings import GROUP, LEVEL, settings_table, verdicts

METHOD = "ms_mix"
COLUMNS = (
    *("sweep", "dataset", "backbone", "method", "shown", "x", "y", "line", "default", "state", "objective"),
    *("mean", "low", "high", "test_mae", "test_low", "test_high", "n", "p", "seed", "value", "test_value"),
)
_MOST = 12  # values of a setting that fit in a heat map
_SEED: dict[str, Any] = dict(
    color=style.colour(METHOD), marker=".", markersize=2.5, linewidth=0.5, alpha=0.55
)
_RING: dict[str, Any] = dict(
    color="black", marker="o", markersize=8, markerfacecolor="none", linestyle="none"
)


@dataclass(frozen=True)
class Panel:
    """The panel of a sweep: settings on its axes and of its lines, and their labels."""

    letter: str
    title: str
    x: str
    label: str
    y: str = ""
    line: str = ""
    scale: str = "linear"


PANELS: dict[str, Panel] = {
    "delta": Panel("a", "minimum similarity of a pair", "delta", "threshold δ"),
    "xi": Panel("b", "weights of the losses", "xi1", "mixed loss, ξ₁", y="xi2"),
    "alpha": Panel("c", "Beta(α, α) of the base ratio", "alpha", "α", scale="log"),
    "heads": Panel("d", "heads of the intensity predictors", "heads", "heads", line="attention", scale="log"),
}


def data(study: Study) -> pd.DataFrame:
    """Return a row per seed of each setting of MS-Mix's four sweeps, or one row if a setting has no seed.

    ``x``, ``y`` and ``line`` are the settings of the panel's axes and lines. ``mean`` and ``test_mae`` are
    means of objective and test MAE, with a 95% t interval from three seeds on; ``value`` and ``test_value``
    are the seed's. ``shown`` marks the backbone and data set with the most complete settings; ``p`` is the
    p-value of its sweep, see `reports.stats.settings.Verdict`.
    """
    trials = study.trials[study.trials["sweep"].isin(PANELS) & (study.trials["method"] == METHOD)]
    table = settings_table(trials)
    pairs = _main_pairs(table)
    by_pair = dict(iter(trials.groupby(["sweep", "dataset", "backbone"])))
    p_values = {v.sweep: v.p for name, pair in pairs.items() for v in verdicts(by_pair[name, *pair])}
    by_setting = dict(iter(trials.groupby([*GROUP, "params"])))
    rows: list[dict[str, Any]] = []
    for row in table.to_dict("records"):
        place = _place(PANELS[row["sweep"]], json.loads(row["params"]))
        if place is None:
            continue
        numbers = by_setting[(*(row[key] for key in GROUP), row["params"])]
        common = {key: row[key] for key in (*GROUP, "default", "state", "objective")} | place
        common |= {"shown": pairs.get(row["sweep"]) == (row["dataset"], row["backbone"])}
        common |= {"p": p_values.get(row["sweep"]) if common["shown"] else None}
        rows += [{**common, **_summary(row), **seed} for seed in _seeds(numbers, row["objective"])]
    frame = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"seed": "Int64", "p": "float64"})
    order = {name: number for number, name in enumerate(PANELS)}
    keys = ["place", "dataset", "backbone", "line", "x", "y", "seed"]
    frame = frame.assign(place=frame["sweep"].map(order)).sort_values(keys, ignore_index=True)
    points = frame[frame["shown"] & frame["mean"].notna()]
    return frame[list(COLUMNS)] if len(points) else frame[list(COLUMNS)][:0]


def _main_pairs(table: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Return sweep -> (data set, backbone) to show: the pair with the most complete settings."""
    complete = table[(table["state"] == "complete") & table["objective_value"].notna()]
    totals = complete.groupby(["dataset", "backbone"]).size()
    pairs: dict[str, Any] = {}
    for name, part in complete.groupby("sweep"):
        sizes = part.groupby(["dataset", "backbone"]).size()
        # Prefer the pair with the most settings over all sweeps, so that all panels show the same pair.
        favourite = totals.idxmax()
        pairs[str(name)] = favourite if favourite in sizes.index else sizes.idxmax()
    return pairs


def _place(panel: Panel, params: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a setting's position in its panel, or None if it lacks a number for an axis."""
    numbers = [params.get(name) for name in (panel.x, panel.y) if name]
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in numbers):
        return None
    if panel.scale == "log" and numbers[0] <= 0:  # type: ignore[operator]
        return None
    line = f"{panel.line}={params[panel.line]}" if panel.line in params else ""
    return {"x": numbers[0], "y": numbers[1] if panel.y else math.nan, "line": line}


def _summary(row: Mapping[Any, Any]) -> dict[str, float]:
    """Return means and, from ``FEWEST`` seeds on, intervals of a setting."""
    numbers = {"mean": row["objective_value"], "test_mae": row["test_mae"], "n": row["seeds"]}
    for bound in ("low", "high"):
        enough = row["seeds"] >= FEWEST
        numbers[bound] = row[f"objective_value_{bound}"] if enough else math.nan
        numbers[f"test_{bound}"] = row[f"test_mae_{bound}"] if enough else math.nan
    return numbers


def _seeds(numbers: pd.DataFrame, objective: str) -> list[dict[str, Any]]:
    """Return the seeds of a setting with their values, or one row without a seed."""
    keyed = numbers.assign(key=numbers["split"] + "/" + numbers["metric"]).dropna(subset="seed")
    wide = keyed.pivot(index="seed", columns="key", values="value").reindex(columns=[objective, "test/mae"])
    rows = [{"seed": seed, "value": value, "test_value": test} for seed, value, test in wide.itertuples()]
    return rows or [{"seed": pd.NA, "value": math.nan, "test_value": math.nan}]


def caption(data: pd.DataFrame) -> str:
    """Return the caption: contents, tests, and what is left out."""
    rows = data[data["shown"]]
    complete = rows[(rows["state"] == "complete") & rows["mean"].notna()]
    pairs = _pairs(complete)
    seeds = count_range(complete["n"], "seed")
    spread = (
        "bars and, in (b), ± are 95% t intervals"
        if complete["low"].notna().any()
        else "small dots are single seeds (too few for an interval), joined by a line per seed"
    )
    texts = [
        f"The {objective_label(complete)[:-2]}, the only criterion for choosing settings, against settings "
        f"of MS-Mix with {' and '.join(pairs)}. Mean over n = {seeds}; {spread}; rings, frames: defaults.",
        *_tests(complete),
        *_flat(complete),
    ]
    if (complete["n"] == 0).any():
        texts.append("Where n = 0, only the mean is stored.")
    others = sorted(set(_pairs(data[~data["shown"]])) - set(pairs))
    if others:
        texts.append(f"There are also sweeps for {', '.join(others)}, see the tables of sweeps.")
    lost = rows.drop_duplicates(["sweep", "x", "y", "line"])["state"].value_counts().sort_index()
    lost = lost[lost.index != "complete"]
    if len(lost):
        counts = " and ".join(f"{count} {state}" for state, count in lost.items())
        texts.append(f"Not drawn: {counts} of the settings.")
    return " ".join(texts)


def _pairs(data: pd.DataFrame) -> list[str]:
    """Return pairs of backbone and data set in words."""
    pairs = data[["backbone", "dataset"]].drop_duplicates().sort_values(["dataset", "backbone"])
    return [
        f"{proper_name(backbone)} on {proper_name(dataset)}"
        for backbone, dataset in pairs.itertuples(index=False)
    ]


def _tests(data: pd.DataFrame) -> list[str]:
    """Return sentences with the result of the permutation test for each panel."""
    tested, untested = [], []
    for sweep, p in data.drop_duplicates("sweep")[["sweep", "p"]].itertuples(index=False):
        letter = f"({PANELS[sweep].letter})"
        if math.isnan(p):
            untested.append(letter)
        else:
            verdict = "more than noise" if p <= LEVEL else "inside the noise"
            tested.append(f"{letter} p {'< 0.001' if p < 0.001 else f'= {p:.2g}'}, {verdict}")
    texts = [f"Permutation test (null: all settings are equal): {'; '.join(tested)}."] if tested else []
    if untested:
        texts.append(f"No uncertainty can be given for {', '.join(untested)}: too few seeds or settings.")
    return texts


def _flat(data: pd.DataFrame) -> list[str]:
    """Return sentences on lines whose settings give bit-identical results, with the reason if known."""
    texts = []
    for (sweep, line), part in data.groupby(["sweep", "line"]):
        results = {
            tuple(map(tuple, setting[["seed", "value", "test_value"]].to_numpy().tolist()))
            for _, setting in part.groupby(["x", "y"], dropna=False)
        }
        settings = part[["x", "y"]].drop_duplicates()
        if len(settings) < 2 or len(results) > 1:
            continue
        name = f"({PANELS[str(sweep)].letter})" + (f" with {line}" if line else "")
        why = ", because attention over one token has no effect" * (line == "attention=tokens")
        texts.append(f"{name} is exactly constant{why}.")
    return texts


def lines(data: pd.DataFrame, ax: Axes, panel: Panel) -> None:
    """Draw the objective against one setting; with few seeds, also each seed in lighter lines."""
    for number, name in enumerate(line_names(data)):
        part = data[data["line"] == name].sort_values("x")
        curve = part.drop_duplicates("x")
        look = line_look(number)
        errors = np.abs(curve[["low", "high"]].to_numpy(float).T - curve["mean"].to_numpy(float))
        ax.errorbar(curve["x"], curve["mean"], yerr=errors, elinewidth=0.8, capsize=1.5, **look)
        if curve["low"].isna().any():
            for _, seed in part.groupby("seed"):
                ax.plot(seed["x"], seed["value"], linestyle=look["linestyle"], **_SEED)
        usual = curve[curve["default"]]
        ax.plot(usual["x"], usual["mean"], **_RING)
    if panel.scale == "log":
        ax.set_xscale("log")
        values = sorted(set(data["x"]))
        ax.xaxis.set_major_locator(FixedLocator(values))
        ax.xaxis.set_major_formatter(FixedFormatter([f"{value:g}" for value in values]))
        ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.ticklabel_format(axis="y", useOffset=False)
    ax.set_xlabel(panel.label)
    ax.set_ylabel(objective_label(data))


def line_names(data: pd.DataFrame) -> list[str]:
    """Return the names of the lines of a panel or figure, with the default's line first."""
    usual = set(data.loc[data["default"], "line"])
    return sorted(set(data["line"]), key=lambda name: (name not in usual, name))


def line_look(number: int) -> dict[str, Any]:
    """Return the properties of a panel's line by its index."""
    return {
        "color": style.colour(METHOD),
        "linestyle": ("-", "--", ":", "-.")[number % 4],
        "marker": ("o", "s", "^", "D")[number % 4],
    }


def objective_label(data: pd.DataFrame) -> str:
    """Return the axis label of the objective, with an arrow for its better direction."""
    split, _, metric = str(data["objective"].iloc[0]).partition("/")
    name = METRIC_NAMES.get(metric, metric)
    return f"{'validation' if split == 'valid' else split} {name} {'↓↑'[DIRECTION.get(metric, 1) > 0]}"


def heat_map(data: pd.DataFrame, ax: Axes, panel: Panel) -> None:
    """Draw the objective over two settings: darker is better, white has no result."""
    table = data.drop_duplicates(["x", "y"])
    xs, ys = sorted(set(table["x"])), sorted(set(table["y"]))
    sign = DIRECTION[str(table["objective"].iloc[0]).partition("/")[2]]
    colours = plt.get_cmap("YlGnBu" if sign > 0 else "YlGnBu_r")
    if max(len(xs), len(ys)) > _MOST:
        points = {"c": table["mean"], "cmap": colours, "s": 14, "linewidths": 0}
        image: ScalarMappable = ax.scatter(table["x"], table["y"], **points)
        usual = table[table["default"]]
        ax.plot(usual["x"], usual["y"], **_RING)
    else:
        grid = table.pivot(index="y", columns="x", values="mean").reindex(index=ys, columns=xs)
        image = ax.imshow(grid.to_numpy(float), origin="lower", aspect="auto", cmap=colours)
        ax.set_xticks(range(len(xs)), [f"{x:g}" for x in xs])
        ax.set_yticks(range(len(ys)), [f"{y:g}" for y in ys])
        for row in table.to_dict("records"):
            place = xs.index(row["x"]), ys.index(row["y"])
            _cell(ax, row, place, np.asarray(image.to_rgba(row["mean"])))
    ax.figure.colorbar(image, ax=ax, label=objective_label(data), pad=0.02)
    ax.set_xlabel(panel.label)
    ax.set_ylabel("penalty on intensities, ξ₂")


def _cell(ax: Axes, row: Mapping[Any, Any], place: tuple[int, int], shade: np.ndarray) -> None:
    """Write the numbers of one setting, and frame the default."""
    text = f"{row['mean']:.3f}"
    if not math.isnan(row["low"]):
        text += f"\n±{(row['high'] - row['low']) / 2:.3f}"
    brightness = 0.299 * shade[0] + 0.587 * shade[1] + 0.114 * shade[2]
    ink = "black" if brightness > 0.5 else "white"
    ax.text(*place, text, ha="center", va="center", fontsize=5.5, color=ink)
    if row["default"]:
        corner = (place[0] - 0.46, place[1] - 0.46)
        ax.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, edgecolor="black", linewidth=1.4))


def draw(data: pd.DataFrame, title: str, command: Command) -> Drawing:
    """Draw the four panels; the panel of a missing sweep shows the command that runs it."""
    complete = data[data["shown"] & (data["state"] == "complete") & data["mean"].notna()]
    figure, axes = plt.subplots(2, 2, figsize=(style.PAGE, 4.9))
    pairs = _pairs(complete)
    style.set_title(figure, f"{title}: {pairs[0]}" if len(pairs) == 1 < len(_pairs(data)) else title)
    for ax, (sweep, panel) in zip(axes.flat, PANELS.items(), strict=True):
        part = complete[complete["sweep"] == sweep]
        if part.empty:
            style.say(ax, f"No setting is complete.\n\n{command(sweep)}")
        else:
            (heat_map if panel.y else lines)(part, ax, panel)
        place = f"\n{style.wrapped(_pairs(part)[0], 48)}" if len(pairs) > 1 and len(part) else ""
        ax.set_title(f"({panel.letter}) {panel.title}{place}", loc="left")
    style.legend(figure, _handles(complete))
    return figure


def _handles(data: pd.DataFrame) -> list[Artist]:
    handles: list[Artist] = []
    for number, name in enumerate([name for name in line_names(data) if name] or [""]):
        label = style.wrapped(f"mean, {name}" if name else "mean")
        handles.append(Line2D([], [], label=label, **line_look(number)))
    if data["low"].isna().any():
        handles.append(Line2D([], [], label="single seeds", **_SEED))
    return [*handles, Line2D([], [], label="default", **_RING)]


FIGURE = Figure(
    name="figure4_sweeps",
    title="Figure 4: Settings of MS-Mix",
    caption=caption,
    data=data,
    draw=draw,
    missing="No sweep of delta, xi, alpha or heads has a complete setting.",
    fill=lambda study: commands.sweep(study, "delta"),
)

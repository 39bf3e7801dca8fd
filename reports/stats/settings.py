"""Statistics of a sweep: settings ranked by their objective, a permutation test, and verdicts in words.

All functions are pure; their input is the tidy frame of trials, see `reports.runs.trials`. Verdicts on the
test split need ``clips``, the predictions of the runs, and ``margins``, see `reports.stats.comparison`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.metrics import DIRECTION
from reports.names import proper_name, signed
from reports.stats.comparison import BASELINE, Clips, intervals, paired
from reports.stats.intervals import mean_and_std, t_interval
from reports.stats.permutation import LEVEL, permutation_p, smallest_p

GROUP = ("sweep", "dataset", "backbone", "method")
STATES = ("complete", "pruned", "failed")
FIGURES, ENDS = ("objective_value", "test_mae", "test_corr"), ("", "_std", "_low", "_high")


@dataclass(frozen=True)
class Verdict:
    """Result of one sweep on one data set and backbone.

    best: params with the best objective, None if no trial is complete; the default wins ties. value,
    default_value: objective of best and of the default, or None. p: see `permutation_p`. flat: whether all
    settings give bit-identical metrics. states: number of settings per state. sentence: the verdict in words.
    """

    sweep: str
    dataset: str
    backbone: str
    method: str
    best: str | None
    value: float | None
    default_value: float | None
    p: float | None
    seeds: int
    flat: bool
    states: dict[str, int]
    sentence: str


def settings_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per group and params, the best first; incomplete settings come last without a rank.

    ``seeds`` is the number of seeds with the objective. ``objective_value``, ``test_mae`` and ``test_corr``
    are means over seeds, with ``_std`` and a 95% t interval ``_low``, ``_high``, which is NaN for one seed.
    """
    rows = [row for _, part in frame.groupby(list(GROUP)) for row in ranked(part)]
    names = ["rank", "params", "default", "state", "reason", "trial", "seeds", "objective"]
    columns = [*GROUP, *names, *(f"{name}{end}" for name in FIGURES for end in ENDS)]
    return pd.DataFrame(rows, columns=columns).astype({"rank": "Int64"})


def verdicts(
    frame: pd.DataFrame, clips: Clips | None = None, margins: Mapping[str, float] | None = None
) -> list[Verdict]:
    """Return a verdict per group of the tidy frame, sorted by name."""
    return [verdict(part, clips, margins) for _, part in frame.groupby(list(GROUP))]


def compared_runs(frame: pd.DataFrame) -> set[str]:
    """Return the ids of the runs whose predictions the verdicts need: of best settings and defaults."""
    return {
        run_id
        for _, part in frame.groupby(list(GROUP))
        for row in _best_and_default(_complete(part))
        for run_id in part.loc[part["params"] == row["params"], "run_id"]
    }


def _wide(part: pd.DataFrame) -> pd.DataFrame:
    """Pivot one group: a row per ("split/metric", seed), a column per params, NaN for missing values."""
    keyed = part.assign(key=part["split"] + "/" + part["metric"])
    return keyed.pivot(index=["key", "seed"], columns="params", values="value")


def _of(wide: pd.DataFrame, key: str) -> pd.DataFrame:
    return wide[wide.index.get_level_values("key") == key]


def ranked(part: pd.DataFrame) -> list[dict[Any, Any]]:
    """Return the rows of `settings_table` for one group; rows without a rank have infinite ``cost``."""
    rows: list[dict[Any, Any]] = part.drop_duplicates("params").to_dict("records")
    wide, sign = _wide(part), -direction(part["objective"].iloc[0])
    for row in rows:
        done = row["state"] == "complete" and not math.isnan(row["objective_value"])
        row["cost"] = sign * row["objective_value"] if done else math.inf
        row["seeds"] = int(_of(wide, row["objective"])[row["params"]].count())
        for name, key in zip(FIGURES, (row["objective"], "test/mae", "test/corr"), strict=True):
            values = _of(wide, key)[row["params"]].to_numpy()
            mean, row[f"{name}_std"], row[f"{name}_n"] = mean_and_std(values)
            row[f"{name}_low"], row[f"{name}_high"] = t_interval(values)
            # The stored mean takes precedence: the sweep used it, and cells may have been deleted since.
            row.setdefault(name, mean)
    for row in rows:
        better = sum(other["cost"] < row["cost"] for other in rows)
        row["rank"] = 1 + better if row["cost"] < math.inf else pd.NA
    return sorted(rows, key=lambda row: (row["cost"], not row["default"], _natural(row["params"])))


def direction(objective: str) -> int:
    """Return +1 if a higher objective is better, -1 if a lower one is."""
    return DIRECTION[objective.partition("/")[2]]


def _natural(params: str) -> list[tuple[float, str]]:
    """Return a sort key of settings that orders numbers by value and texts after them."""
    values = json.loads(params).values()
    return [(v, "") if isinstance(v, (int, float)) else (math.inf, json.dumps(v)) for v in values]


def _complete(part: pd.DataFrame) -> list[dict[Any, Any]]:
    """Return the rows of `ranked` that have a rank."""
    return [row for row in ranked(part) if row["cost"] < math.inf]


def _best_and_default(rows: list[dict[Any, Any]]) -> list[dict[Any, Any]]:
    """Return the best setting and, if it is another one, the default; rows: best first."""
    return rows[:1] + [row for row in rows[1:] if row["default"]]


def verdict(
    part: pd.DataFrame, clips: Clips | None = None, margins: Mapping[str, float] | None = None
) -> Verdict:
    """Compute the verdict of one group of the tidy frame."""
    rows = _complete(part)
    states = list(part.drop_duplicates("params")["state"])
    wide = _wide(part)[[row["params"] for row in rows]].dropna(axis=1, how="all")
    same = identical_columns(wide)
    flat = len(same) == 1 < len(rows) == wide.shape[1]
    values = _of(wide, part["objective"].iloc[0])[[group[0] for group in same]]
    # Drop seeds that at most half of the settings have, then settings that lack one of the other seeds.
    values = values[values.notna().mean(axis=1) > 0.5].dropna(axis=1)
    p = 1.0 if flat and len(values) > 1 else permutation_p(values.to_numpy())
    default = next((row for row in rows if row["default"]), None)
    sweep, dataset, backbone, method = part[list(GROUP)].iloc[0]
    texts = [_finding(rows, flat, values.shape, p), "" if flat else _on_valid(rows, default)]
    if p is not None and not flat and "pruned" in states:
        texts.insert(1, f"The permutation test runs over the {len(rows)} settings trained to their end.")
    texts += [_twins(same, flat), _on_test(part, rows, clips, margins), _lost(part, states)]
    where = f"{proper_name(backbone)}, {proper_name(dataset)}"
    return Verdict(
        *(sweep, dataset, backbone, method),
        best=rows[0]["params"] if rows else None,
        value=rows[0]["objective_value"] if rows else None,
        default_value=default["objective_value"] if default else None,
        p=p,
        seeds=len(values),
        flat=flat,
        states={state: states.count(state) for state in STATES},
        sentence=f"{sweep} on {where}: {' '.join(filter(None, texts))}",
    )


def identical_columns(table: pd.DataFrame) -> list[list[str]]:
    """Group the names of columns that are equal to the last bit; NaN equals NaN."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in table.columns:
        groups.setdefault(tuple(map(repr, table[name].tolist())), []).append(str(name))
    return list(groups.values())


def _finding(rows: list[dict[Any, Any]], flat: bool, shape: tuple[int, ...], p: float | None) -> str:
    """Return the finding on the validation split. shape: (seeds, distinct settings) of the comparison."""
    if not rows:
        return "no trial is complete."
    seeds, settings = shape
    counts = f"{len(rows)} settings, {seeds} seed{'s' * (seeds != 1)}"
    if len(rows) == 1:
        return f"only one setting is complete, {_named(rows[0])} ({_score(rows[0])}): nothing to compare."
    if flat:
        value = f"{_score(rows[0])}; {counts}"
        return f"every setting gives exactly the same result ({value}), so the parameter has no effect here."
    if p is None:
        why = "with one seed" if seeds == 1 else "where so few settings have results for all seeds"
        return f"no uncertainty can be given {why} ({counts})."
    if smallest_p(seeds, settings) > LEVEL:
        few = f"{settings} different settings over {seeds} seeds are too few"
        return f"{few} to tell a difference from noise: try more (seeds=[...])."
    chance = f"({f'p = {p:.2g}' if p >= 0.001 else 'p < 0.001'}; {counts})"
    if p <= LEVEL:
        return f"the setting matters beyond the noise between seeds: some are better than others {chance}."
    more = " Two seeds show only large effects: try more (seeds=[...])." if seeds == 2 else ""
    default = ", so nothing speaks against the default" * any(row["default"] for row in rows)
    return f"no setting is better than the others beyond the noise between seeds {chance}{default}.{more}"


def _on_valid(rows: list[dict[Any, Any]], default: dict[Any, Any] | None) -> str:
    """Return which setting is best on the validation split, and the default's result."""
    if len(rows) < 2:
        return ""
    usual = f"; {_named(default)}, has {_score(default)}" if default and default is not rows[0] else ""
    return f"On the validation split, the best setting is {_named(rows[0])} ({_score(rows[0])}){usual}."


def _named(row: dict[Any, Any]) -> str:
    return ("the default, " if row["default"] else "") + _label(row["params"])


def _score(row: dict[Any, Any]) -> str:
    return f"{row['objective'].replace('/', ' ')} {row['objective_value']:.3f}"


def _twins(same: list[list[str]], flat: bool) -> str:
    """List settings with bit-identical results, unless all are identical."""
    groups = [sorted(group, key=_natural) for group in same if len(group) > 1]
    lists = [", ".join(map(_label, group[:8])) + ", ..." * (len(group) > 8) for group in groups[:3]]
    text = f"Exactly the same result: {'; '.join(lists)}{'; ...' * (len(groups) > 3)}."
    return text if groups and not flat else ""


def _on_test(
    part: pd.DataFrame,
    rows: list[dict[Any, Any]],
    clips: Clips | None,
    margins: Mapping[str, float] | None,
) -> str:
    """Compare the best setting with the default on the test split, paired by seed."""
    if not rows or rows[0]["default"]:
        return ""
    best, *others = [row["params"] for row in _best_and_default(rows)]
    if not others:
        return f"The default {'has no complete trial' if part['default'].any() else 'was not tried'}."
    tests = part[(part["split"] == "test") & (part["metric"] == "mae") & part["params"].isin([best, *others])]
    names = tests["params"].map({best: "best", others[0]: BASELINE})
    cells = tests.assign(method=names, occlusion_protocol="test", occlusion_ratio=0.0, environment="")
    pairs = paired(cells, "mae", clips=clips)
    if pairs.empty:
        return ""
    both = cells[cells["seed"].isin(pairs["seed"])].groupby("method")["value"].mean()
    [row] = intervals(pairs, clips, margins).to_dict("records")
    spread = ", ".join(_spread(row))
    scores = f"MAE {both['best']:.3f}, the default {both[BASELINE]:.3f}"
    judged = f": {row['verdict']}" if row["n"] > 1 else ""
    text = f"{scores} (difference {signed(-row['gain'])}, {spread}){judged}"
    return f"On the test split, the best setting ({_label(best)}) has {text}."


def _spread(row: Mapping[Any, Any]) -> Iterator[str]:
    """Yield what is known of the uncertainty of a row of `intervals`, as intervals of the difference."""
    if row["n"] == 1:
        yield "one seed"
        return
    for end, words in (("_seeds", "95% interval over seeds"), ("", "for other seeds and clips")):
        # A gain is a lower MAE.
        low, high = -row[f"high{end}"], -row[f"low{end}"]
        if not math.isnan(low):
            yield f"{words} {signed(low)} to {signed(high)}"
    yield f"n = {row['n']}"


def _lost(part: pd.DataFrame, states: list[str]) -> str:
    """Return how many settings gave no value, and the first reason."""
    counts = [f"{states.count(state)} {state}" for state in STATES[1:] if state in states]
    reasons = part[(part["state"] == "failed") & (part["reason"] != "")]["reason"]
    why = f" (first reason: {reasons.iloc[0].rstrip('.')})" if len(reasons) else ""
    return f"Of {len(states)} settings {' and '.join(counts)}{why}." if counts else ""


def _label(params: str) -> str:
    """Format settings for people, e.g. ``attention=batch heads=4``."""
    return (
        " ".join(f"{name}={value_text(value)}" for name, value in json.loads(params).items()) or "no settings"
    )


def value_text(value: Any) -> str:
    """Format a setting's value for people."""
    text = value if isinstance(value, str) else json.dumps(value)
    return f"{value:.4g}" if isinstance(value, float) else text

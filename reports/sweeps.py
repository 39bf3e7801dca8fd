"""What a sweep shows: its trials in MLflow -> one tidy frame -> settings and verdicts -> tables.

The tidy frame has one row per number of a trial's cells and the columns ``COLUMNS``. ``params`` is the JSON
text of the trial's settings, keys sorted; ``state`` is "complete", "pruned" or "failed"; ``objective`` names
the number that the sweep optimised and ``objective_value`` is its mean over the trial's seeds (NaN if none).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pandas as pd

from harness.metrics import DIRECTION
from harness.records import safe_name
from reports.frame import of_one_version
from reports.markup import LATEX, MARKDOWN, file_name
from reports.permutation import identical_columns, permutation_p, smallest_p
from reports.stats import summarise, t_interval
from reports.table import Column, Part, Table, Value

if TYPE_CHECKING:
    from harness.tracking import Run
    from reports.links import Links
    from reports.runs import Source

GROUP = ("sweep", "dataset", "backbone", "method")
TRIAL = ("trial", "state", "reason", "params", "default", "objective", "objective_value", "synthetic")
COLUMNS = (*GROUP, *TRIAL, "seed", "split", "metric", "value")
STATES = ("complete", "pruned", "failed")
LEVEL = 0.05  # a p-value at or below it is taken to be more than noise
FEWEST = 3  # seeds for an interval in a table: that of two is wider than most metrics' range
FIGURES, ENDS = ("objective_value", "test_mae", "test_corr"), ("", "_std", "_low", "_high")


@dataclass(frozen=True)
class Verdict:
    """What the trials of one sweep say on one data set and backbone.

    best: params with the best objective, None where no trial is complete; among equals the default. value,
    default_value: their objective, None where there is none. p: see `permutation_p`. flat: all settings give
    the same numbers to the last bit. states: how many settings ended in each state. sentence: all of it.
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


def load_trials(source: Source) -> pd.DataFrame:
    """One row per number of each trial that ended, in an order of their names.

    A trial without any number has one row without seed, split, metric and value. Trials of a sweep with the
    same params count once: the first complete one, else the first that was pruned, else the first. Those of a
    sweep are of one results version, see `harness.versions.chosen`.
    """
    cells = source.complete()
    sweeps: dict[str, list[Run]] = {}
    for run in source.trials():
        sweeps.setdefault(run.tags["sweep"], []).append(run)
    kept = [run for trials in sweeps.values() for run in of_one_version(trials)]
    rows = [row for run in _once(kept) for row in _rows(run, cells)]
    frame = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"seed": "Int64"})
    return frame.sort_values([*GROUP, "trial", "seed", "split", "metric"], ignore_index=True)


def settings_table(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per params of each group, the best first; those that are not complete come last, unranked.

    ``seeds`` is how many seeds have the objective. Of it, ``test_mae`` and ``test_corr`` there are mean (the
    bare name), ``_std``, and ``_low`` and ``_high``: a 95% t interval over seeds, NaN for one seed.
    """
    rows = [row for _, part in frame.groupby(list(GROUP)) for row in _ranked(part)]
    names = ["rank", "params", "default", "state", "reason", "trial", "seeds", "objective"]
    columns = [*GROUP, *names, *(f"{name}{end}" for name in FIGURES for end in ENDS)]
    return pd.DataFrame(rows, columns=columns).astype({"rank": "Int64"})


def verdicts(frame: pd.DataFrame) -> list[Verdict]:
    """A verdict per group of the tidy frame, in the order of their names."""
    return [_verdict(part) for _, part in frame.groupby(list(GROUP))]


def write(frame: pd.DataFrame, study: str, folder: Path) -> list[Path]:
    """Write ``tables/sweep_NAME`` as CSV, Markdown and LaTeX for each sweep; returns the files."""
    tables = folder / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    written = []
    for sweep, part in frame.groupby("sweep"):
        title = f"Study {study}: sweep {sweep}"
        texts = {
            "csv": settings_table(part).to_csv(index=False, lineterminator="\n"),
            "md": to_markdown(part, title),
            "tex": to_latex(part, title),
        }
        for ending, text in texts.items():
            written.append(tables / f"sweep_{file_name(str(sweep))}.{ending}")
            written[-1].write_text(text, encoding="utf-8")
    return written


def to_markdown(frame: pd.DataFrame, title: str) -> str:
    """Write a heading, then for each group its verdict and the table of its settings, then the notes."""
    parts = [f"### {MARKDOWN.text(_title(frame, title))}"]
    for (_, dataset, backbone, method), part in frame.groupby(list(GROUP)):
        parts.append("#### " + MARKDOWN.text(f"{method} with {backbone} on {dataset}"))
        parts.append(MARKDOWN.text(_verdict(part).sentence))
        header, *rows = ([MARKDOWN.text(cell) for cell in row] for row in _table(part))
        rule = ["---:"] * (len(header) - 1) + ["---"]
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *rows)))
    parts.append("\n".join(f"- {MARKDOWN.text(note)}" for note in NOTES))
    return "\n\n".join(parts) + "\n"


def to_latex(frame: pd.DataFrame, title: str) -> str:
    """Write one ``table*`` (package booktabs) per group; its caption starts with the verdict."""
    lines = ["% needs \\usepackage{booktabs}"]
    for (_, dataset, backbone, method), part in frame.groupby(list(GROUP)):
        name = f"{_title(part, title)}, {method} with {backbone} on {dataset}."
        texts = (name, _verdict(part).sentence, *NOTES)
        caption = "\n".join(LATEX.text(text) for text in texts)
        header, *rows = (" & ".join(LATEX.text(cell) for cell in row) + r" \\" for row in _table(part))
        lines += ["\\begin{table*}", "\\centering", f"\\caption{{{caption}}}", "\\scriptsize"]
        columns = "r" * header.count(" & ") + "l"
        lines += ["\\setlength{\\tabcolsep}{2pt}", f"\\begin{{tabular}}{{{columns}}}", "\\toprule", header]
        lines += ["\\midrule", *rows, "\\bottomrule", "\\end{tabular}", "\\end{table*}"]
    return "\n".join(lines) + "\n"


def page_tables(frame: pd.DataFrame, study: str, links: Links) -> list[Table]:
    """The table of each group as a page shows it, its verdict among the notes; rows link to their trials."""
    found = []
    for number, (key, part) in enumerate(frame.groupby(list(GROUP)), 1):
        sweep, dataset, backbone, method = key
        title = _title(part, f"Study {study}: sweep {sweep}, {method} with {backbone} on {dataset}")
        header, *rows = _table(part)
        columns = [Column(text, text != "Note") for text in header]
        place = {"kind": "trial", **dict(zip(GROUP, map(str, key), strict=True))}
        trials = (links.runs({**place, "trial": str(row["trial"])}) for row in _ranked(part))
        values = [
            [Value(cell, order=_sorted_by(cell), link=link if k else "") for k, cell in enumerate(row)]
            for row, link in zip(rows, trials, strict=True)
        ]
        notes = [_verdict(part).sentence, *NOTES]
        found.append(Table(f"sweep_{number}", title, [Part(columns, [values])], notes))
    return found


def page_files(frame: pd.DataFrame, folder: Path) -> dict[str, dict[str, str]]:
    """Table of `page_tables` -> kind of file -> address in the report's folder; Optuna's plots among them."""
    found = {}
    for number, ((sweep, dataset, backbone, _), _) in enumerate(frame.groupby(list(GROUP)), 1):
        table = f"tables/sweep_{quote(file_name(str(sweep)))}"
        plots = Path("sweeps", safe_name(str(sweep)), safe_name(f"{backbone}-{dataset}"), "plots.html")
        files = {ending: f"{table}.{ending}" for ending in ("csv", "md", "tex")}
        shown = {"plots": quote(plots.as_posix())} if (folder / plots).exists() else {}
        found[f"sweep_{number}"] = {**files, **shown}
    return found


def _sorted_by(cell: str) -> float | str | None:
    """What a page sorts a cell of `_table` by: its first number, else its text."""
    first = cell.partition(" ")[0]
    try:
        return float(first)
    except ValueError:
        return None if cell == "–" else cell


NOTES = (
    f"Mean ± standard deviation over seeds [95% t interval; from {FEWEST} seeds on; it compares no settings];"
    " ↑↓ say what is better.",
    "Settings are chosen on the validation split alone. The best value of many is partly luck: on the"
    " validation split it promises too much, and as the seeds are the same, a little on the test split, too.",
    "p: permutation test of F over settings with seeds as blocks. Where nothing matters, one sweep in"
    f" {round(1 / LEVEL)} has p of at most {LEVEL}, more where neighbouring settings train nearly alike."
    " A larger p proves nothing: over two seeds, one of ten settings that stands out alone may get p = 0.1.",
)


def _once(runs: Iterable[Run]) -> list[Run]:
    """One run per sweep, data set, backbone, method and params."""
    found: dict[tuple[str, ...], Run] = {}
    for run in sorted(runs, key=lambda run: (STATES.index(run.tags["state"]), int(run.tags["trial"]))):
        found.setdefault((*(run.tags[name] for name in GROUP), _canonical(run.tags["params"])), run)
    return list(found.values())


def _canonical(params: str) -> str:
    return json.dumps(json.loads(params), sort_keys=True, ensure_ascii=False)


def _rows(run: Run, cells: Mapping[str, Run]) -> Iterator[dict[str, Any]]:
    tags = run.tags
    common: dict[str, Any] = {name: tags[name] for name in (*GROUP, "state", "objective")}
    common |= {name: tags.get(name) == "true" for name in ("default", "synthetic")}
    common |= {"trial": int(tags["trial"]), "reason": tags.get("reason", "")}
    common |= dict(params=_canonical(tags["params"]), objective_value=run.metrics.get("objective", math.nan))
    rows = [
        {**common, "seed": int(seed), "split": split, "metric": metric, "value": value}
        for seed, cell_id in json.loads(tags.get("cells", "{}")).items()
        if cell_id in cells
        for key, value in cells[cell_id].metrics.items()
        for split, _, metric in [key.partition("/")]
        if split in ("valid", "test") or split.startswith("test_r")
    ]
    yield from rows or [{**common, "seed": pd.NA, "split": "", "metric": "", "value": math.nan}]


def _wide(part: pd.DataFrame) -> pd.DataFrame:
    """The numbers of one group: a row per ("split/metric", seed), a column per params, NaN where none is."""
    keyed = part.assign(key=part["split"] + "/" + part["metric"])
    return keyed.pivot(index=["key", "seed"], columns="params", values="value")


def _of(wide: pd.DataFrame, key: str) -> pd.DataFrame:
    return wide[wide.index.get_level_values("key") == key]


def _ranked(part: pd.DataFrame) -> list[dict[Any, Any]]:
    """The rows of `settings_table` of one group; those without a rank have ``cost`` infinity."""
    rows: list[dict[Any, Any]] = part.drop_duplicates("params").to_dict("records")
    wide, sign = _wide(part), -_direction(part["objective"].iloc[0])
    for row in rows:
        done = row["state"] == "complete" and not math.isnan(row["objective_value"])
        row["cost"] = sign * row["objective_value"] if done else math.inf
        row["seeds"] = int(_of(wide, row["objective"])[row["params"]].count())
        for name, key in zip(FIGURES, (row["objective"], "test/mae", "test/corr"), strict=True):
            values = _of(wide, key)[row["params"]].to_numpy()
            summary, (row[f"{name}_low"], row[f"{name}_high"]) = summarise(values), t_interval(values)
            row[f"{name}_std"], row[f"{name}_n"] = summary.std, summary.n
            # The trial's own mean is what the sweep went by, also where cells are gone.
            row.setdefault(name, summary.mean)
    for row in rows:
        better = sum(other["cost"] < row["cost"] for other in rows)
        row["rank"] = 1 + better if row["cost"] < math.inf else pd.NA
    return sorted(rows, key=lambda row: (row["cost"], not row["default"], _natural(row["params"])))


def _direction(objective: str) -> int:
    return DIRECTION[objective.partition("/")[2]]


def _natural(params: str) -> list[tuple[float, str]]:
    """Sort key by which numbers in settings stand in their order."""
    values = json.loads(params).values()
    return [(v, "") if isinstance(v, (int, float)) else (math.inf, json.dumps(v)) for v in values]


def _verdict(part: pd.DataFrame) -> Verdict:
    rows = [row for row in _ranked(part) if row["cost"] < math.inf]
    states = list(part.drop_duplicates("params")["state"])
    wide = _wide(part)[[row["params"] for row in rows]].dropna(axis=1, how="all")
    same = identical_columns(wide)
    flat = len(same) == 1 < len(rows) == wide.shape[1]
    values = _of(wide, part["objective"].iloc[0])[[group[0] for group in same]]
    # A seed that few settings have would cost all others; a setting without one of the rest is left out.
    values = values[values.notna().mean(axis=1) > 0.5].dropna(axis=1)
    p = 1.0 if flat and len(values) > 1 else permutation_p(values.to_numpy())
    default = next((row for row in rows if row["default"]), None)
    sweep, dataset, backbone, method = part[list(GROUP)].iloc[0]
    texts = [_finding(rows, flat, values.shape, p), "" if flat else _on_valid(rows, default)]
    if p is not None and not flat and "pruned" in states:
        texts.insert(1, f"The permutation test runs over the {len(rows)} settings trained to their end.")
    texts += [_twins(same, flat), _on_test(part, rows, default), _lost(part, states)]
    return Verdict(
        *(sweep, dataset, backbone, method),
        best=rows[0]["params"] if rows else None,
        value=rows[0]["objective_value"] if rows else None,
        default_value=default["objective_value"] if default else None,
        p=p,
        seeds=len(values),
        flat=flat,
        states={state: states.count(state) for state in STATES},
        sentence=f"{sweep} on {backbone}, {dataset}: {' '.join(filter(None, texts))}",
    )


def _finding(rows: list[dict[Any, Any]], flat: bool, shape: tuple[int, ...], p: float | None) -> str:
    """What the validation split says; shape: (seeds, different settings) that were compared."""
    if not rows:
        return "no trial is complete."
    seeds, settings = shape
    counts = f"{len(rows)} settings, {seeds} seed{'s' * (seeds != 1)}"
    if len(rows) == 1:
        return f"only one setting is complete, {_named(rows[0])} ({_score(rows[0])}): nothing to compare."
    if flat:
        value = f"{_score(rows[0])}; {counts}"
        return f"every setting gives exactly the same result ({value}): here it has no effect."
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
    """Which setting is the best on the validation split, and what the default has there."""
    if len(rows) < 2:
        return ""
    usual = f"; {_named(default)}, has {_score(default)}" if default and default is not rows[0] else ""
    return f"On the validation split the best is {_named(rows[0])} ({_score(rows[0])}){usual}."


def _named(row: dict[Any, Any]) -> str:
    return ("the default, " if row["default"] else "") + _label(row["params"])


def _score(row: dict[Any, Any]) -> str:
    return f"{row['objective'].replace('/', ' ')} {row['objective_value']:.3f}"


def _twins(same: list[list[str]], flat: bool) -> str:
    """Which settings cannot be told apart, unless none can."""
    groups = [sorted(group, key=_natural) for group in same if len(group) > 1]
    lists = [", ".join(map(_label, group[:8])) + ", ..." * (len(group) > 8) for group in groups[:3]]
    text = f"Exactly the same result: {'; '.join(lists)}{'; ...' * (len(groups) > 3)}."
    return text if groups and not flat else ""


def _on_test(part: pd.DataFrame, rows: list[dict[Any, Any]], default: dict[Any, Any] | None) -> str:
    """Compare the best with the default on the test split, paired by seed."""
    if not rows or rows[0]["default"]:
        return ""
    if default is None:
        return f"The default {'has no complete trial' if part['default'].any() else 'was not tried'}."
    pairs = _of(_wide(part), "test/mae")[[rows[0]["params"], default["params"]]].dropna().to_numpy()
    if not len(pairs):
        return ""
    (best, usual), (low, high) = pairs.mean(axis=0), t_interval(pairs[:, 0] - pairs[:, 1])
    spread = f"95% interval {low:+.3f} to {high:+.3f}, n = {len(pairs)}" if len(pairs) > 1 else "one seed"
    noise = ", inside the noise" if low <= 0 <= high else ""
    found = f"MAE {best:.3f}, the default {usual:.3f} (difference {best - usual:+.3f}, {spread}){noise}"
    return f"On the test split the best, {_label(rows[0]['params'])}, has {found}."


def _lost(part: pd.DataFrame, states: list[str]) -> str:
    """How many settings gave no value, and why."""
    counts = [f"{states.count(state)} {state}" for state in STATES[1:] if state in states]
    reasons = part[(part["state"] == "failed") & (part["reason"] != "")]["reason"]
    why = f" (first reason: {reasons.iloc[0].rstrip('.')})" if len(reasons) else ""
    return f"Of {len(states)} settings {' and '.join(counts)}{why}." if counts else ""


def _label(params: str) -> str:
    """Settings for people, e.g. ``attention=batch heads=4``."""
    return " ".join(f"{name}={_value(value)}" for name, value in json.loads(params).items()) or "no settings"


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return f"{value:.4g}" if isinstance(value, float) else text


def _title(frame: pd.DataFrame, title: str) -> str:
    mark = f"{'' if frame['synthetic'].all() else 'includes '}synthetic stand-in data"
    return f"{title} ({mark})" if frame["synthetic"].any() else title


def _table(part: pd.DataFrame) -> list[list[str]]:
    """Header and rows of the table of one group, as plain text."""
    rows, objective = _ranked(part), part["objective"].iloc[0]
    shown = f"{objective.replace('/', ' ')} {'↑' if _direction(objective) > 0 else '↓'}"
    params = [json.loads(row["params"]) for row in rows]
    names = sorted({name for values in params for name in values})
    lines = [["Rank", *names, "Seeds", shown, "Test MAE ↓", "Test Corr ↑", "Note"]]
    for values, row in zip(params, rows, strict=True):
        rank = "–" if pd.isna(row["rank"]) else str(row["rank"])
        settings = [_value(values[name]) if name in values else "–" for name in names]
        marks = ["default"] * row["default"] + [row["state"]] * (row["state"] != "complete")
        figures = (_figure(row, name) for name in FIGURES)
        lines.append([rank, *settings, str(row["seeds"]), *figures, ", ".join(marks)])
    return lines


def _figure(row: Mapping[Any, Any], name: str) -> str:
    mean, std, low, high = (row[f"{name}{end}"] for end in ENDS)
    spread = "" if math.isnan(std) else f" ± {std:.3f}"
    interval = f" [{low:.3f}, {high:.3f}]" if row[f"{name}_n"] >= FEWEST else ""
    return "–" if math.isnan(mean) else f"{mean:.3f}{spread}{interval}"

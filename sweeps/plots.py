"""Optuna's own plots of a study: a PNG file each, and one interactive page that needs no network.

A plot that a study cannot have is left out, and the page says why. Trials that lost their driver or were
tried again are no results: they are in no plot, and all others keep their numbers.
"""

from __future__ import annotations

import contextlib
import functools
import html
import logging
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import optuna
from matplotlib import pyplot as plt
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweeps.pictures import LEGEND_TRIALS, finish, in_order
from sweeps.search import LOST

PAGE = "plots.html"
DPI = 120
# Panels grow with the square of the parameters, and so does the time: 1.5 s for four of them.
CONTOUR_PARAMETERS = 4
# The states whose intermediate values Optuna plots.
REPORTING = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
ONE_VALUE = "it takes two parameters that have several values each"
ONE_NUMBER = "it takes two parameters that have several values each, all of them numbers"
CONSTANT = "all complete trials have the same value"
# Nothing is loaded from anywhere, whatever a script may try.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
STYLE = "body{font-family:sans-serif;margin:2em auto;max-width:75em;padding:0 1em}section{overflow-x:auto}"
NOT_BETTER = (
    "Importance says what the values vary with, noise included; it does not say that a setting is better."
)
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Facts:
    """What decides which plots there are.

    study: a copy. lost: how many of its trials are no results. trials: the complete ones with a finite value.
    parameters: names, sorted. varied: those of them with more than one value. numeric: those of these that
    take numbers alone. curves: how many trials with intermediate values are shown.
    """

    study: optuna.Study
    objective: str
    lost: int
    trials: Sequence[FrozenTrial]
    parameters: list[str]
    varied: list[str]
    numeric: list[str]
    curves: int

    @property
    def constant(self) -> bool:
        """Whether the complete trials differ in their values by no more than rounding."""
        values = [trial.value or 0.0 for trial in self.trials]
        return math.isclose(min(values), max(values), rel_tol=1e-9)

    @functools.cached_property
    def contour(self) -> list[str]:
        """The most important numeric parameters, as many as a contour plot has room for; sorted by name."""
        if len(self.numeric) <= CONTOUR_PARAMETERS:
            return self.numeric
        ranked = get_param_importances(self.study, **_importance(self))
        return sorted([name for name in ranked if name in self.numeric][:CONTOUR_PARAMETERS])


@dataclass(frozen=True)
class Plot:
    """One of Optuna's plots: file name and div id, heading, function, why it is missing, arguments, inches.

    ``missing`` returns a reason, or an empty string where the plot can be made.
    """

    name: str
    heading: str
    function: str
    missing: Callable[[Facts], str]
    arguments: Callable[[Facts], dict[str, Any]]
    inches: Callable[[Facts], tuple[float, float]] = lambda facts: (6.4, 4.8)


def draw(study: optuna.Study, folder: Path, title: str) -> list[Path]:
    """Draw a study with one objective into a folder, made if need be; the same study gives the same bytes.

    Args:
        study: its user attribute "objective" names the objective on the axes.
        folder: plots that an earlier call left there and that are not made now are removed.
        title: the heading of the page and of each picture, any text.

    Returns:
        The files written: history, importance, slice, contour, parallel and curves as ``.png``, where they
        can be made, and "plots.html" with all of these and the reasons for those left out.

    Raises:
        OSError: the folder cannot be written. What the storage raises while the trials are read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written, divs, notes = [], [], []
    with _quietly():
        facts = _facts(study)
        for plot in PLOTS:
            path = folder / f"{plot.name}.png"
            path.unlink(missing_ok=True)
            reason = plot.missing(facts) if facts.trials else _nothing(plot, facts)
            if not reason:
                try:
                    divs.append(_draw_one(plot, facts, path, title))
                    written.append(path)
                    continue
                except OSError:
                    raise
                except Exception as error:  # Of plots that no rule above foresees, one may not cost the rest.
                    path.unlink(missing_ok=True)
                    reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
            notes.append(f"{plot.heading} is left out: {reason}.")
            logger.info(notes[-1])
        notes += [*_about_lost(facts), *_about_contour(facts, folder / "contour.png" in written)]
        page = folder / PAGE
        page.write_text(_page(title, _summary(facts), divs, notes), encoding="utf-8")
    return [*written, page]


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Neither warnings of plots that are foreseen to be missing, nor a style that stays behind."""
    level = optuna.logging.get_verbosity()
    with warnings.catch_warnings(), matplotlib.rc_context():
        warnings.simplefilter("ignore")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            yield
        finally:
            optuna.logging.set_verbosity(level)


def _facts(study: optuna.Study) -> Facts:
    # A copy: all plots show the same trials, whoever goes on with the study, and the storage is read once.
    frozen = optuna.create_study(direction=study.direction)
    stored = study.get_trials(deepcopy=False)
    retried = {t.user_attrs.get("retry_of") for t in stored}
    lost = {t.number for t in stored if t.number in retried or t.user_attrs.get("why") == LOST}
    # A trial that failed is in no plot, and keeps the place of the one that is left out.
    frozen.add_trials([create_trial(state=TrialState.FAIL) if t.number in lost else t for t in stored])
    trials = [t for t in frozen.get_trials(states=(TrialState.COMPLETE,)) if math.isfinite(t.value or 0.0)]
    values: dict[str, set[str]] = {}
    texts: set[str] = set()
    for trial in trials:
        texts |= {name for name, kind in trial.distributions.items() if not _of_numbers(kind)}
        for name, value in trial.params.items():
            values.setdefault(name, set()).add(repr(value))
    varied = sorted(name for name, found in values.items() if len(found) > 1)
    numeric = [name for name in varied if name not in texts]
    curves = sum(bool(trial.intermediate_values) for trial in frozen.get_trials(states=REPORTING))
    objective = str(study.user_attrs.get("objective", "objective"))
    return Facts(frozen, objective, len(lost), trials, sorted(values), varied, numeric, curves)


def _of_numbers(kind: BaseDistribution) -> bool:
    choices = kind.choices if isinstance(kind, CategoricalDistribution) else ()
    return all(isinstance(choice, int | float) and not isinstance(choice, bool) for choice in choices)


def _nothing(plot: Plot, facts: Facts) -> str:
    return plot.missing(facts) if plot.name == "curves" else "no trial is complete"


def _draw_one(plot: Plot, facts: Facts, path: Path, title: str) -> str:
    """Write a plot's PNG file and return its part of the page."""
    import optuna.visualization.matplotlib
    from plotly.io import to_html

    arguments, inches = plot.arguments(facts), plot.inches(facts)
    study = in_order(facts.study) if plot.name == "parallel" else facts.study
    open_before = set(plt.get_fignums())
    try:
        with matplotlib.rc_context({"figure.figsize": inches}):
            drawn = getattr(optuna.visualization.matplotlib, plot.function)
            # Matplotlib takes what stands between two dollar signs for mathematics.
            drawn(study, **_labelled(arguments, facts.objective.replace("$", r"\$")))
            finish(plt.gcf(), title, facts.curves if plot.name == "curves" else None)
            plt.gcf().savefig(path, dpi=DPI, bbox_inches="tight")
    finally:
        for number in set(plt.get_fignums()) - open_before:
            plt.close(number)
    interactive = getattr(optuna.visualization, plot.function)
    figure = interactive(study, **_labelled(arguments, html.escape(facts.objective)))
    figure.update_layout(height=max(450, round(90 * inches[1])))
    if plot.name == "curves":
        figure.update_layout(xaxis_title="epoch", showlegend=facts.curves <= LEGEND_TRIALS)
    options = {"displaylogo": False, "responsive": True}
    div = str(to_html(figure, options, include_plotlyjs=False, full_html=False, div_id=plot.name))
    return f"{div}<p>{NOT_BETTER}</p>" if plot.name == "importance" else div


def _labelled(arguments: dict[str, Any], objective: str) -> dict[str, Any]:
    return {**arguments, "target_name": objective} if "target_name" in arguments else arguments


def _no_parameters(facts: Facts) -> str:
    return "" if facts.parameters else "the trials have no parameters"


def _nothing_to_compare(facts: Facts) -> str:
    if len(facts.varied) < 2:
        return ONE_VALUE
    # Of equal values, the contour plot would show the rounding of its own interpolation.
    return CONSTANT if facts.constant else ""


def _importance(facts: Facts) -> dict[str, Any]:
    # Names are given because Optuna, left alone, takes them in the order of a set.
    return {"evaluator": FanovaImportanceEvaluator(seed=0), "params": facts.varied}


def _no_contour(facts: Facts) -> str:
    several = len(facts.varied) > 1 and len(facts.numeric) < 2
    # Between texts, or a number and none, there is nothing to interpolate.
    return ONE_NUMBER if several else _nothing_to_compare(facts)


def _contour_inches(facts: Facts) -> tuple[float, float]:
    count = min(len(facts.numeric), CONTOUR_PARAMETERS)
    return (6.4, 4.8) if count < 3 else (3.0 * count, 2.4 * count)


def _about_lost(facts: Facts) -> list[str]:
    trials = "1 trial that was" if facts.lost == 1 else f"{facts.lost} trials that were"
    return [f"Not shown: {trials} interrupted and tried again; the numbers are missing."] * bool(facts.lost)


def _about_contour(facts: Facts, drawn: bool) -> list[str]:
    if not drawn or len(facts.contour) == len(facts.varied):
        return []
    shown = f"{len(facts.contour)} of {len(facts.varied)} parameters: {', '.join(facts.contour)}"
    return [f"The contour plot shows {shown}."]


PLOTS = (
    Plot(
        "history",
        "The optimization history",
        "plot_optimization_history",
        lambda facts: "",
        lambda facts: {"target_name": ""},
    ),
    Plot(
        "importance",
        "The parameters' importance",
        "plot_param_importances",
        _nothing_to_compare,
        lambda facts: {**_importance(facts), "target_name": ""},
    ),
    Plot(
        "slice",
        "The slice plot",
        "plot_slice",
        _no_parameters,
        lambda facts: {"params": facts.parameters, "target_name": ""},
    ),
    Plot(
        "contour",
        "The contour plot",
        "plot_contour",
        _no_contour,
        lambda facts: {"params": facts.contour, "target_name": ""},
        _contour_inches,
    ),
    Plot(
        "parallel",
        "The parallel coordinate plot",
        "plot_parallel_coordinate",
        _no_parameters,
        lambda facts: {"params": facts.parameters, "target_name": ""},
        lambda facts: (max(6.4, 1.6 * (1 + len(facts.parameters))), 4.8),
    ),
    Plot(
        "curves",
        "The plot of intermediate values",
        "plot_intermediate_values",
        lambda facts: "" if facts.curves else "no trial reported any",
        lambda facts: {},
    ),
)


def _summary(facts: Facts) -> str:
    counts = Counter(trial.state.name.lower() for trial in facts.study.trials)
    counts = +(counts - Counter(fail=facts.lost))
    if not counts:
        return "The study has no trials yet."
    total, states = sum(counts.values()), ", ".join(f"{n} {state}" for state, n in sorted(counts.items()))
    better = "lower" if facts.study.direction == optuna.study.StudyDirection.MINIMIZE else "higher"
    trials = "1 trial" if total == 1 else f"{total} trials"
    return f"{trials} ({states}); of {facts.objective}, the {better} the better."


def _page(title: str, summary: str, divs: list[str], notes: list[str]) -> str:
    """The page, with Plotly's script in it once."""
    from plotly.offline import get_plotlyjs

    parts = [
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><style>{STYLE}</style>',
        f"<script>{get_plotlyjs()}</script>" if divs else "",
        f"</head><body><h1>{html.escape(title)}</h1><p>{html.escape(summary)}</p>",
        *(f"<section>{div}</section>" for div in divs),
        *(f"<p>{html.escape(note)}</p>" for note in notes),
        "</body></html>\n",
    ]
    return "\n".join(parts)

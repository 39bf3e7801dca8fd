"""Optuna's own plots of a study: a PNG file each, and one interactive page that needs no network.

A plot that a study cannot have is left out, and the page says why.
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
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

PAGE = "plots.html"
DPI = 120
# Panels grow with the square of the parameters, and so does the time: 1.5 s for four of them.
CONTOUR_PARAMETERS = 4
ONE_VALUE = "it takes two parameters that have several values each"
CONSTANT = "all complete trials have the same value"
# Nothing is loaded from anywhere, whatever a script may try.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
STYLE = "body{font-family:sans-serif;margin:2em auto;max-width:75em;padding:0 1em}section{overflow-x:auto}"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Facts:
    """What decides which plots there are.

    trials: the complete ones with a finite value. parameters: names, sorted. varied: those of them with
    more than one value. curves: whether any trial reported intermediate values.
    """

    study: optuna.Study
    objective: str
    trials: Sequence[FrozenTrial]
    parameters: list[str]
    varied: list[str]
    curves: bool

    @property
    def constant(self) -> bool:
        """Whether the complete trials differ in their values by no more than rounding."""
        values = [trial.value or 0.0 for trial in self.trials]
        return math.isclose(min(values), max(values), rel_tol=1e-9)

    @functools.cached_property
    def contour(self) -> list[str]:
        """The most important parameters, as many as a contour plot has room for; sorted by name."""
        if len(self.varied) <= CONTOUR_PARAMETERS:
            return self.varied
        return sorted(list(get_param_importances(self.study, **_importance(self)))[:CONTOUR_PARAMETERS])


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
        title: the page's heading, any text.

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
                    divs.append(_draw_one(plot, facts, path))
                    written.append(path)
                    continue
                except OSError:
                    raise
                except Exception as error:  # Of plots that no rule above foresees, one may not cost the rest.
                    path.unlink(missing_ok=True)
                    reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
            notes.append(f"{plot.heading} is left out: {reason}.")
            logger.info(notes[-1])
        notes += _about_contour(facts, folder / "contour.png" in written)
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
    frozen.add_trials(study.get_trials(deepcopy=False))
    trials = [t for t in frozen.get_trials(states=(TrialState.COMPLETE,)) if math.isfinite(t.value or 0.0)]
    values: dict[str, set[str]] = {}
    for trial in trials:
        for name, value in trial.params.items():
            values.setdefault(name, set()).add(repr(value))
    varied = sorted(name for name, found in values.items() if len(found) > 1)
    curves = any(trial.intermediate_values for trial in frozen.trials)
    objective = str(study.user_attrs.get("objective", "objective"))
    return Facts(frozen, objective, trials, sorted(values), varied, curves)


def _nothing(plot: Plot, facts: Facts) -> str:
    return plot.missing(facts) if plot.name == "curves" else "no trial is complete"


def _draw_one(plot: Plot, facts: Facts, path: Path) -> str:
    """Write a plot's PNG file and return its part of the page."""
    import optuna.visualization.matplotlib
    from plotly.io import to_html

    arguments, inches = plot.arguments(facts), plot.inches(facts)
    open_before = set(plt.get_fignums())
    try:
        with matplotlib.rc_context({"figure.figsize": inches}):
            drawn = getattr(optuna.visualization.matplotlib, plot.function)
            # Matplotlib takes what stands between two dollar signs for mathematics.
            drawn(facts.study, **_labelled(arguments, facts.objective.replace("$", r"\$")))
            plt.gcf().savefig(path, dpi=DPI, bbox_inches="tight")
    finally:
        for number in set(plt.get_fignums()) - open_before:
            plt.close(number)
    interactive = getattr(optuna.visualization, plot.function)
    figure = interactive(facts.study, **_labelled(arguments, html.escape(facts.objective)))
    figure.update_layout(height=max(450, round(90 * inches[1])))
    options = {"displaylogo": False, "responsive": True}
    return str(to_html(figure, options, include_plotlyjs=False, full_html=False, div_id=plot.name))


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


def _contour_inches(facts: Facts) -> tuple[float, float]:
    count = min(len(facts.varied), CONTOUR_PARAMETERS)
    return (6.4, 4.8) if count < 3 else (3.0 * count, 2.4 * count)


def _about_contour(facts: Facts, drawn: bool) -> list[str]:
    if not drawn or len(facts.varied) <= CONTOUR_PARAMETERS:
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
        _nothing_to_compare,
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
        lambda facts: (6.4, max(4.8, 0.22 * len(facts.study.trials))),
    ),
)


def _summary(facts: Facts) -> str:
    counts = Counter(trial.state.name.lower() for trial in facts.study.trials)
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

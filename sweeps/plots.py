"""Optuna's own plots of a study, on one interactive page that needs no network."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import optuna.visualization
from optuna.search_space import intersection_search_space
from plotly.io import to_html
from plotly.offline import get_plotlyjs

from harness.errors import one_line
from harness.files import replacing

PLOTS = (
    "plot_optimization_history",
    "plot_param_importances",
    "plot_slice",
    "plot_contour",
    "plot_parallel_coordinate",
)
# By default Plotly shows a button that uploads the plot with its data, and a link to Plotly's website.
CONFIG = {"showSendToCloud": False, "displaylogo": False}
TEMPLATE = Path(__file__).with_name("plots.html")


def write_plots(study: optuna.Study, path: Path, title: str) -> None:
    """Write an HTML page with the plots of a single-objective study; equal trials give equal bytes.

    A plot that Optuna cannot draw for these trials is left out, and the page says why.

    Args:
        study: the Optuna study; its user attribute "objective" labels the axes.
        path: the HTML file; missing folders are created.
        title: the heading of the page, any text.

    Raises:
        OSError: the file cannot be written. Errors of the storage also propagate.
    """
    # The copy reads the storage once, outside of the `try` block that catches the errors of a plot.
    copy = optuna.create_study(direction=study.direction)
    copy.add_trials(study.get_trials(deepcopy=False))
    figures: list[str] = []
    notes: list[str] = []
    for name, options in _options(copy, study.user_attrs.get("objective", "objective")).items():
        try:
            with _optuna_warnings(notes):
                figure = getattr(optuna.visualization, name)(copy, **options)
            if not figure.data:
                raise ValueError("Optuna has nothing to draw")
            figures.append(to_html(figure, CONFIG, include_plotlyjs=False, full_html=False, div_id=name))
        except Exception as error:  # An error in one plot must not prevent the others.
            notes.append(f"{name} is left out: {one_line(error)}.")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    page = template.render(title=title, plotly=get_plotlyjs(), figures=figures, notes=notes)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _options(study: optuna.Study, objective: str) -> dict[str, dict[str, Any]]:
    """Return function name of `optuna.visualization` -> keyword arguments, one entry per plot."""
    options: dict[str, dict[str, Any]] = {name: {"target_name": objective} for name in PLOTS}
    # Without `params`, Optuna orders equal importances by the hashes of their names, which vary.
    names = sorted(intersection_search_space(study.get_trials(deepcopy=False)))
    options["plot_param_importances"]["params"] = names
    return options | {"plot_intermediate_values": {}}


@contextlib.contextmanager
def _optuna_warnings(notes: list[str]) -> Iterator[None]:
    """Append Optuna's warnings to the notes."""
    # Optuna also logs why it cannot draw a plot; `write_plots` notes the same.
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings(record=True) as messages:
            yield
    finally:
        optuna.logging.set_verbosity(level)
    notes += [str(warning.message) for warning in messages if warning.category is UserWarning]

"""What is changed in Optuna's plots: titles, ticks, legends and the order of choices."""

from __future__ import annotations

import math
import textwrap

import optuna
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial

LEGEND_TRIALS = 12
LOG_TICKS = 5


class _Choice(float):
    """A choice as a number, its place among the choices, that is shown as the choice."""

    text = ""

    def __str__(self) -> str:
        return self.text


def in_order(study: optuna.Study) -> optuna.Study:
    """A copy of the complete trials, numbered anew, for the parallel coordinate plot.

    Choices stand in the order of the space there, not in that of their first trials.
    """
    copy = optuna.create_study(direction=study.direction)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        params, kinds = dict(trial.params), dict(trial.distributions)
        for name, kind in trial.distributions.items():
            if isinstance(kind, CategoricalDistribution):
                places = [_Choice(i) for i in range(len(kind.choices))]
                for place, choice in zip(places, kind.choices, strict=True):
                    place.text = str(choice)
                kinds[name] = CategoricalDistribution(places)
                params[name] = places[int(kind.to_internal_repr(trial.params[name]))]
        copy.add_trial(create_trial(value=trial.value, params=params, distributions=kinds))
    return copy


def finish(figure: Figure, title: str, curves: int | None) -> None:
    """Put a title above what Optuna has drawn and few ticks on logarithmic axes.

    curves: how many curves over epochs the figure shows, None where it shows none.
    """
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() == "log":
                ticks = log_ticks(*sorted(axis.get_view_interval()))
                axis.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
                axis.set_minor_locator(NullLocator())
        if curves is not None:
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            if curves > LEGEND_TRIALS and (legend := axes.get_legend()):
                legend.remove()
    lines = textwrap.wrap(title, max(40, int(12 * figure.get_figwidth())))
    text = "\n".join([*lines, figure.get_suptitle()]).strip()
    figure.suptitle(text.replace("$", r"\$"), y=1.0, verticalalignment="bottom", fontsize=9)


def log_ticks(low: float, high: float) -> list[float]:
    """Two to five round numbers from low to high, both above 0; fewer where the two are all but equal."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits, stride in (
        ((1, 2, 5), 1),
        ((1, 3), 1),
        *(((1,), stride) for stride in range(1, len(powers))),
    ):
        ticks = [float(f"{digit}e{power}") for power in powers[::stride] for digit in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if 2 <= len(ticks) <= LOG_TICKS:
            return ticks
    return [tick for tick in MaxNLocator(3).tick_values(low, high) if low <= tick <= high]

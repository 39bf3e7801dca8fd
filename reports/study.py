"""All that a report shows of a study, as plain frames; read from MLflow once."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from reports.frame import is_ablation, named
from reports.mlflow_links import Links

SAMPLE_KEYS = ("dataset", "backbone", "method", "seed", "run_id", "cell_id")
OUTCOMES = ("cell", "state", "reason", "run_id", "dataset", "backbone", "method", "seed", "requested")
NOT_OF_SWEEPS = ("methods", "seeds", "matrix", "tuned", "retry", "occlusion.protocols")
STATES = ("done", "failed", "diverged", "missing")


def _no_samples(run_id: str) -> dict[str, np.ndarray]:
    raise KeyError(run_id)


@dataclass(frozen=True)
class Study:
    """What is known of a study.

    frame: the tidy frame of its matrix, see `reports.frame.load_frame`. kinds: data set -> kind of metrics.
    trials: those of its sweeps, see `reports.trials.COLUMNS`. outcomes: a row per cell that was asked for or
    has a run, with the columns ``OUTCOMES``; ``state`` is one of ``STATES``, ``requested`` whether the last
    request of the benchmark asked for it. datasets: what is known of each, see
    `describe_dataset`. synthetic: names of those that are stand-ins. sampled: the runs that
    keep samples, with the columns ``SAMPLE_KEYS``; ``method`` as in tables. samples: run_id -> arrays, see
    `harness.train.inspection.sample_latents`. facts: name and value of what the page's foot tells (versions).
    settings: sentences on settings that differ from the published ones. warnings: sentences on results of
    other versions and on trainings that ended early. description: of the study. request: arguments of the
    last call of the benchmark.
    """

    name: str
    frame: pd.DataFrame
    kinds: Mapping[str, str]
    trials: pd.DataFrame
    outcomes: pd.DataFrame
    links: Links
    datasets: Sequence[Mapping[str, Any]] = ()
    synthetic: frozenset[str] = frozenset()
    sampled: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(SAMPLE_KEYS)))
    samples: Callable[[str], dict[str, np.ndarray]] = _no_samples
    facts: Mapping[str, str] = field(default_factory=dict)
    settings: Sequence[str] = ()
    warnings: Sequence[str] = ()
    description: str = ""
    request: Sequence[str] = ()

    def scores(self) -> pd.DataFrame:
        """Scores of the test split, with the columns ``SCORES`` of `reports.frame`, methods as in tables.

        Variants with a component switched off are in the table of the ablation alone. Not to be changed.
        """
        return self._scores

    @functools.cached_property
    def _scores(self) -> pd.DataFrame:
        rows = named(self.frame[self.frame["split"] == "test"])
        return rows[np.array([not is_ablation(name) for name in rows["method"]], bool)]

    def counts(self) -> dict[str, int]:
        """How many cells there are in each state; "missing" of the last request."""
        states = list(self.outcomes["state"])
        return {state: states.count(state) for state in STATES}

    def command(self, fill: str) -> str:
        """A make command, or what does the same with the settings of the last request, as one types it.

        fill: ``make benchmark``, with further settings in ``ARGS=...``, or ``make sweep PARAM=...``.
        """
        given = dict(argument.partition("=")[::2] for argument in self.request)
        if set(given) <= {"profile", "study"} and given.get("profile", "quick") == "quick":
            return fill if self.name == "quick" else f"{fill} STUDY={shlex.quote(self.name)}"
        target, *rest = shlex.split(fill.removeprefix("make "))
        more = [text for part in rest for text in shlex.split(part.removeprefix("ARGS="))]
        if target == "sweep":
            more = [text.replace("PARAM=", "param=") for text in more]
            given = {key: value for key, value in given.items() if key not in NOT_OF_SWEEPS}
        if "matrix=ablation" in more:
            given.pop("methods", None)  # it would be these whose parts are switched off
        given = {"study": self.name, **given}
        kept = [f"{k}={v}" for k, v in given.items() if not any(text.startswith(f"{k}=") for text in more)]
        module = {"benchmark": "harness.benchmark", "sweep": "sweeps.run"}[target]
        return f"python -m {module} {shlex.join([*more, *kept])}"

    def stand_in(self, datasets: Sequence[str]) -> str:
        """What a title says of synthetic data among these: empty, or in parentheses.

        Where nothing is shown, and so of no data set, it is said of all of the study.
        """
        known = [*self.frame["dataset"].unique(), *self.trials["dataset"].unique()]
        found = {name in self.synthetic for name in datasets or known}
        if True not in found:
            return ""
        return " (synthetic stand-in data)" if found == {True} else " (includes synthetic stand-in data)"

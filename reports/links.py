"""Where the MLflow UI shows a run, or the runs behind a mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from harness.records import VIEW

# MLflow's UI opens elsewhere, where nothing of a training is to be seen.
TRAINING = "machine_learning"
LOCAL = "http://127.0.0.1:5000"
"""Where `make ui` serves the store below ``var``."""


@dataclass(frozen=True)
class Links:
    """Addresses of one experiment in the UI; base: of the server, without a slash at its end."""

    base: str
    experiment_id: str

    def study(self) -> str:
        """The study's cells, in the view that `harness.tracking.Tracker.announce` stores with it."""
        return f"{self._runs()}?workflowType={TRAINING}&viewStateShareKey={VIEW}"

    def run(self, run_id: str) -> str:
        """The page of one run."""
        return f"{self._runs()}/{quote(run_id)}"

    def runs(self, tags: Mapping[str, str] | None = None) -> str:
        """The list of the study's complete cells with these tags."""
        asked = {"kind": "cell", **(tags or {})}
        text = " and ".join(f"tags.{name} = {_quoted(value)}" for name, value in asked.items())
        order = quote("metrics.`test/mae`", safe="")
        view = f"workflowType={TRAINING}&orderByKey={order}&orderByAsc=true"
        return f"{self._runs()}?{view}&searchFilter={quote(text, safe='')}"

    def _runs(self) -> str:
        return f"{self.base}/#/experiments/{quote(self.experiment_id)}/runs"


def _quoted(value: str) -> str:
    return f"'{value}'" if "'" not in value else f'"{value}"'

"""Where the MLflow UI shows a run, or the runs behind a mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from harness.config.tuned import tuned_label
from harness.tracking.tags import VIEW

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
        """The study's cells, in the view that `harness.tracking.tracker.Tracker.announce` stores with it."""
        return f"{self._runs()}?workflowType={TRAINING}&viewStateShareKey={VIEW}"

    def run(self, run_id: str) -> str:
        """The page of one run."""
        return f"{self._runs()}/{quote(run_id)}"

    def behind(self, row: Mapping[Any, Any]) -> str:
        """The list of the complete cells behind a row of a table, clean ones where it names no occlusion.

        row: some of dataset, backbone, method (as in tables), occlusion_protocol and occlusion_ratio.
        """
        tags = {"complete": "true", "occlusion_protocol": str(row.get("occlusion_protocol", "test"))}
        tags |= {name: str(row[name]) for name in ("dataset", "backbone") if name in row}
        method = str(row["method"])
        tuned = method.removesuffix(tuned_label(""))
        tags |= {"variant": method} if tuned == method else {"method": tuned}
        if tags["occlusion_protocol"] == "train":
            tags["train_ratio"] = repr(float(row["occlusion_ratio"]))
        return self.runs(tags)

    def runs(self, tags: Mapping[str, str]) -> str:
        """The list of the study's runs with these tags; cells, unless ``kind`` is among them."""
        asked = {"kind": "cell", **tags}
        text = " and ".join(f"tags.{name} {_is(value)}" for name, value in asked.items())
        order = quote("metrics.`test/mae`", safe="")
        view = f"workflowType={TRAINING}&orderByKey={order}&orderByAsc=true"
        return f"{self._runs()}?{view}&searchFilter={quote(text, safe='')}"

    def _runs(self) -> str:
        return f"{self.base}/#/experiments/{quote(self.experiment_id)}/runs"


def _is(value: str) -> str:
    """The rest of a filter by a tag's value."""
    if "'" not in value:
        return f"= '{value}'"
    if '"' not in value:
        return f'= "{value}"'
    # Neither kind of quotes can hold it, so any sign will do in the place of one kind.
    return "LIKE '" + value.replace("'", "_") + "'"

"""Links into the MLflow UI: to a study, to a run, or to the runs behind a mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from harness.config.tuned import tuned_label
from harness.tracking.tags import VIEW

# Workflow type of the UI: the default one shows no training runs.
TRAINING = "machine_learning"
LOCAL = "http://127.0.0.1:5000"
"""Address of the UI that `make ui` starts for the store below ``var``."""


@dataclass(frozen=True)
class Links:
    """Links to one experiment in the UI. base: the server's address, without a trailing slash."""

    base: str
    experiment_id: str

    def study(self) -> str:
        """Link to the study's cells, in the view that `harness.tracking.tracker.Tracker.announce` stores."""
        return f"{self._runs()}?workflowType={TRAINING}&viewStateShareKey={VIEW}"

    def run(self, run_id: str) -> str:
        """Link to the page of one run."""
        return f"{self._runs()}/{quote(run_id)}"

    def behind(self, row: Mapping[Any, Any]) -> str:
        """Link to the complete cells behind a row of a table; the default is training on clean input.

        row: method (as in tables) and any of dataset, backbone, occlusion_protocol and occlusion_ratio.
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
        """Link to the study's runs with these tags; the kind defaults to "cell"."""
        filters = {"kind": "cell", **tags}
        text = " and ".join(f"tags.{name} {_is(value)}" for name, value in filters.items())
        order = quote("metrics.`test/mae`", safe="")
        view = f"workflowType={TRAINING}&orderByKey={order}&orderByAsc=true"
        return f"{self._runs()}?{view}&searchFilter={quote(text, safe='')}"

    def _runs(self) -> str:
        return f"{self.base}/#/experiments/{quote(self.experiment_id)}/runs"


def _is(value: str) -> str:
    """Return the comparison with a tag's value for MLflow's filter syntax."""
    if "'" not in value:
        return f"= '{value}'"
    if '"' not in value:
        return f'= "{value}"'
    # The value has both kinds of quotes, which MLflow cannot escape; "_" matches any character.
    return "LIKE '" + value.replace("'", "_") + "'"

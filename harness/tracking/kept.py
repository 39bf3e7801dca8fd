"""The kept weights of a run, in any study of a store."""

from __future__ import annotations

from pathlib import Path

from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from harness.errors import UserError
from harness.tracking.artifacts import WEIGHTS_FILE
from harness.tracking.store import Store, answers


class AllRuns(Store):
    """The runs of all studies of a store, which must exist."""

    def __init__(self, uri: str | None, var_dir: Path) -> None:
        super().__init__(uri, var_dir, "", create=False)

    def _experiment(self, create: bool) -> str:
        return ""

    @answers
    def weights(self, run_id: str) -> tuple[str, bytes]:
        """Return the cell id of a run and its file of weights.

        Raises:
            UserError: there is no such run, it is not of a cell, or it has no weights.
        """
        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            where = "the column run_id of python -m reports.export, and the MLflow UI, list them"
            raise UserError(f"There is no run {run_id!r} in this store; {where}.") from None
        tags = run.data.tags
        if tags.get("kind") != "cell" or tags.get("complete") != "true":
            raise UserError(f"Run {run_id!r} is not a trained cell; give the run of one with keep=weights.")
        if tags.get("weights") != "true":
            raise UserError(
                f"Run {run_id!r} has no weights, because it was trained without keep=weights; give its "
                "command keep=weights and another study=NAME."
            )
        files = get_artifact_repository(run.info.artifact_uri, self.client.tracking_uri)
        return tags["cell_id"], Path(files.download_artifacts(WEIGHTS_FILE)).read_bytes()

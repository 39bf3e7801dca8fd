"""Writing and reading the runs of a study in MLflow.

A study is one experiment; its runs are not nested, and the tag ``kind`` (cell | trial | study) distinguishes
them. A cell's run is complete if it is FINISHED and tagged ``complete``; any other run is not a result.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlparse

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunInfo
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT
from mlflow.utils.validation import MAX_DATASET_DIGEST_SIZE

from harness.errors import StoreError, UserError, one_line
from harness.matrix import Cell
from harness.tracking.artifacts import (
    PREDICTIONS_FILE,
    RESULT_FILE,
    read_curves,
    read_predictions,
    read_result,
    write_result,
)
from harness.tracking.codes import one_per_cell
from harness.tracking.reader import BATCH, Run, complete_cells, last_numbers, parameters_of
from harness.tracking.store import Store, answers, request
from harness.tracking.tags import (
    KEPT_TAGS,
    NOTE,
    SHARED_VIEW,
    SWEEP,
    VIEW,
    Trial,
    cell_tags,
    curve_points,
    description,
    numbers,
    parameters,
    result_tags,
    storable,
    view_state,
)
from harness.tracking.versions import version_of
from harness.train.result import Predictions, Result

METRICS_PER_CALL, PARAMS_PER_CALL = 1000, 100
STUDY = "tags.kind = 'study'"
TRIALS = "tags.kind = 'trial' and attributes.status != 'RUNNING' and attributes.status != 'KILLED'"
DIVERGED = "tags.kind = 'cell' and tags.outcome = 'diverged' and attributes.status = 'FAILED'"
FAILED = "tags.kind = 'cell' and attributes.status = 'FAILED'"


class Tracker(Store):
    """The writer and reader of the runs of one study."""

    def complete(self, everywhere: bool = False) -> dict[str, Run]:
        """Return one complete run of each cell_id, see `one_per_cell`.

        everywhere: of all studies of the store. These runs, if read from a database, have no metrics, and
        only the tags `KEPT_TAGS`, cell_id, method and backbone.
        """
        if self._engine() is None:
            runs = list(self.runs(everywhere=everywhere))
        else:
            runs = (
                self._without_numbers(self.experiment_ids(), (*KEPT_TAGS, "method", "backbone"))
                if everywhere
                else self._with_numbers()
            )
        return one_per_cell(runs)

    def _with_numbers(self) -> list[Run]:
        runs = self._without_numbers([self.experiment_id])
        numbers = self.last_numbers([run.run_id for run in runs])
        return [dataclasses.replace(run, metrics=numbers[run.run_id]) for run in runs]

    def outline(self) -> list[Run] | None:
        """Return all complete runs of this study, metrics not loaded, earliest first; None for a server."""
        return None if self._engine() is None else self._without_numbers([self.experiment_id])

    @request
    def _without_numbers(self, experiments: Sequence[str], names: Collection[str] | None = None) -> list[Run]:
        """Return complete runs of cells without metrics, earliest first; names: tags to read, None: all."""
        engine = self._engine()
        assert engine is not None, "a server returns whole runs only"
        return list(complete_cells(engine, experiments, names))

    @request
    def last_numbers(self, run_ids: Sequence[str]) -> dict[str, dict[str, float]]:
        """Return the last value of every metric of these runs; only for stores that `outline` can read."""
        engine = self._engine()
        assert engine is not None, "a server returns whole runs only"
        return last_numbers(engine, run_ids)

    def failures(self) -> list[Run]:
        """Return all failed or diverged runs of this study, earliest first; tag ``reason`` says why."""
        return list(self.runs(FAILED))

    def diverged(self) -> dict[str, Run]:
        """Return the latest diverged run of each cell_id; its tag ``reason`` says at which epoch and step."""
        return {run.tags["cell_id"]: run for run in self.runs(DIVERGED)}

    @request
    def log(self, cell: Cell, result: Result, labels: Mapping[str, str]) -> str:
        """Log a result as one run and return its id; only `finish` completes the run.

        labels: the cell's tags for its role in the study.
        """
        info = self._start(cell, {**result.tags, **labels, **result_tags(result)}, result.started)
        # The client's own method would first query the store for the address of the artifacts.
        artifacts = get_artifact_repository(info.artifact_uri, self.client.tracking_uri)
        with tempfile.TemporaryDirectory() as folder:
            write_result(cell, result, Path(folder))
            artifacts.log_artifacts(folder)
        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, 0) for name, value in numbers(result).items()]
        metrics += [Metric(name, value, now, step) for name, step, value in curve_points(result)]
        self._log(info.run_id, parameters(dataclasses.asdict(cell)), metrics)
        return str(info.run_id)

    @request
    def finish(self, run_id: str, result: Result) -> None:
        """End a logged run: as FINISHED if the result is complete, as FAILED if it diverged."""
        self.client.set_terminated(run_id, "FINISHED" if result.status == "complete" else "FAILED")

    @request
    def log_failure(self, cell: Cell, reason: str, tags: Mapping[str, str], started: float) -> None:
        """Log a cell that failed, with the reason."""
        run_id = self._start(cell, {**tags, "outcome": "failed", "reason": storable(reason)}, started).run_id
        self._log(run_id, parameters(dataclasses.asdict(cell)), [])
        self.client.set_terminated(run_id, "FAILED")

    @request
    def abandon(self, run_id: str) -> None:
        """End a run whose driver died or lost its claim: it stays incomplete."""
        self.client.set_terminated(run_id, "KILLED")

    @request
    def adopt(self, run: Run, tags: Mapping[str, str]) -> None:
        """Make a complete run, possibly of a sweep, part of the study's matrix, with these tags."""
        if SWEEP in run.tags:
            self.client.delete_tag(run.run_id, SWEEP)
        for name, value in tags.items():
            self._set_tag(run.run_id, name, value)

    @request
    def log_trial(self, trial: Trial) -> None:
        """Log a trial of a sweep as one run."""
        run = self.client.create_run(
            self.experiment_id, int(trial.started * 1000), trial.tags, run_name=trial.run_name
        )
        now, value = int(time.time() * 1000), {} if trial.value is None else {"objective": trial.value}
        metrics = [Metric(name, number, now, 0) for name, number in {**trial.metrics, **value}.items()]
        self._log(run.info.run_id, parameters(trial.values), metrics)
        self.client.set_terminated(run.info.run_id, "FAILED" if trial.state == "failed" else "FINISHED")

    def trials(self) -> list[Run]:
        """Return the earliest run of each trial of this study's sweeps, per results version."""
        earliest: dict[tuple[str, str, int], Run] = {}
        for run in self.runs(TRIALS):
            earliest.setdefault((run.tags["search"], run.tags["trial"], version_of(run.tags)), run)
        return list(earliest.values())

    @answers
    def load(self, run: Run) -> Result:
        """Read a stored result, including predictions; never retried, since artifacts may be missing."""
        folder = Path(self._files(run).download_artifacts(""))
        with _whole(run):
            return read_result(folder)

    @answers
    def predictions(self, run: Run) -> Predictions:
        """Read only the predictions of a stored result, which must have some."""
        stored = self._file(run, PREDICTIONS_FILE)
        with _whole(run):
            return read_predictions(stored)

    @answers
    def curves(self, run: Run) -> dict[str, list[float]]:
        """Read only the curves of a stored result: name -> a value per epoch."""
        # MLflow returns the history of one metric of one run per call.
        stored = self._file(run, RESULT_FILE)
        with _whole(run):
            return read_curves(stored)

    def _file(self, run: Run, name: str) -> Path:
        """Return the path of an artifact on this machine; raises StoreError if the artifacts are gone."""
        if self.lost([run]):
            raise StoreError(f"the artifacts of run {run.run_id} are gone: {run.artifact_uri} does not exist")
        return Path(self._files(run).download_artifacts(name))

    def lost(self, runs: Iterable[Run]) -> list[Run]:
        """Return the runs whose folder of artifacts should lie on this machine and does not exist."""
        folders = [(run, urlparse(run.artifact_uri)) for run in runs if run.artifact_uri.startswith("file:")]
        return [run for run, uri in folders if not Path(unquote(uri.path)).exists()]

    def _files(self, run: Run) -> ArtifactRepository:
        """Return the repository of a run's artifacts."""
        # Not by the client's methods, which cache the address of a run for as long as the process lives.
        # The address in the run saves a query: MLflow would load the whole run.
        uri = run.artifact_uri or self.client.get_run(run.run_id).info.artifact_uri
        return get_artifact_repository(uri, self.client.tracking_uri)

    @request
    def announce(self, files: Mapping[str, str], description: str | None) -> None:
        """Store text files with the run of kind "study", and describe the study; no effect if unchanged."""
        content = json.dumps([sorted(files.items()), description])
        digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
        run = self._study_run()
        if run.tags.get("announced") == digest and all(
            self._text(run, name) == text for name, text in files.items()
        ):
            return
        with tempfile.TemporaryDirectory() as folder:
            for name, text in files.items():
                Path(folder, name).write_text(text, encoding="utf-8", errors="surrogateescape")
            self._files(run).log_artifacts(folder)
        if description is not None:
            self.describe(description)
        self.client.set_experiment_tag(self.experiment_id, f"{SHARED_VIEW}{VIEW}", view_state())
        self._set_tag(run.run_id, "announced", digest)

    def announced(self) -> str:
        """Return the hash of the last announcement; empty if there was none."""
        run = next(self.runs(STUDY), None)
        return "" if run is None else run.tags.get("announced", "")

    @request
    def study_file(self, name: str) -> str | None:
        """Return a text file that is stored with the run of kind "study"; None if it is missing."""
        run = next(self.runs(STUDY), None)
        return None if run is None else self._text(run, name)

    def _text(self, run: Run, name: str) -> str | None:
        """Return a text file that is stored with a run; None if it is missing."""
        files = self._files(run)
        if name not in {file.path for file in files.list_artifacts()}:
            return None
        path = Path(files.download_artifacts(name))
        return path.read_text(encoding="utf-8", errors="surrogateescape")

    @request
    def parameters(self, run_id: str) -> dict[str, str]:
        """Return the settings of a run, see `harness.tracking.tags.parameters`."""
        return dict(self.client.get_run(run_id).data.params)

    def parameters_of(self, run_ids: Sequence[str]) -> dict[str, dict[str, str]]:
        """Return the settings of these runs of the study by run id, with one query per `BATCH` runs."""
        parts = [run_ids[start : start + BATCH] for start in range(0, len(run_ids), BATCH)]
        return {run_id: settings for part in parts for run_id, settings in self._parameters_of(part).items()}

    @request
    def _parameters_of(self, run_ids: Sequence[str]) -> dict[str, dict[str, str]]:
        engine = self._engine()
        if engine is not None:
            return parameters_of(engine, run_ids)
        wanted = ", ".join(f"'{run_id}'" for run_id in run_ids)
        page = self._page([self.experiment_id], f"attributes.run_id IN ({wanted})", None)
        return {run.info.run_id: dict(run.data.params) for run in page}

    @request
    def description(self) -> str:
        """Return the description that `describe` stored."""
        return str(self.client.get_experiment(self.experiment_id).tags.get(NOTE, ""))

    @request
    def describe(self, description: str) -> None:
        """Store a description on the page of the study and on that of its run of kind "study"."""
        self._set_tag(self._study_run().run_id, NOTE, description)
        self.client.set_experiment_tag(self.experiment_id, NOTE, description)

    @request
    def attach(self, folder: Path, place: str | None = None) -> None:
        """Store a folder's files with the run of kind "study"; place: subfolder, None: the top."""
        self._files(self._study_run()).log_artifacts(str(folder), place)

    def _set_tag(self, run_id: str, name: str, value: str) -> None:
        try:
            self.client.set_tag(run_id, name, value)
        except MlflowException:
            # Another driver may have created the tag at the same time: now it can be changed.
            self.client.set_tag(run_id, name, value)

    def _study_run(self) -> Run:
        run = next(self.runs(STUDY), None)
        if run is not None:
            return run
        tags = {"kind": "study", "mlflow.runName": f"study {self.study}"}
        mine = str(self.client.create_run(self.experiment_id, tags=tags).info.run_id)
        self.client.set_terminated(mine)
        # If several drivers create the run at the same time, the first one stays.
        first = next(self.runs(STUDY))
        if first.run_id != mine:
            self.client.delete_run(mine)
        return first

    def _start(self, cell: Cell, tags: Mapping[str, str], started: float) -> RunInfo:
        all_tags = {**cell_tags(cell), NOTE: description(cell, self.study), **tags}
        info = self.client.create_run(self.experiment_id, int(started * 1000), all_tags, cell.run_name).info
        self.client.log_inputs(info.run_id, [_dataset_of(cell)])
        return info

    def _log(self, run_id: str, settings: Mapping[str, str], metrics: Sequence[Metric]) -> None:
        """Log parameters and metrics in as few calls as MLflow's limits allow."""
        params, left = [Param(*pair) for pair in settings.items()], list(metrics)
        while params or left:
            most = METRICS_PER_CALL - len(params[:PARAMS_PER_CALL])  # parameters count, too
            self.client.log_batch(run_id, left[:most], params[:PARAMS_PER_CALL])
            params, left = params[PARAMS_PER_CALL:], left[most:]


def _dataset_of(cell: Cell) -> DatasetInput:
    """Return a cell's data set as an input of its run; equal digests are the same data."""
    scale = {"label_scale": cell.label_scale, "label_center": cell.label_center, "metrics": cell.metrics}
    data = Dataset(
        cell.dataset,
        cell.fingerprint[:MAX_DATASET_DIGEST_SIZE],
        source_type="features",
        source=json.dumps({"fingerprint": cell.fingerprint}),
        profile=json.dumps(scale),
    )
    return DatasetInput(data, [InputTag(MLFLOW_DATASET_CONTEXT, "training")])


@contextmanager
def _whole(run: Run) -> Iterator[None]:
    """Convert the exceptions of file readers to a `StoreError`."""
    try:
        yield
    except (ValueError, KeyError, TypeError, UserError) as error:
        raise StoreError(f"the artifacts of run {run.run_id} are damaged: {one_line(error)}") from error

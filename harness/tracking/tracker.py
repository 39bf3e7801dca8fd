"""MLflow, behind one class: the only module that imports it.

One experiment per study, flat runs told apart by the tag ``kind`` (cell | trial | study). A cell's run is
done when it is FINISHED and tagged ``complete``; anything else is no result.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import os
import socket
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# The driver waits for a server that went away, and says so; MLflow's own waiting is silent.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# It would print a link to every run that ends, with the server's address as it was given, password and all.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

import mlflow
import numpy as np
import pyarrow.parquet as pq
from mlflow.entities import Metric, Param, RunInfo, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from harness.data.npy import read_npz
from harness.databases import (
    check_sqlite,
    create_sqlite,
    is_database,
    redact,
    server_uri,
    sqlite_path,
    sqlite_uri,
    tables_lock,
    without_secrets,
)
from harness.errors import StoreError, UserError, nearest, one_line
from harness.files import safe_name
from harness.matrix import Cell
from harness.tracking.artifacts import read_predictions, to_table
from harness.tracking.reader import complete_cells, last_numbers
from harness.tracking.schema_check import check_schema
from harness.tracking.tags import (
    VIEW,
    Trial,
    cell_tags,
    curve_points,
    numbers,
    parameters,
    result_tags,
    storable,
    view_state,
)
from harness.tracking.versions import version_of
from harness.train.result import Predictions, Result

# Creating a database announces every migration otherwise, and a failure, which is raised too, its traceback.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
logging.getLogger("alembic").setLevel(logging.WARNING)

PAGE = 1000
METRICS_PER_CALL, PARAMS_PER_CALL = 1000, 100
COMPLETE = "tags.kind = 'cell' and tags.complete = 'true' and attributes.status = 'FINISHED'"
STUDY = "tags.kind = 'study'"
TRIALS = "tags.kind = 'trial' and attributes.status != 'RUNNING' and attributes.status != 'KILLED'"
DIVERGED = "tags.kind = 'cell' and tags.outcome = 'diverged' and attributes.status = 'FAILED'"
FAILED = "tags.kind = 'cell' and attributes.status = 'FAILED'"
KEPT_TAGS = ("git_commit", "git_dirty", "versions")  # what a run tells of a result where it is used again
SWEEP, NOTE = "sweep", "mlflow.note.content"
SHARED_VIEW = "mlflow.sharedViewState."  # where the UI keeps the views that it shares
RESULT_FILE, PREDICTIONS_FILE, SAMPLES_FILE = "result.json", "predictions.parquet", "samples.npz"


P = ParamSpec("P")
T = TypeVar("T")


def _answers(
    method: Callable[Concatenate[Tracker, P], T],
) -> Callable[Concatenate[Tracker, P], T]:
    """Turn what MLflow raises into a `StoreError`."""

    @functools.wraps(method)
    def call(self: Tracker, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(self, *args, **kwargs)
        except (MlflowException, SQLAlchemyError, OSError) as error:
            reason = without_secrets(_line(error), self.uri)
            raise StoreError(f"the tracking store {redact(self.uri)} failed: {reason}") from error

    return call


@dataclass(frozen=True)
class Run:
    """A stored cell run: its id, experiment, tags, last metric values, and where its files lie ("": ask)."""

    run_id: str
    experiment_id: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    artifact_uri: str = ""


class Tracker:
    """Writes and reads the runs of one study.

    Args:
        uri: MLflow tracking address; None means SQLite under ``var_dir``.
        create: make the study's experiment if it is not there; else it must exist.

    Raises:
        UserError: the store cannot be opened or has another schema, or the study is unknown or deleted.
    """

    def __init__(self, uri: str | None, var_dir: Path, study: str, create: bool = True) -> None:
        self.study, self.var_dir = study, var_dir
        self.uri = uri or sqlite_uri(var_dir / "mlflow.db")
        path = sqlite_path(self.uri)
        if path is not None and create:
            create_sqlite(path, _migrate)
        if path is not None and not path.exists():
            raise UserError(f"There are no results yet: {str(path)!r} does not exist.")
        if path is not None and not create:
            check_sqlite(path)
        # Without an artifact location of its own MLflow would write below the working directory.
        local = "://" not in self.uri or is_database(self.uri)
        location = f"{(var_dir / 'artifacts').absolute().as_uri()}/{safe_name(study)}" if local else None
        try:
            # MLflow creates its tables in an empty database without regard to others who do the same.
            with tables_lock(self.uri):
                check_schema(self.uri)
                self.client = mlflow.MlflowClient(server_uri(self.uri))
                self.experiment_id = self._experiment(location, create)
        # ValueError: it is no address at all; ImportError: the database's driver is not installed.
        except (MlflowException, SQLAlchemyError, OSError, ValueError, ImportError) as error:
            reason = without_secrets(_line(error), self.uri)
            raise UserError(f"Cannot open the tracking store {redact(self.uri)!r}: {reason}.") from error

    def _experiment(self, location: str | None, create: bool) -> str:
        found = self.client.get_experiment_by_name(self.study)
        if found is None and not create:
            names = [e.name for e in self.client.search_experiments()]
            raise UserError(f"There is no study {self.study!r} in this store.{nearest(self.study, names)}")
        if found is None:
            try:
                return str(self.client.create_experiment(self.study, artifact_location=location))
            except MlflowException:
                # Another driver made it between the look and the call, or it fails again.
                found = self.client.get_experiment_by_name(self.study)
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            raise UserError(
                f"The study {self.study!r} was deleted in MLflow; restore it there or use another name."
            )
        return str(found.experiment_id)

    @_answers
    def identity(self) -> str:
        """What tells this study from one of the same name in another store."""
        experiment = self.client.get_experiment(self.experiment_id)
        return f"{self.experiment_id}-{experiment.creation_time}"

    def runs(self, filter_string: str = COMPLETE, everywhere: bool = False) -> Iterator[Run]:
        """Runs of this study, or of all studies of the store, the earliest first, in pages."""
        experiments = self._experiments() if everywhere else [self.experiment_id]
        token = None
        while True:
            page = self._page(experiments, filter_string, token)
            for run in page:
                info, data = run.info, run.data
                yield Run(info.run_id, info.experiment_id, data.tags, data.metrics, info.artifact_uri)
            token = page.token
            if not token:
                return

    def folder(self, kind: str) -> Path:
        """This study's folder below ``var_dir``/kind."""
        return self.var_dir / kind / safe_name(self.study)

    @_answers
    def _experiments(self) -> list[str]:
        return [e.experiment_id for e in self.client.search_experiments()]

    @_answers
    def _page(self, experiments: list[str], filter_string: str, token: str | None) -> Any:
        order = ["attributes.start_time ASC"]
        return self.client.search_runs(experiments, filter_string, ViewType.ACTIVE_ONLY, PAGE, order, token)

    def complete(self, everywhere: bool = False) -> dict[str, Run]:
        """One complete run per cell_id: the earliest.

        everywhere: of all studies of the store. From a database these come without numbers, and with no
        other tags than `KEPT_TAGS` and the cell_id.
        """
        if self._engine() is None:
            runs = list(self.runs(everywhere=everywhere))
        else:
            runs = self._outlined(self._experiments(), KEPT_TAGS) if everywhere else self._with_numbers()
        found: dict[str, Run] = {}
        for run in runs:
            found.setdefault(run.tags["cell_id"], run)
        return found

    def _with_numbers(self) -> list[Run]:
        runs = self._outlined([self.experiment_id])
        numbers = self.last_numbers([run.run_id for run in runs])
        return [dataclasses.replace(run, metrics=numbers[run.run_id]) for run in runs]

    def outline(self) -> list[Run] | None:
        """Every complete run of this study, the earliest first, without its numbers.

        None where the store is a server, which gives a run as a whole only.
        """
        return None if self._engine() is None else self._outlined([self.experiment_id])

    @_answers
    def _outlined(self, experiments: Sequence[str], names: Collection[str] | None = None) -> list[Run]:
        """Complete runs of cells without their numbers, the earliest first; names: of the tags wanted."""
        engine = self._engine()
        assert engine is not None, "a server gives runs as a whole only"
        found = complete_cells(engine, experiments, names)
        return [Run(run_id, place, tags, {}, uri) for run_id, place, uri, tags in found]

    @_answers
    def last_numbers(self, run_ids: Sequence[str]) -> dict[str, dict[str, float]]:
        """The last value of every metric of these runs; for stores that `outline` can read."""
        engine = self._engine()
        assert engine is not None, "a server gives runs as a whole only"
        return last_numbers(engine, run_ids)

    def _engine(self) -> Engine | None:
        """The database behind the store; None for a server."""
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        store = self.client._tracking_client.store  # MLflow has no public way to it
        return store.engine if isinstance(store, SqlAlchemyStore) else None

    def failures(self) -> list[Run]:
        """Every run of this study that failed or diverged, the earliest first; tag ``reason`` says why."""
        return list(self.runs(FAILED))

    def diverged(self) -> dict[str, Run]:
        """The latest diverged run per cell_id of this study; its tag ``reason`` says when and where."""
        return {run.tags["cell_id"]: run for run in self.runs(DIVERGED)}

    @_answers
    def log(self, cell: Cell, result: Result, tags: Mapping[str, str], started: float) -> str:
        """Log a result as one run, and return its id; the run is complete only when it is finished, too."""
        info = self._start(cell, {**tags, **result_tags(result)}, started)
        # By the client's own method the store would be asked first where they go.
        artifacts = get_artifact_repository(info.artifact_uri, self.client.tracking_uri)
        with tempfile.TemporaryDirectory() as folder:
            write_files(cell, result, Path(folder))
            artifacts.log_artifacts(folder)
        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, 0) for name, value in numbers(result).items()]
        metrics += [Metric(name, value, now, step) for name, step, value in curve_points(result)]
        self._log(info.run_id, parameters(dataclasses.asdict(cell)), metrics)
        return str(info.run_id)

    @_answers
    def finish(self, run_id: str, result: Result) -> None:
        """Complete a logged run; a diverged one ends as FAILED."""
        self.client.set_terminated(run_id, "FINISHED" if result.status == "complete" else "FAILED")

    @_answers
    def log_failure(self, cell: Cell, reason: str, tags: Mapping[str, str], started: float) -> None:
        """Log a cell that yielded nothing, with its reason."""
        run_id = self._start(cell, {**tags, "outcome": "failed", "reason": storable(reason)}, started).run_id
        self._log(run_id, parameters(dataclasses.asdict(cell)), [])
        self.client.set_terminated(run_id, "FAILED")

    @_answers
    def abandon(self, run_id: str) -> None:
        """End a run that lost its claim or its driver: it stays incomplete."""
        self.client.set_terminated(run_id, "KILLED")

    @_answers
    def adopt(self, run: Run, tags: Mapping[str, str]) -> None:
        """Give a complete run the tags that it has in the study's matrix: it is no longer a sweep's alone."""
        if SWEEP in run.tags:
            self.client.delete_tag(run.run_id, SWEEP)
        for name, value in tags.items():
            self._set_tag(run.run_id, name, value)

    @_answers
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
        """One run per trial of this study's sweeps, and per results version: the earliest."""
        found: dict[tuple[str, str, int], Run] = {}
        for run in self.runs(TRIALS):
            found.setdefault((run.tags["search"], run.tags["trial"], version_of(run.tags)), run)
        return list(found.values())

    @_answers
    def load(self, run: Run) -> Result:
        """Read a stored result back, predictions included."""
        folder = Path(self._files(run).download_artifacts(""))
        stored, arrays = folder / PREDICTIONS_FILE, folder / SAMPLES_FILE
        with _whole(run):
            predictions = read_predictions(stored) if stored.exists() else None
            samples = read_npz(arrays) if arrays.exists() else {}
            return Result.from_json((folder / RESULT_FILE).read_text(), predictions, samples)

    @_answers
    def predictions(self, run: Run) -> Predictions:
        """The predictions of a stored result alone, which must have some."""
        stored = Path(self._files(run).download_artifacts(PREDICTIONS_FILE))
        with _whole(run):
            return read_predictions(stored)

    def _files(self, run: Run) -> ArtifactRepository:
        """Where a run's files lie; by its address alone, for MLflow reads all of a run to tell it."""
        uri = run.artifact_uri or self.client.get_run(run.run_id).info.artifact_uri
        return get_artifact_repository(uri, self.client.tracking_uri)

    @_answers
    def announce(self, files: Mapping[str, str], description: str | None) -> None:
        """Store text files with the run of kind "study", and describe the study; once for the same texts."""
        content = json.dumps([sorted(files.items()), description])
        digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
        run_id = self._study_run_id()
        told = self.client.get_run(run_id).data.tags.get("announced") == digest
        if told and all(self.study_file(name) == text for name, text in files.items()):
            return
        with tempfile.TemporaryDirectory() as folder:
            for name, text in files.items():
                Path(folder, name).write_text(text, encoding="utf-8", errors="surrogateescape")
            self.client.log_artifacts(run_id, folder)
        if description is not None:
            self.describe(description)
        self.client.set_experiment_tag(self.experiment_id, f"{SHARED_VIEW}{VIEW}", view_state())
        self._set_tag(run_id, "announced", digest)

    def announced(self) -> str:
        """The same for the same announcement; empty where there was none."""
        found = next(self.runs(STUDY), None)
        return "" if found is None else found.tags.get("announced", "")

    @_answers
    def study_file(self, name: str) -> str | None:
        """A text file that is stored with the run of kind "study"; None where there is none."""
        found = next(self.runs(STUDY), None)
        if found is None or name not in {f.path for f in self.client.list_artifacts(found.run_id)}:
            return None
        path = Path(self.client.download_artifacts(found.run_id, name))
        return path.read_text(encoding="utf-8", errors="surrogateescape")

    @_answers
    def parameters(self, run_id: str) -> dict[str, str]:
        """The settings of a run, see `harness.tracking.tags.parameters`."""
        return dict(self.client.get_run(run_id).data.params)

    @_answers
    def description(self) -> str:
        """What was said of the study by `describe`."""
        return str(self.client.get_experiment(self.experiment_id).tags.get(NOTE, ""))

    @_answers
    def describe(self, description: str) -> None:
        """Say what the study is, on its own page and on that of its run of kind "study"."""
        self._set_tag(self._study_run_id(), NOTE, description)
        self.client.set_experiment_tag(self.experiment_id, NOTE, description)

    @_answers
    def attach(self, folder: Path, place: str | None = None) -> None:
        """Store a folder's files with the run of kind "study", at its top or in a folder there."""
        self.client.log_artifacts(self._study_run_id(), str(folder), place)

    def _set_tag(self, run_id: str, name: str, value: str) -> None:
        try:
            self.client.set_tag(run_id, name, value)
        except MlflowException:
            # Another driver set it for the first time at the same moment: now it is there to be changed.
            self.client.set_tag(run_id, name, value)

    def _study_run_id(self) -> str:
        found = next(self.runs(STUDY), None)
        if found is not None:
            return found.run_id
        tags = {"kind": "study", "mlflow.runName": f"study {self.study}"}
        mine = str(self.client.create_run(self.experiment_id, tags=tags).info.run_id)
        self.client.set_terminated(mine)
        # Of drivers that end a study at the same time, one keeps its run.
        first = next(self.runs(STUDY)).run_id
        if first != mine:
            self.client.delete_run(mine)
        return first

    def _start(self, cell: Cell, tags: Mapping[str, str], started: float) -> RunInfo:
        all_tags = {**cell_tags(cell), **tags}
        return self.client.create_run(self.experiment_id, int(started * 1000), all_tags, cell.run_name).info

    def _log(self, run_id: str, settings: Mapping[str, str], metrics: Sequence[Metric]) -> None:
        """Log parameters and metrics in as few calls as their limits allow."""
        params, left = [Param(*pair) for pair in settings.items()], list(metrics)
        while params or left:
            most = METRICS_PER_CALL - len(params[:PARAMS_PER_CALL])  # a call takes so many items in all
            self.client.log_batch(run_id, left[:most], params[:PARAMS_PER_CALL])
            params, left = params[PARAMS_PER_CALL:], left[most:]


def _migrate(uri: str) -> None:
    """Create MLflow's tables in a new database and let go of it."""
    client = mlflow.MlflowClient(uri)
    client.search_experiments(max_results=1)
    client._tracking_client.store._dispose_engine()  # MLflow has no public way to close a database


def write_files(cell: Cell, result: Result, folder: Path) -> None:
    """Write the files that a run keeps of a result, which `Tracker.load` reads."""
    (folder / RESULT_FILE).write_text(result.to_json())
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(cell), indent=1, sort_keys=True))
    if result.predictions is not None:
        pq.write_table(to_table(result.predictions), folder / PREDICTIONS_FILE)
    if result.samples:
        np.savez_compressed(folder / SAMPLES_FILE, allow_pickle=False, **result.samples)


@contextmanager
def _whole(run: Run) -> Iterator[None]:
    """Turn what readers of files raise into a `StoreError`."""
    try:
        yield
    except (ValueError, KeyError, TypeError, UserError) as error:
        raise StoreError(f"the artifacts of run {run.run_id} are damaged: {_line(error)}") from error


def _line(error: BaseException) -> str:
    """What went wrong in one line, in the words of the database or the network that MLflow has wrapped."""
    cause: BaseException | None = error
    while cause is not None:
        if getattr(cause, "orig", None) is not None:
            return _line(cause.orig)  # type: ignore[attr-defined]
        if isinstance(cause, ConnectionError | TimeoutError | socket.gaierror) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return one_line(error)

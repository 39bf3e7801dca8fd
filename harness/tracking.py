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
import math
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar
from zipfile import BadZipFile

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# The driver waits for a server that went away, and says so; MLflow's own waiting is silent.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")

import mlflow
import numpy as np
import pyarrow.parquet as pq
from mlflow.entities import Metric, Param, ViewType
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from harness.databases import (
    check_sqlite,
    create_sqlite,
    is_database,
    redact,
    server_uri,
    sqlite_path,
    sqlite_uri,
    tables_lock,
)
from harness.errors import StoreError, UserError, nearest
from harness.matrix import Cell
from harness.predictions import from_table, to_table
from harness.result import Result

# Creating a database announces every migration otherwise, and a failure, which is raised too, its traceback.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
logging.getLogger("alembic").setLevel(logging.WARNING)

PAGE = 1000
METRICS_PER_CALL, TAGS_PER_CALL = 1000, 100
COMPLETE = "tags.kind = 'cell' and tags.complete = 'true' and attributes.status = 'FINISHED'"
STUDY = "tags.kind = 'study'"
DIVERGED = "tags.kind = 'cell' and tags.outcome = 'diverged' and attributes.status = 'FAILED'"
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
            raise StoreError(f"the tracking store {redact(self.uri)} failed: {_line(error)}") from error

    return call


@dataclass(frozen=True)
class Run:
    """A stored cell run: its id, experiment, tags and last metric values."""

    run_id: str
    experiment_id: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]


class Tracker:
    """Writes and reads the runs of one study.

    Args:
        uri: MLflow tracking address; None means SQLite under ``var_dir``.
        create: make the study's experiment if it is not there; else it must exist.

    Raises:
        UserError: the store cannot be opened, or the study is unknown or deleted.
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
        location = f"{(var_dir / 'artifacts').absolute().as_uri()}/{_safe(study)}" if local else None
        try:
            # MLflow creates its tables in an empty database without regard to others who do the same.
            with tables_lock(self.uri):
                self.client = mlflow.MlflowClient(server_uri(self.uri))
                self.experiment_id = self._experiment(location, create)
        except (MlflowException, SQLAlchemyError, OSError) as error:
            raise UserError(
                f"Cannot open the tracking store {redact(self.uri)!r}: {_line(error)}."
            ) from error

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

    def runs(self, filter_string: str = COMPLETE, everywhere: bool = False) -> Iterator[Run]:
        """Runs of this study, or of all studies of the store, the earliest first, in pages."""
        experiments = self._experiments() if everywhere else [self.experiment_id]
        token = None
        while True:
            page = self._page(experiments, filter_string, token)
            for run in page:
                yield Run(run.info.run_id, run.info.experiment_id, run.data.tags, run.data.metrics)
            token = page.token
            if not token:
                return

    def folder(self, kind: str) -> Path:
        """This study's folder below ``var_dir``/kind."""
        return self.var_dir / kind / _safe(self.study)

    @_answers
    def _experiments(self) -> list[str]:
        return [e.experiment_id for e in self.client.search_experiments()]

    @_answers
    def _page(self, experiments: list[str], filter_string: str, token: str | None) -> Any:
        order = ["attributes.start_time ASC"]
        return self.client.search_runs(experiments, filter_string, ViewType.ACTIVE_ONLY, PAGE, order, token)

    def complete(self, everywhere: bool = False) -> dict[str, Run]:
        """One complete run per cell_id: the earliest."""
        found: dict[str, Run] = {}
        for run in self.runs(everywhere=everywhere):
            found.setdefault(run.tags["cell_id"], run)
        return found

    def diverged(self) -> dict[str, Run]:
        """The latest diverged run per cell_id of this study; its tag ``reason`` says when and where."""
        return {run.tags["cell_id"]: run for run in self.runs(DIVERGED)}

    @_answers
    def log(self, cell: Cell, result: Result, tags: Mapping[str, str], started: float) -> str:
        """Log a result as one run, and return its id; the run is complete only with the last two calls."""
        run_id = self._start(cell, {**tags, **_result_tags(result)}, started)
        self._log_numbers(run_id, result)
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, RESULT_FILE).write_text(result.to_json())
            Path(folder, "config.json").write_text(
                json.dumps(dataclasses.asdict(cell), indent=1, sort_keys=True)
            )
            if result.predictions is not None:
                pq.write_table(to_table(result.predictions), Path(folder, PREDICTIONS_FILE))
            if result.samples:
                np.savez_compressed(Path(folder, SAMPLES_FILE), allow_pickle=False, **result.samples)
            self.client.log_artifacts(run_id, folder)
        return run_id

    @_answers
    def finish(self, run_id: str, result: Result) -> None:
        """Complete a logged run; a diverged one ends as FAILED."""
        if result.status == "complete":
            self.client.set_tag(run_id, "complete", "true")
        self.client.set_terminated(run_id, "FINISHED" if result.status == "complete" else "FAILED")

    @_answers
    def log_failure(self, cell: Cell, reason: str, tags: Mapping[str, str], started: float) -> None:
        """Log a cell that yielded nothing, with its reason."""
        run_id = self._start(cell, {**tags, "outcome": "failed", "reason": _storable(reason)}, started)
        self.client.set_terminated(run_id, "FAILED")

    @_answers
    def abandon(self, run_id: str) -> None:
        """End a run that lost its claim or its driver: it stays incomplete."""
        self.client.set_terminated(run_id, "KILLED")

    @_answers
    def load(self, run: Run) -> Result:
        """Read a stored result back, predictions included."""
        folder = self.client.download_artifacts(run.run_id, "")
        stored, arrays = Path(folder, PREDICTIONS_FILE), Path(folder, SAMPLES_FILE)
        try:
            predictions = from_table(pq.read_table(stored)) if stored.exists() else None
            samples = dict(np.load(arrays, allow_pickle=False)) if arrays.exists() else {}
            return Result.from_json(Path(folder, RESULT_FILE).read_text(), predictions, samples)
        except (ValueError, KeyError, TypeError, IndexError, BadZipFile) as error:
            raise StoreError(f"the artifacts of run {run.run_id} are damaged: {_line(error)}") from error

    @_answers
    def study_run(self, description: str, complete: Mapping[str, Run], artifacts: Path | None = None) -> str:
        """Create or update the run of kind "study": description, report, and which runs that is made of."""
        run_id = self._study_run_id()
        self._set_tag(run_id, "mlflow.note.content", description)
        self.client.set_experiment_tag(self.experiment_id, "mlflow.note.content", description)
        if artifacts is not None:
            self.client.log_artifacts(run_id, str(artifacts))
        self._set_tag(run_id, "reported", _digest(complete))
        return str(run_id)

    def reported(self, complete: Mapping[str, Run]) -> bool:
        """Whether the stored report was made of these runs."""
        found = next(self.runs(STUDY), None)
        return found is not None and found.tags.get("reported") == _digest(complete)

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

    def _start(self, cell: Cell, tags: Mapping[str, str], started: float) -> str:
        run = self.client.create_run(
            self.experiment_id, int(started * 1000), {**cell_tags(cell), **tags}, cell.run_name
        )
        params = [Param(k, str(v)[:6000]) for k, v in flatten(dataclasses.asdict(cell)).items()]
        for start in range(0, len(params), TAGS_PER_CALL):
            self.client.log_batch(run.info.run_id, params=params[start : start + TAGS_PER_CALL])
        return str(run.info.run_id)

    def _log_numbers(self, run_id: str, result: Result) -> None:
        now = int(time.time() * 1000)
        flat = {f"{key}/{name}": v for key, scores in result.scores.items() for name, v in scores.items()}
        flat |= {f"cell/{name}": v for name, v in result.cell.items()}
        metrics = [Metric(name, value, now, 0) for name, value in flat.items()]
        for name, values in result.curves.items():
            points = [(step, value) for step, value in enumerate(values, 1) if not math.isnan(value)]
            metrics += [Metric(f"epoch/{name}", value, now, step) for step, value in points]
        for start in range(0, len(metrics), METRICS_PER_CALL):
            self.client.log_batch(run_id, metrics=metrics[start : start + METRICS_PER_CALL])


def cell_tags(cell: Cell) -> dict[str, str]:
    """Tags by which runs are found, grouped and sorted."""
    return {
        "kind": "cell",
        "cell_id": cell.cell_id,
        "dataset": cell.dataset,
        "metrics": cell.metrics,
        "backbone": cell.backbone_label,
        "method": cell.method,
        "variant": cell.method_label,
        "settings": json.dumps(cell.variant, sort_keys=True),
        "seed": str(cell.seed),
        "occlusion_protocol": cell.protocol,
        "train_ratio": repr(cell.train_ratio),
        "fingerprint": cell.fingerprint,
        "results_version": str(cell.results_version),
    }


def _digest(runs: Mapping[str, Run]) -> str:
    """The same for the same runs."""
    return hashlib.sha256("".join(sorted(run.run_id for run in runs.values())).encode()).hexdigest()


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _result_tags(result: Result) -> dict[str, str]:
    tags = {
        "outcome": result.status,
        "undefined": json.dumps(dict(result.undefined))[:4000],
        **result.environment,
    }
    return tags | ({"reason": _storable(result.reason)} if result.reason else {})


def _migrate(uri: str) -> None:
    """Create MLflow's tables in a new database and let go of it."""
    client = mlflow.MlflowClient(uri)
    client.search_experiments(max_results=1)
    client._tracking_client.store._dispose_engine()  # MLflow has no public way to close a database


def _storable(text: str) -> str:
    """A text cut to a tag's length and without what databases refuse: NUL and halves of surrogate pairs."""
    return text[:4000].replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")


def _safe(name: str) -> str:
    """A study's name as one path component."""
    return "".join(c if c.isalnum() or c in "-_." else f"%{ord(c):02X}" for c in name).lstrip(".") or "_"


def _line(error: BaseException) -> str:
    """What went wrong in one line, in the words of the database or the network that MLflow has wrapped."""
    cause: BaseException | None = error
    while cause is not None:
        if getattr(cause, "orig", None) is not None:
            return _line(cause.orig)  # type: ignore[attr-defined]
        if isinstance(cause, ConnectionError | TimeoutError | socket.gaierror) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")

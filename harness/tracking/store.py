"""The MLflow experiment of a study: opening it, searching its runs, and converting its errors."""

from __future__ import annotations

import contextlib
import functools
import logging
import shlex
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import mlflow
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from sqlalchemy import Engine
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
    without_secrets,
)
from harness.errors import StoreError, UserError, nearest, one_line
from harness.files import safe_name
from harness.retry import Call, Retry, once, retried
from harness.tracking.artifact_root import check_artifact_root
from harness.tracking.moved import adopt_artifacts
from harness.tracking.reader import Run
from harness.tracking.schema_check import check_schema

# Otherwise creating a database logs every migration, and the tracebacks of errors that are raised anyway.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
logging.getLogger("alembic").setLevel(logging.WARNING)

PAGE = 1000
DEFAULT_FOLDER = Path("var")
COMPLETE = "tags.kind = 'cell' and tags.complete = 'true' and attributes.status = 'FINISHED'"

S = TypeVar("S", bound="Store")
P = ParamSpec("P")
T = TypeVar("T")


def answers(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Decorate a method so that errors of MLflow and its database become a `StoreError`."""

    @functools.wraps(method)
    def call(self: S, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(self, *args, **kwargs)
        except (MlflowException, SQLAlchemyError, OSError) as error:
            reason = without_secrets(_line(error), self.uri)
            raise StoreError(f"the tracking store {redact(self.uri)} failed: {reason}") from error

    return call


def request(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Decorate a method as `answers` does, and call it through the store's ``retry``."""
    return retried(answers(method))


class UnknownStudy(UserError):
    """A study that the store does not hold."""


class Store:
    """The experiment of one study.

    Args:
        uri: MLflow tracking address; None means SQLite under ``var_dir``.
        create: create the study's experiment if it is missing; otherwise it must exist.

    Raises:
        UserError: the store cannot be opened or has another schema, the study is unknown or deleted, or, with
            ``create``, its artifacts cannot be written.
    """

    retry: Call = staticmethod(once)

    def __init__(self, uri: str | None, var_dir: Path, study: str, create: bool = True) -> None:
        self.study, self.var_dir = study, var_dir
        self.uri = uri or sqlite_uri(var_dir / "mlflow.db")
        self._open_file(create)
        try:
            # MLflow takes no lock when it creates its tables in an empty database.
            with tables_lock(self.uri):
                check_schema(self.uri)
                self.client = mlflow.MlflowClient(server_uri(self.uri))
                self._adopt_artifacts()
                self.experiment_id = self._experiment(create)
            if create:
                location = self.client.get_experiment(self.experiment_id).artifact_location
                check_artifact_root(location, self.uri)
        # ValueError: the address is malformed; ImportError: the database's driver is not installed.
        except (MlflowException, SQLAlchemyError, OSError, ValueError, ImportError) as error:
            reason = without_secrets(_line(error), self.uri)
            raise UserError(f"Cannot open the tracking store {redact(self.uri)!r}: {reason}.") from error

    def _open_file(self, create: bool) -> None:
        """Create the SQLite file, or check that it exists and is intact; no effect on servers."""
        path = sqlite_path(self.uri)
        if path is None:
            return
        if create:
            create_sqlite(path, create_tables)
        elif path.exists():
            check_sqlite(path)
        else:
            raise UserError(f"There are no results yet: {str(path)!r} does not exist.")

    def _adopt_artifacts(self) -> None:
        """Keep artifacts below ``var_dir``, wherever it lies now, if the store's file lies there."""
        path, engine = sqlite_path(self.uri), self._engine()
        if path is not None and engine is not None and path.parent.absolute() == self.var_dir.absolute():
            adopt_artifacts(engine, self.var_dir / "artifacts")

    def _experiment(self, create: bool) -> str:
        experiment = self.client.get_experiment_by_name(self.study)
        if experiment is None and not create:
            names = [e.name for e in self.client.search_experiments()]
            raise UnknownStudy(f"There is no study {self.study!r} in this store.{nearest(self.study, names)}")
        if experiment is None:
            # Without an explicit artifact location, MLflow would write below the working directory.
            local = "://" not in self.uri or is_database(self.uri)
            folder = f"{(self.var_dir / 'artifacts').absolute().as_uri()}/{safe_name(self.study)}"
            location = folder if local else None
            try:
                return str(self.client.create_experiment(self.study, artifact_location=location))
            except MlflowException:
                # Another driver may have created it at the same time; any other error is raised again.
                experiment = self.client.get_experiment_by_name(self.study)
                if experiment is None:
                    raise
        if experiment.lifecycle_stage != "active":
            address = shlex.quote(f"MLFLOW_TRACKING_URI={redact(server_uri(self.uri).partition('?')[0])}")
            number = experiment.experiment_id
            raise UserError(
                f"The study {self.study!r} was deleted in MLflow; use another name, or restore it with: "
                f"env {address} python -m mlflow experiments restore --experiment-id {number}"
            )
        return str(experiment.experiment_id)

    @contextlib.contextmanager
    def retrying(self, retry: Retry) -> Iterator[None]:
        """Retry the store's calls within the block."""
        self.retry = retry
        try:
            yield
        finally:
            self.retry = once

    @request
    def identity(self) -> str:
        """Return a text that differs between studies of one name in different stores."""
        experiment = self.client.get_experiment(self.experiment_id)
        return f"{self.experiment_id}-{experiment.creation_time}"

    def located(self) -> list[str]:
        """Return the settings that tell a command where this store is, if it is not in the default place."""
        default, uri = sqlite_uri(self.var_dir / "mlflow.db"), self.uri
        folder = [] if self.var_dir == DEFAULT_FOLDER else [f"var_dir={self.var_dir}"]
        shown = redact(uri) if "://" in uri else uri
        return [*folder, *([] if uri == default else [f"tracking.uri={shown}"])]

    def folder(self, kind: str) -> Path:
        """Return this study's folder below ``var_dir``/kind."""
        return self.var_dir / kind / safe_name(self.study)

    def runs(self, filter_string: str = COMPLETE, everywhere: bool = False) -> Iterator[Run]:
        """Yield runs of this study, or of all studies of the store, earliest first, page by page."""
        experiments = self.experiment_ids() if everywhere else [self.experiment_id]
        token = None
        while True:
            page = self._page(experiments, filter_string, token)
            for run in page:
                info, data = run.info, run.data
                yield Run(info.run_id, info.experiment_id, data.tags, data.metrics, info.artifact_uri)
            token = page.token
            if not token:
                return

    @request
    def experiment_ids(self) -> list[str]:
        """Return the experiment ids of all studies of the store."""
        return [e.experiment_id for e in self.client.search_experiments()]

    @request
    def _page(self, experiments: list[str], filter_string: str, token: str | None) -> Any:
        order = ["attributes.start_time ASC"]
        return self.client.search_runs(experiments, filter_string, ViewType.ACTIVE_ONLY, PAGE, order, token)

    def _engine(self) -> Engine | None:
        """Return the database engine of the store; None for a server."""
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        store = self.client._tracking_client.store  # MLflow has no public access to it
        return store.engine if isinstance(store, SqlAlchemyStore) else None


def create_tables(uri: str) -> None:
    """Create MLflow's tables in a new database, and disconnect."""
    client = mlflow.MlflowClient(uri)
    client.search_experiments(max_results=1)
    client._tracking_client.store._dispose_engine()  # MLflow has no public way to close a database


def _line(error: BaseException) -> str:
    """Return an error in one line: the message of the database or network error that MLflow wraps, if any."""
    cause: BaseException | None = error
    while cause is not None:
        if getattr(cause, "orig", None) is not None:
            return _line(cause.orig)  # type: ignore[attr-defined]
        if isinstance(cause, ConnectionError | TimeoutError | socket.gaierror) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return one_line(error)

"""The runs of a study, with a cache of their metrics.

Metrics of a finished run never change, so they are cached below ``var/cache``. Tags may change and runs may
be deleted, so the list of runs and their tags are read from MLflow each time.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.files import replacing, safe_name
from harness.matrix import APART
from harness.study.description import MATRIX_FILE
from harness.tracking.codes import one_per_cell
from harness.tracking.tags import settings_tree
from harness.tracking.tracker import Run, Tracker
from harness.train.result import Predictions
from reports.runs.curves import Curves, load_curves
from reports.runs.predictions import load_predictions

Numbers = dict[str, dict[str, float]]
NAMED = (*APART, "dataset", "backbone", "backbone_changes", "method", "fingerprint")
"""Settings of a cell that have columns of their own in the export."""


class RunSource(Protocol):
    """Source of the runs in a frame; `Tracker` implements it."""

    study: str

    def complete(self) -> Mapping[str, Run]:
        """Return cell_id -> complete run."""

    def trials(self) -> list[Run]:
        """Return one run per trial of the study's sweeps."""


class StudyRuns:
    """The runs of one study; a `RunSource` that queries the store once.

    cache: the folder of the cache; None disables it.
    """

    def __init__(self, tracker: Tracker, cache: Path | None = None) -> None:
        self.tracker, self.study = tracker, tracker.study
        self._cache = cache

    @functools.cache  # noqa: B019 (the instance lives as long as the command)
    def complete(self) -> dict[str, Run]:
        """See `Tracker.complete`."""
        runs = self.tracker.outline() if self._cache is not None else None
        if runs is None:
            return self.tracker.complete()
        numbers = self._numbers([run.run_id for run in runs])
        return one_per_cell(replace(run, metrics=numbers[run.run_id]) for run in runs)

    @functools.cache  # noqa: B019
    def matrix(self) -> dict[str, Any]:
        """Return what the benchmark was asked for, see `harness.study.description.matrix_text`."""
        return dict(json.loads(self.tracker.study_file(MATRIX_FILE) or "{}"))

    @functools.cache  # noqa: B019
    def trials(self) -> list[Run]:
        """See `Tracker.trials`."""
        return self.tracker.trials()

    @functools.cache  # noqa: B019
    def failures(self) -> list[Run]:
        """See `Tracker.failures`."""
        return self.tracker.failures()

    def resolved(self, runs: Iterable[Run]) -> dict[str, str]:
        """Return run_id -> JSON of its stored settings, but for seed, ratios and `NAMED`.

        Equal for all runs of one configuration, so only the settings of the first one are read.
        """
        runs = list(runs)
        first: dict[str, str] = {}
        for run in runs:
            first.setdefault(_configuration(run), run.run_id)
        stored = self.tracker.parameters_of(list(first.values()))
        texts = {key: _resolved(stored.get(run_id, {})) for key, run_id in first.items()}
        return {run.run_id: texts[_configuration(run)] for run in runs}

    def predictions(self, runs: Iterable[Run]) -> dict[str, Predictions]:
        """Return run_id -> predictions of those runs that have some."""
        return load_predictions(self.tracker, self._cache, runs)

    def curves(self, runs: Iterable[Run]) -> Curves:
        """Return run_id -> losses after each epoch of those runs that store them."""
        return load_curves(self.tracker, self._cache, runs)

    def _numbers(self, run_ids: list[str]) -> Numbers:
        """Return run_id -> metrics; reads runs that are not in the cache from the store."""
        assert self._cache is not None
        path = self._cache / "runs" / f"{safe_name(self.study)}.parquet"
        known = _read(path, run_ids)
        new = [run_id for run_id in run_ids if run_id not in known]
        if new:
            known |= self.tracker.last_numbers(new)
            _write(path, known)
        return {run_id: known.get(run_id, {}) for run_id in run_ids}


def _configuration(run: Run) -> str:
    """Return what is equal for runs with equal settings; runs of earlier versions may lack the tag."""
    return run.tags.get("configuration") or run.run_id


def _resolved(stored: Mapping[str, str]) -> str:
    settings = {name: value for name, value in settings_tree(stored).items() if name not in NAMED}
    return json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _read(path: Path, run_ids: Iterable[str]) -> Numbers:
    """Return the cached metrics of these runs; empty if the file is missing or damaged."""
    try:
        table = pq.read_table(path, columns=["run_id", "name", "value"])
        table = table.filter(pc.is_in(table["run_id"], pa.array(list(run_ids), pa.string())))
        columns = [table[name].to_pylist() for name in ("run_id", "name", "value")]
    except (OSError, KeyError, ValueError, pa.ArrowException):
        return {}
    numbers: Numbers = {}
    for run_id, name, value in zip(*columns, strict=True):
        numbers.setdefault(run_id, {})[name] = value
    return numbers


def _write(path: Path, numbers: Numbers) -> None:
    """Replace the cache atomically; if it cannot be written, the next report reads the store again."""
    schema = pa.schema({"run_id": pa.string(), "name": pa.string(), "value": pa.float64()})
    rows = [(run_id, name, value) for run_id, own in numbers.items() for name, value in own.items()]
    table = pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            pq.write_table(table, temporary)

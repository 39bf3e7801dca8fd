"""A cache of the predictions of a study's runs, by run, in one file below ``var/cache``."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.errors import StoreError
from harness.files import replacing, safe_name
from harness.tracking.tracker import Run, Tracker
from harness.train.result import Predictions

SCHEMA = pa.schema(
    {
        "run_id": pa.string(),
        "split": pa.string(),  # key of the clips, see `split_key`
        "ratios": pa.list_(pa.float64()),
        "predictions": pa.list_(pa.float32()),  # ratio after ratio
        "ids": pa.list_(pa.string()),  # with the first run of each split only
        "labels": pa.list_(pa.float32()),
    }
)


def split_key(predictions: Predictions) -> str:
    """Return a hash of the ids and labels of the clips."""
    text = "\n".join(predictions.ids.tolist()).encode("utf-8", "surrogatepass")
    return hashlib.sha256(text + predictions.labels.astype(np.float32).tobytes()).hexdigest()


def load_predictions(tracker: Tracker, cache: Path | None, runs: Iterable[Run]) -> dict[str, Predictions]:
    """Return run_id -> predictions, without the runs that have none; reads the store for new runs only.

    cache: the folder of the cache; None disables it.
    """
    runs = list(runs)
    path = None if cache is None else cache / "runs" / f"{safe_name(tracker.study)}.predictions.parquet"
    known = {} if path is None else _read(path, [run.run_id for run in runs])
    missing = [run for run in runs if run.run_id not in known]
    new = {}
    for run in missing:
        # Runs of early versions, and runs whose artifacts are gone, have none.
        with contextlib.suppress(StoreError):
            new[run.run_id] = tracker.predictions(run)
    if new and path is not None:
        _write(path, {**known, **new})
    return {**known, **new}


def _read(path: Path, run_ids: Iterable[str]) -> dict[str, Predictions]:
    """Return the cached predictions of these runs; empty if the file is missing or damaged."""
    try:
        table = pq.read_table(path, schema=SCHEMA)
        first = table.filter(pc.is_valid(table["ids"]))
        clips = {
            row["split"]: (np.array(row["ids"]), np.array(row["labels"], np.float32))
            for row in first.to_pylist()
        }
        table = table.filter(pc.is_in(table["run_id"], pa.array(list(run_ids), pa.string())))
        columns = [table[name].to_pylist() for name in ("run_id", "split", "ratios")]
        numbers = [np.asarray(values.values) for values in table["predictions"]]
        return {
            run_id: _predictions(*clips[split], ratios, values)
            for run_id, split, ratios, values in zip(*columns, numbers, strict=True)
        }
    except (OSError, KeyError, ValueError, TypeError, pa.ArrowException):
        return {}


def _predictions(ids: np.ndarray, labels: np.ndarray, ratios: list[float], values: np.ndarray) -> Predictions:
    parts = values.reshape(len(ratios), len(labels))
    return Predictions(ids, labels, dict(zip(ratios, parts, strict=True)))


def _write(path: Path, predictions: Mapping[str, Predictions]) -> None:
    """Replace the cache atomically; if it cannot be written, the next report reads the store again."""
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    for run_id, own in predictions.items():
        key = split_key(own)
        ratios = sorted(own.values)
        values = np.concatenate([own.values[ratio] for ratio in ratios])
        clips = {} if key in seen else {"ids": own.ids.tolist(), "labels": own.labels}
        rows.append({"run_id": run_id, "split": key, "ratios": ratios, "predictions": values, **clips})
        seen.add(key)
    table = pa.Table.from_pylist(rows, SCHEMA)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            pq.write_table(table, temporary)

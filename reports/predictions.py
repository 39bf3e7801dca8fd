"""The predictions of a study's cells as one Parquet file, of which only a part is in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from harness.tracking.artifacts import to_table
from reports.frame import complete_cells
from reports.study_runs import StudyRuns

SCHEMA = pa.schema(
    {
        "cell_id": pa.string(),
        "id": pa.string(),
        "occlusion_protocol": pa.string(),
        "occlusion_ratio": pa.float64(),
        "label": pa.float32(),
        "prediction": pa.float32(),
    }
)
ROWS = 2**18  # that are written at once, and the rows of a row group


def prediction_tables(runs: StudyRuns, sweep: str | None = None) -> Iterator[pa.Table]:
    """A table of `SCHEMA` per cell, in the order of their ids: a row per test clip and occlusion ratio.

    sweep: see `reports.frame.load_frame`.

    Raises:
        StoreError: the predictions of a cell cannot be read.
    """
    for cell_id, run in sorted(complete_cells(runs, sweep).items()):
        stored = to_table(runs.tracker.predictions(run))
        n, protocol = len(stored), run.tags["occlusion_protocol"]
        trained = pa.repeat(float(run.tags["train_ratio"]), n)
        columns = {
            "cell_id": pa.repeat(cell_id, n),
            "id": stored["id"],
            "occlusion_protocol": pa.repeat(protocol, n),
            "occlusion_ratio": trained if protocol == "train" else stored["occlusion_ratio"],
            "label": stored["label"],
            "prediction": stored["prediction"],
        }
        yield pa.table(columns, SCHEMA)


def write_predictions(tables: Iterable[pa.Table], path: Path) -> int:
    """Write tables of `SCHEMA` as one file; returns the number of rows. Raises OSError."""
    total = 0
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for batch in _batches(tables):
            writer.write_table(batch)
            total += len(batch)
    return total


def _batches(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in fewer tables, of which each but the last has at least `ROWS`."""
    waiting: list[pa.Table] = []
    rows = 0
    for table in tables:
        waiting.append(table)
        rows += len(table)
        if rows >= ROWS:
            yield pa.concat_tables(waiting)
            waiting, rows = [], 0
    if waiting:
        yield pa.concat_tables(waiting)

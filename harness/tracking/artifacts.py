"""The artifacts of a result: metrics, cell, test predictions, arrays for figures, and kept weights."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.data.strict.memory_limit import MemoryLimit
from harness.data.strict.npy import read_npz
from harness.errors import printable
from harness.matrix import Cell
from harness.train.result import Predictions, Result
from harness.train.weights import unpack

RESULT_FILE, CONFIG_FILE = "result.json", "config.json"
PREDICTIONS_FILE, SAMPLES_FILE, WEIGHTS_FILE = "predictions.parquet", "samples.npz", "weights.safetensors"

SCHEMA = pa.schema(
    {"id": pa.string(), "occlusion_ratio": pa.float64(), "label": pa.float32(), "prediction": pa.float32()}
)
# Memory per row of four values, including the conversion to numpy.
BYTES_OF_ROW = 256
MOST_RATIOS = 1000


def write_result(cell: Cell, result: Result, folder: Path) -> None:
    """Write the files of a result into a folder; raises OSError."""
    (folder / RESULT_FILE).write_text(result.to_json())
    (folder / CONFIG_FILE).write_text(json.dumps(dataclasses.asdict(cell), indent=1, sort_keys=True))
    if result.predictions is not None:
        pq.write_table(to_table(result.predictions), folder / PREDICTIONS_FILE)
    if result.samples:
        np.savez_compressed(folder / SAMPLES_FILE, allow_pickle=False, **result.samples)
    if result.weights is not None:
        (folder / WEIGHTS_FILE).write_bytes(result.weights)


def read_result(folder: Path) -> Result:
    """Read the files of `write_result`.

    Raises:
        OSError: a file cannot be read.
        ValueError, KeyError, TypeError, UserError: a file is damaged or has another format.
    """
    table, arrays = folder / PREDICTIONS_FILE, folder / SAMPLES_FILE
    predictions = read_predictions(table) if table.exists() else None
    samples = read_npz(arrays) if arrays.exists() else {}
    kept = folder / WEIGHTS_FILE
    weights = kept.read_bytes() if kept.exists() else None
    if weights is not None:
        unpack(weights)  # raises ValueError if the file is damaged
    return Result.from_json((folder / RESULT_FILE).read_text(), predictions, samples, weights)


def read_curves(path: Path) -> dict[str, list[float]]:
    """Read only the curves of a file of `write_result`; raises as `read_result` does."""
    return dict(Result.from_json(path.read_text(), None).curves)


def to_table(predictions: Predictions) -> pa.Table:
    """Return a table with a row per clip and ratio: id, occlusion_ratio, label, prediction."""
    ratios = sorted(predictions.values)
    n = len(predictions.labels)
    return pa.table(
        {
            "id": np.tile(predictions.ids, len(ratios)).tolist(),
            "occlusion_ratio": np.repeat(np.array(ratios, np.float64), n),
            "label": np.tile(predictions.labels, len(ratios)),
            "prediction": np.concatenate([predictions.values[r] for r in ratios]),
        }
    )


def from_table(table: pa.Table) -> Predictions:
    """Invert `to_table`; raises ValueError if clips lack a ratio, IndexError for an empty table."""
    ratios = table["occlusion_ratio"].to_numpy()
    distinct, counts = np.unique(ratios, return_counts=True)
    if len(distinct) > MOST_RATIOS or len(set(counts.tolist())) > 1:
        raise ValueError("its rows do not form a table of predictions")
    # Rows are in the order of clips within each ratio, whatever the order of the ratios.
    by_ratio = table["prediction"].to_numpy()[np.argsort(ratios, kind="stable")].reshape(len(distinct), -1)
    first = table.filter(pa.array(ratios == ratios[0]))
    values = dict(zip(distinct.tolist(), by_ratio, strict=True))
    return Predictions(np.array(first["id"].to_pylist()), first["label"].to_numpy(), values)


def read_predictions(path: Path) -> Predictions:
    """Read a table that was written from `to_table`.

    Raises:
        OSError: the file is missing.
        ValueError: the file is damaged or has another format.
        UserError: the file declares far more rows than its size allows.
    """
    memory = MemoryLimit(repr(str(path)), path.stat().st_size)
    try:
        with pq.ParquetFile(path, memory_map=False) as file:
            if not file.schema_arrow.equals(SCHEMA):
                raise ValueError("its columns differ from those of predictions")
            groups = [file.metadata.row_group(k) for k in range(file.metadata.num_row_groups)]
            memory.take(sum(group.total_byte_size + BYTES_OF_ROW * group.num_rows for group in groups))
            # Starting threads takes longer than reading so few rows.
            return from_table(file.read(use_threads=False))
    # Arrow's readers raise many kinds of exceptions for damaged files, not only their own.
    except (pa.ArrowException, NotImplementedError, MemoryError, IndexError, OSError) as error:
        raise ValueError(f"it is not a complete table ({printable(error)})") from None

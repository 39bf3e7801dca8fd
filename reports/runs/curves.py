"""Losses of a study's runs after each epoch, with a cache by run in one file below ``var/cache``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.errors import StoreError
from harness.files import replacing, safe_name
from harness.tracking.tracker import Run, Tracker

LOSSES = (
    *(f"train_{part}_loss" for part in ("task", "mixed", "penalty", "auxiliary", "total")),
    "valid_loss",
)
"""The curves: mean parts of the training loss during an epoch, see `harness.train.step.Losses`, and the
validation task loss after it."""
SCHEMA = pa.schema({"run_id": pa.string(), **dict.fromkeys(LOSSES, pa.list_(pa.float64()))})
CELL = ("dataset", "backbone", "method", "settings")
TAGS = ("occlusion_protocol", *CELL)
Curves = dict[str, dict[str, list[float]]]


def load_curves(tracker: Tracker, cache: Path | None, runs: Iterable[Run]) -> Curves:
    """Return run_id -> name -> losses of the epochs, without the runs that have none.

    cache: the folder of the cache, so that the store is read for new runs only; None disables it.
    """
    runs = list(runs)
    path = None if cache is None else cache / "runs" / f"{safe_name(tracker.study)}.curves.parquet"
    known = {} if path is None else _read(path, [run.run_id for run in runs])
    new = {}
    for run in runs:
        if run.run_id not in known:
            # The artifacts may be gone.
            with contextlib.suppress(StoreError):
                curves = tracker.curves(run)
                new[run.run_id] = {name: list(curves[name]) for name in LOSSES if name in curves}
    if new and path is not None:
        _write(path, {**known, **new})
    return {run_id: curves for run_id, curves in {**known, **new}.items() if curves}


def epochs(curves: Mapping[str, Mapping[str, Sequence[float]]]) -> pd.DataFrame:
    """Return a row per run and epoch, from 1: run_id, epoch and ``LOSSES``, NaN where a loss is unknown."""
    lengths = [max(map(len, own.values())) for own in curves.values()]
    columns: dict[str, np.ndarray] = {
        "run_id": np.repeat(np.array(list(curves), object), lengths),
        "epoch": np.concatenate([np.arange(1, n + 1) for n in lengths] or [np.empty(0, int)]),
    }
    for name in LOSSES:
        parts = [
            np.pad(
                np.asarray(own.get(name, []), float), (0, n - len(own.get(name, []))), constant_values=np.nan
            )
            for own, n in zip(curves.values(), lengths, strict=True)
        ]
        columns[name] = np.concatenate(parts or [np.empty(0)])
    return pd.DataFrame(columns)


def curve_table(runs: Iterable[Run], curves: Curves) -> pd.DataFrame:
    """Return a row per run and epoch with what was trained, ordered by cell id and epoch."""
    known = [run for run in runs if run.run_id in curves]
    known.sort(key=lambda run: run.tags["cell_id"])
    rows = [
        (run.run_id, run.tags["cell_id"], *(run.tags[name] for name in TAGS), float(run.tags["train_ratio"]),
         int(run.tags["seed"]))
        for run in known
    ]  # fmt: skip
    facts = pd.DataFrame(rows, columns=["run_id", "cell_id", *TAGS, "train_ratio", "seed"])
    return facts.merge(epochs({run.run_id: curves[run.run_id] for run in known}), on="run_id")


def _read(path: Path, run_ids: Iterable[str]) -> Curves:
    """Return the cached curves of these runs; empty if the file is missing or damaged."""
    try:
        table = pq.read_table(path, schema=SCHEMA)
        table = table.filter(pc.is_in(table["run_id"], pa.array(list(run_ids), pa.string())))
        columns = [table[name].to_pylist() for name in SCHEMA.names]
    except (OSError, KeyError, ValueError, TypeError, pa.ArrowException):
        return {}
    return {
        run_id: {name: values for name, values in zip(LOSSES, own, strict=True) if values is not None}
        for run_id, *own in zip(*columns, strict=True)
    }


def _write(path: Path, curves: Curves) -> None:
    """Replace the cache atomically; if it cannot be written, the next report reads the store again."""
    table = pa.Table.from_pylist([{"run_id": run_id, **own} for run_id, own in curves.items()], SCHEMA)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            pq.write_table(table, temporary)

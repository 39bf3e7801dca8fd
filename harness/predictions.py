"""Test predictions as the table in which they are stored."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from harness.result import Predictions


def to_table(predictions: Predictions) -> pa.Table:
    """A row per clip and ratio: id, occlusion_ratio, label, prediction."""
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
    """The inverse of `to_table`."""
    ratios = table["occlusion_ratio"].to_numpy()
    values = {float(r): table["prediction"].to_numpy()[ratios == r] for r in np.unique(ratios)}
    first = ratios == ratios[0]
    return Predictions(np.array(table["id"].to_pylist())[first], table["label"].to_numpy()[first], values)

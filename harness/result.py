"""What a cell yields; it travels from a worker to the driver's writer and is stored as one JSON artifact."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Predictions:
    """Test predictions. Shape: ids (N,) unicode, labels (N,), values[ratio] (N,), both float32."""

    ids: np.ndarray
    labels: np.ndarray
    values: Mapping[float, np.ndarray]


@dataclass(frozen=True)
class Result:
    """Everything measured in a cell.

    status: "complete" | "diverged". reason: why it diverged. scores: "valid", "test", "test_r0.30" ->
    metric -> value (NaN where undefined). undefined: "test/corr" -> reason. cell: parameter_count, train_s,
    ... curves: name -> a value per epoch. environment: device, torch version.
    """

    status: str
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    undefined: Mapping[str, str] = field(default_factory=dict)
    cell: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, list[float]] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    predictions: Predictions | None = None
    reason: str = ""

    def to_json(self) -> str:
        """Everything but the predictions, which are stored as a table."""
        stored = {k: v for k, v in self.__dict__.items() if k != "predictions"}
        return json.dumps(stored, indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, predictions: Predictions | None) -> Result:
        """The inverse of `to_json`."""
        stored: dict[str, Any] = json.loads(text)
        return cls(**stored, predictions=predictions)

    def to_plain(self) -> dict[str, Any]:
        """Everything as numbers, text, lists and dicts; float32 survives bit for bit."""
        plain = dict(self.__dict__)
        if self.predictions is not None:
            p = self.predictions
            values = [[ratio, array.tolist()] for ratio, array in p.values.items()]
            plain["predictions"] = {"ids": p.ids.tolist(), "labels": p.labels.tolist(), "values": values}
        return plain

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Result:
        """The inverse of `to_plain`."""
        stored = plain["predictions"]
        if stored is not None:
            values = {ratio: np.array(array, np.float32) for ratio, array in stored["values"]}
            stored = Predictions(np.array(stored["ids"], str), np.array(stored["labels"], np.float32), values)
        return cls(**{**plain, "predictions": stored})

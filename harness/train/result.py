"""The result of a cell, as it travels from a worker to the driver's writer and into a JSON artifact."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.files import load_json


class Diverged(Exception):
    """A loss or a weight became NaN or infinite: the message says at which epoch and step."""


@dataclass(frozen=True)
class Predictions:
    """Test predictions. Shape: ids (N,) unicode, labels (N,), values[ratio] (N,), both float32."""

    ids: np.ndarray
    labels: np.ndarray
    values: Mapping[float, np.ndarray]


@dataclass(frozen=True)
class Result:
    """Everything measured in a cell.

    status: "complete" | "diverged" | "paused" (not trained to its end). reason: why it diverged. scores:
    "valid", "test", "test_r0.30" -> metric -> value (NaN where undefined). undefined: "test/corr" -> reason.
    cell: parameter_count, train_s, ... curves: name -> a value per epoch. environment: device, torch version.
    samples: arrays for figures, see `harness.train.inspection`.
    """

    status: str
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    undefined: Mapping[str, str] = field(default_factory=dict)
    cell: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, list[float]] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    predictions: Predictions | None = None
    reason: str = ""
    samples: Mapping[str, np.ndarray] = field(default_factory=dict)

    def to_json(self) -> str:
        """Everything but the predictions and samples, which are stored as a table and as arrays."""
        stored = {k: v for k, v in self.__dict__.items() if k not in ("predictions", "samples")}
        return json.dumps(stored, indent=1, sort_keys=True)

    @classmethod
    def from_json(
        cls, text: str, predictions: Predictions | None, samples: Mapping[str, np.ndarray] | None = None
    ) -> Result:
        """The inverse of `to_json`."""
        stored: dict[str, Any] = load_json(text)
        return cls(**stored, predictions=predictions, samples=samples or {})

    def to_plain(self) -> dict[str, Any]:
        """Everything as numbers, text, lists and dicts; float32 survives bit for bit."""
        plain = dict(self.__dict__)
        if self.predictions is not None:
            p = self.predictions
            values = [[ratio, array.tolist()] for ratio, array in p.values.items()]
            plain["predictions"] = {"ids": p.ids.tolist(), "labels": p.labels.tolist(), "values": values}
        plain["samples"] = {name: _encoded(array) for name, array in self.samples.items()}
        return plain

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Result:
        """The inverse of `to_plain`."""
        stored = plain["predictions"]
        if stored is not None:
            values = {ratio: np.array(array, np.float32) for ratio, array in stored["values"]}
            stored = Predictions(np.array(stored["ids"], str), np.array(stored["labels"], np.float32), values)
        samples = {name: _decoded(array) for name, array in plain["samples"].items()}
        return cls(**{**plain, "predictions": stored, "samples": samples})


def _encoded(array: np.ndarray) -> dict[str, Any]:
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
    return {"dtype": array.dtype.str, "shape": list(array.shape), "data": data}


def _decoded(stored: dict[str, Any]) -> np.ndarray:
    data = base64.b64decode(stored["data"])
    return np.frombuffer(data, np.dtype(stored["dtype"])).reshape(stored["shape"])

"""The result of a cell, which a worker sends to the driver and the driver stores as a JSON artifact."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.files import load_json

# Fields that are not stored in the JSON, but in separate files or with the run.
APART = ("predictions", "samples", "weights", "tags", "started")


class Diverged(Exception):
    """A training with a loss or weight that is NaN or infinite; the message says at which epoch and step."""


@dataclass(frozen=True)
class Predictions:
    """Test predictions. Shape: ids (N,) unicode, labels (N,), values[ratio] (N,), both float32."""

    ids: np.ndarray
    labels: np.ndarray
    values: Mapping[float, np.ndarray]


@dataclass(frozen=True)
class Result:
    """All measurements of a cell.

    status: "complete" | "diverged" | "paused" (not trained to its end). reason: why it diverged. scores:
    "valid", "test", "test_r0.30" -> metric -> value (NaN where undefined). undefined: "test/corr" -> reason.
    cell: parameter_count, train_s, ... curves: name -> a value per epoch. environment: device, torch version.
    samples: arrays for figures, see `harness.train.inspection`. weights: the best ones, as the file that
    `harness.train.weights` writes; None if they are not kept. tags: provenance; started: start of the
    training, in seconds since the epoch; the driver sets both.
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
    weights: bytes | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    started: float = 0.0

    @property
    def lacks_weights(self) -> bool:
        """Whether the training was complete and its weights were not kept."""
        return self.status == "complete" and self.weights is None

    def to_json(self) -> str:
        """Return the measurements as JSON, without the fields that are separate files."""
        stored = {k: v for k, v in self.__dict__.items() if k not in APART}
        return json.dumps(stored, indent=1, sort_keys=True)

    @classmethod
    def from_json(
        cls,
        text: str,
        predictions: Predictions | None,
        samples: Mapping[str, np.ndarray] | None = None,
        weights: bytes | None = None,
    ) -> Result:
        """Build the result from `to_json`'s text and the separately stored fields."""
        stored: dict[str, Any] = load_json(text)
        return cls(**stored, predictions=predictions, samples=samples or {}, weights=weights)

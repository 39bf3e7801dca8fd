"""A result as JSON, and back."""

import numpy as np

from harness.train.result import Predictions, Result

TEXT = """{
 "cell": {
  "train_s": 1.5
 },
 "curves": {
  "valid_loss": [
   0.5,
   NaN
  ]
 },
 "environment": {
  "device": "CPU"
 },
 "reason": "",
 "scores": {
  "test": {
   "mae": 0.25
  }
 },
 "status": "complete",
 "undefined": {
  "test/corr": "why"
 }
}"""


def test_a_result_keeps_its_measurements_in_json_and_the_rest_apart():
    predictions = Predictions(np.array(["a"]), np.zeros(1), {0.0: np.ones(1)})
    result = Result(
        "complete",
        {"test": {"mae": 0.25}},
        {"test/corr": "why"},
        {"train_s": 1.5},
        {"valid_loss": [0.5, float("nan")]},
        {"device": "CPU"},
        predictions,
        samples={"x": np.zeros(2)},
        tags={"a": "b"},
        started=3.0,
    )
    assert result.to_json() == TEXT
    stored = Result.from_json(TEXT, predictions)
    assert stored.to_json() == TEXT
    assert stored.predictions is predictions
    assert (stored.samples, stored.tags, stored.started) == ({}, {}, 0.0)
    samples = {"x": np.ones(2)}
    assert Result.from_json(TEXT, None, samples).samples is samples
    assert Result.from_json(TEXT, None, samples).predictions is None

"""What users of MLflow see of a run besides its numbers: its data set as an input, and a description."""

import json

from harness.tracking.tracker import Tracker
from tests.support.drivers.driving import CELLS


def test_the_data_set_is_an_input_by_which_runs_are_found(finished_study):
    tracker = Tracker(None, finished_study, "s", create=False)
    found = tracker.client.search_runs([tracker.experiment_id], "dataset.name = 'synthetic_mosi'")
    assert len(found) == CELLS
    for run in found:
        [given] = run.inputs.dataset_inputs
        fingerprint = run.data.tags["fingerprint"]
        assert given.dataset.digest == fingerprint[:36]
        assert json.loads(given.dataset.source) == {"fingerprint": fingerprint}
        assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", "training")]
        assert tracker.client.search_runs(
            [tracker.experiment_id], f"dataset.digest = '{given.dataset.digest}'", max_results=1
        )


def test_a_run_says_what_it_is(finished_study):
    tracker = Tracker(None, finished_study, "s", create=False)
    for run in tracker.runs():
        text, tags = run.tags["mlflow.note.content"], run.tags
        what = f"`{tags['variant']}` with `{tags['backbone']}` on `synthetic_mosi`, seed {tags['seed']}"
        assert text.startswith(f"{what}: one training of study `s`.")
        assert text.endswith("in `index.html`, among the artifacts of the run `study s`.")

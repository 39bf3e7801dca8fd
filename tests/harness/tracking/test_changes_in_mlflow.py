"""What users do to studies and runs in MLflow, which `harness/study/README.md` describes."""

import pytest

import harness
from harness.tracking.tracker import Tracker

CELLS = {"methods": ["none"], "backbones": ["lmf"], "datasets": ["synthetic_mosi"], "seeds": [1, 2]}
CELLS |= {"launcher": "inline", "report": False, "dataset.synthetic_mosi.clips": 60, "train.max_epochs": 1}


@pytest.fixture
def study(var_dir):
    """A function that trains the cells of a study; returns seed -> run id."""

    def train(name):
        frame = harness.run(**CELLS, var_dir=var_dir, study=name)
        return dict(zip(frame["seed"], frame["run_id"], strict=True))

    return train


def test_a_renamed_study_goes_on_under_its_new_name(study, var_dir, capsys):
    before = study("old")
    tracker = Tracker(None, var_dir, "old", create=False)
    tracker.client.rename_experiment(tracker.experiment_id, "new")
    assert study("new") == before
    assert "All 2 cells of study 'new' are done." in capsys.readouterr().out


def test_a_cell_whose_run_was_deleted_is_trained_again(study, var_dir):
    before = study("s")
    Tracker(None, var_dir, "s", create=False).client.delete_run(before[1])
    after = study("s")
    assert after[1] != before[1]
    assert after[2] == before[2]

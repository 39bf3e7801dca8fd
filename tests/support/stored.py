"""The stored study of `tests/reports/conftest.py`, opened."""

from harness.tracking.tracker import Tracker
from reports.runs.study import load_study
from reports.runs.study_runs import StudyRuns

FEW = ("methods=[none,mixup,ms_mix]", "backbones=[lmf]", "seeds=[1111,1112]")
CELLS = 6


def tracker_of(var):
    return Tracker(None, var, "s", create=False)


def load(var):
    return load_study(StudyRuns(tracker_of(var), var / "cache"))

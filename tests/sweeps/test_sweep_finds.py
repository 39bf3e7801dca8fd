"""Sweeps find a known best delta, and find none if there is none."""

import json
import pickle

import pytest

from harness.tracking.tracker import Tracker
from reports.figures.sweeps import FIGURE
from reports.runs.study import load_study
from reports.runs.study_runs import StudyRuns
from reports.stats.settings import verdicts
from sweeps.run import main
from tests.support.delta_worlds import SETTINGS, islands, noise, plain
from tests.support.drivers.sweeping import trials_of

pytestmark = pytest.mark.slow
SEEDS = "seeds=[1111,1112,1113]"


def sweep(var, world, *more):
    """Run a sweep on a world; returns its trials, the best first."""
    file = var / "world.pkl"
    file.write_bytes(pickle.dumps(world))
    data = ["datasets=[world]", f"dataset.world.path={file}", "dataset.world.like=mosi"]
    # Inline, because workers import for longer than they train.
    assert main([f"var_dir={var}", "study=s", "launcher=inline", *data, *SETTINGS, *more]) == 0
    return trials_of(var).sort_values("metrics/objective")


def verdict_of(var):
    study = load_study(StudyRuns(Tracker(None, var, "s", create=False)))
    [verdict] = verdicts(study.trials, study.clips)
    return verdict


@pytest.mark.parametrize(
    ("world", "best", "worst"),
    [
        (islands, (0.6, 0.9), (0.0, 0.4)),
        pytest.param(plain, (0.0, 0.4), (0.6, 0.9), marks=pytest.mark.soak),
    ],
)
def test_the_best_delta_is_found(var_dir, world, best, worst, capsys):
    """The validation split chooses the setting; the test split agrees."""
    trials = sweep(var_dir, world(2), "param=delta", SEEDS, "report=false")
    by_test = trials.sort_values("metrics/test/mae")
    chosen = (trials["params"].iloc[0], by_test["params"].iloc[0], trials["params"].iloc[-1])
    deltas = [json.loads(params)["delta"] for params in chosen]
    for delta, (low, high) in zip(deltas, (best, best, worst), strict=True):
        assert low <= delta <= high
    verdict = verdict_of(var_dir)
    assert verdict.p < 0.01
    assert "the setting matters beyond the noise" in verdict.sentence
    assert verdict.sentence in capsys.readouterr().out.replace("\n", " ")


def test_where_no_delta_is_best_the_report_says_so(var_dir, monkeypatch):
    monkeypatch.setattr("reports.page.report.FIGURES", (FIGURE,))  # drawing all takes as long as training
    # The best prediction is a constant, which takes few epochs to learn.
    sweep(var_dir, noise(1), "param=delta", SEEDS, "backbone.lmf.max_epochs=4")
    verdict = verdict_of(var_dir)
    assert verdict.p > 0.1
    assert "no setting is better than the others beyond the noise between seeds" in verdict.sentence
    assert "no setting is better" in (var_dir / "reports" / "s" / "tables" / "sweep_delta.md").read_text()

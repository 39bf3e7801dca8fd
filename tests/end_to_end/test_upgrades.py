"""Results of another version are shown as such and never mixed in, or refused with advice."""

import functools

import pandas as pd
import pytest

from backbones import BACKBONES
from harness.matrix import RESULTS_VERSION, Cell
from harness.tracking.tags import Trial
from harness.tracking.tracker import Tracker
from methods import METHODS
from reports import build, export
from reports.runs.frame import load_frame
from reports.runs.study import load_study
from reports.runs.study_runs import StudyRuns
from reports.runs.trials import load_trials
from tests.support.drivers.driving import comparable, copy_study, exported, run

OLDER, NEWER = RESULTS_VERSION - 1, RESULTS_VERSION + 1
FEW = ("methods=[none,mixup]", "backbones=[lmf]", "train.max_epochs=1")
NONE = ("methods=[none]", *FEW[1:])
CELLS = 4


def tracker_of(var):
    return Tracker(None, var, "s", create=False)


def versions(var):
    return sorted(int(r.tags["results_version"]) for r in tracker_of(var).complete().values())


def train_as(version, var, *more):
    """Run the matrix as a program of another results version does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.plan.Cell", functools.partial(Cell, results_version=version))
        patch.setattr("harness.study.driver.kept_sentence", lambda versions: "")
        assert run(var, *FEW, *more) == 0


@pytest.fixture(scope="module")
def trained(new_var):
    """A function: a finished study of these results versions, one after the other; not to be written into."""

    @functools.cache
    def study(*wanted):
        var = new_var()
        for version in wanted:
            train_as(version, var)
        return var

    return study


@pytest.fixture
def copied(trained, tmp_path):
    """The same as a copy with databases in one file each."""
    return lambda *wanted: copy_study(trained(*wanted), tmp_path / "var")


@pytest.fixture
def said(capsys):
    """Return the output since the last call, with wrapped lines joined."""
    return lambda: " ".join(capsys.readouterr().out.split())


# Results of another version


def test_a_study_of_an_older_version_goes_on_beside_its_old_results(copied, said):
    var = copied(OLDER)
    before, predictions = exported(var)
    assert f"results of version {OLDER}, but this program computes version {RESULTS_VERSION}" in said()
    assert before["cell_id"].nunique() == predictions["cell_id"].nunique() == CELLS
    assert run(var, *FEW) == 0
    kept = f"Study 's' has {CELLS} results of results version {OLDER}: kept but not used, as this program"
    assert kept in said()
    assert versions(var) == [OLDER] * CELLS + [RESULTS_VERSION] * CELLS
    after, _ = exported(var)
    assert set(after["cell_id"]).isdisjoint(before["cell_id"])
    assert after["cell_id"].nunique() == CELLS
    said()
    # Each resume prints the message, and nothing is trained again.
    assert run(var, *FEW) == 0
    shown = said()
    assert kept in shown
    assert f"All {CELLS} cells of study 's' are done." in shown


def test_a_study_of_this_version_hears_nothing_of_versions(trained, said):
    var = trained(RESULTS_VERSION)
    exported(var)
    assert run(var, *FEW) == 0
    assert "version" not in said()


def test_an_export_holds_one_version_and_counts_the_others(copied, said):
    var = copied(OLDER)
    older, _ = exported(var)
    assert run(var, *NONE) == 0
    said()
    frame, predictions = exported(var)
    assert said().startswith(
        f"Only results version {RESULTS_VERSION} is used, as versions never mix; left out: {CELLS} results of"
    )
    assert set(frame["method"]) == {"none"}
    assert frame["cell_id"].nunique() == 2
    assert set(predictions["cell_id"]) == set(frame["cell_id"])
    # The arithmetic is equal here, so equal numbers show that nothing else was left out.
    same = older[older["method"] == "none"].reset_index(drop=True)
    # The settings include the version.
    own = ("cell_id", "configuration", "resolved")
    columns = [name for name in comparable(frame) if name not in own]
    order = ["seed", "occlusion_ratio", "split", "metric"]
    pd.testing.assert_frame_equal(
        *(comparable(f)[columns].sort_values(order, ignore_index=True) for f in (frame, same))
    )


def test_a_report_shows_one_version_and_counts_the_others(copied, capsys, monkeypatch):
    monkeypatch.setattr("reports.page.report.FIGURES", ())
    var = copied(OLDER)
    train_as(NEWER, var, "methods=[mixup]")
    assert run(var, *NONE) == 0
    study = load_study(StudyRuns(tracker_of(var)))
    shown = {name.partition("results version ")[2] for name in study.frame["environment"]}
    assert shown == {str(RESULTS_VERSION)}
    assert study.facts["Results version"] == str(RESULTS_VERSION)
    assert study.warnings[0] == (
        f"Only results version {RESULTS_VERSION} is used, as versions never mix; left out: {CELLS} results "
        f"of results version {OLDER} and 2 results of results version {NEWER}."
    )
    assert study.counts()["done"] == 2
    capsys.readouterr()
    assert build.main([f"var_dir={var}", "study=s"]) == 0
    assert study.warnings[0] in (var / "reports" / "s" / "index.html").read_text()


def test_failures_of_another_version_are_not_listed(copied):
    var = copied(RESULTS_VERSION)
    wild = ("backbone.lmf.learning_rate=1e30",)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.plan.Cell", functools.partial(Cell, results_version=OLDER))
        assert run(var, *NONE, *wild) == 1
    assert run(var, *FEW) == 0
    assert len(tracker_of(var).diverged()) == 2
    study = load_study(StudyRuns(tracker_of(var)))
    assert set(study.outcomes["state"]) == {"done"}


def test_trials_of_one_version_are_shown(copied, trained, said):
    """A sweep resumes only with its own version; a new sweep has the same trial numbers."""
    tracker = tracker_of(copied(OLDER, RESULTS_VERSION))
    cells = tracker.complete()
    for number, version in enumerate((OLDER, RESULTS_VERSION)):
        mine = {r.tags["seed"]: i for i, r in cells.items() if r.tags["results_version"] == str(version)}
        log_trial(tracker, version, number + 0.5, mine)
    frame = load_trials(StudyRuns(tracker))
    assert set(frame["objective_value"]) == {1.5}
    assert set(load_frame(tracker, "delta")["cell_id"]) == set(mine.values())
    [sentence] = [s for s in load_study(StudyRuns(tracker)).warnings if "Sweep" in s]
    assert sentence.startswith(f"Sweep delta: Only results version {RESULTS_VERSION} is used, as ")
    var = tracker.var_dir
    assert export.main([f"var_dir={var}", "study=s", "sweep=delta", f"out={var}/x"]) == 0
    assert sentence in said()


def log_trial(tracker, version, value, cells):
    base = Cell(
        *("synthetic_mosi", "mosi", 3.0, "f", "lmf", BACKBONES["lmf"].Settings()),
        *("ms_mix", METHODS["ms_mix"].Settings(), 1111),
        results_version=version,
    )
    facts = {"state": "complete", "objective": "valid/loss", "value": value, "metrics": {}, "started": 0.0}
    tracker.log_trial(Trial("delta", "a search", 0, base, {"delta": 0.2}, True, cells=cells, **facts))

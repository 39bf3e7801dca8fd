"""A var_dir that is moved, copied, or reached by another path uses the artifacts inside it."""

import shutil

import pytest

from harness.tracking.tracker import Tracker
from reports.build import main as report
from reports.export import main as export
from reports.runs.study import load_study
from reports.runs.study_runs import StudyRuns
from tests.support.drivers.driving import CELLS, copy_study, exported, run

STUDY = ("backbones=[lmf]", "methods=[none,mixup]", "occlusion.ratios=[0]", "train.max_epochs=1")


def results(var):
    return sorted(path.parts[-3] for path in (var / "artifacts").rglob("result.json"))


@pytest.fixture
def original(finished_study, tmp_path):
    """A finished study in a folder that may be moved; its name needs escaping in addresses."""
    return copy_study(finished_study, tmp_path / "a%20 b#ü")


def test_a_moved_study_is_exported_and_goes_on(original, tmp_path, monkeypatch):
    numbers, clips = exported(original)
    moved = original.rename(tmp_path / "deep_er")
    # Nothing can be written at the old place.
    original.touch()
    assert exported(moved)[0].equals(numbers)
    assert exported(moved)[1].equals(clips)
    before = len(results(moved))
    assert run(moved, *STUDY, "seeds=[1113]") == 0
    assert len(results(moved)) == before + 2
    monkeypatch.setattr("reports.page.report.FIGURES", ())  # drawing takes longer than all the rest
    assert report([f"var_dir={moved}", "study=s"]) == 0


def test_a_copy_leaves_the_original_alone(original, tmp_path):
    copy = copy_study(original, tmp_path / "copy")
    before = results(original)
    assert run(copy, *STUDY, "seeds=[1113]") == 0
    assert results(original) == before
    assert len(results(copy)) == len(before) + 2
    shutil.rmtree(original)
    assert len(exported(copy)[1])


def test_another_path_to_the_same_folder_changes_nothing(original, tmp_path):
    def addresses():
        tracker = Tracker(None, original, "s", create=False)
        return [tracker.client.get_run(run.run_id).info.artifact_uri for run in tracker.runs()]

    before = addresses()
    link = tmp_path / "link"
    link.symlink_to(original)
    assert len(exported(link)[1])
    assert addresses() == before


def test_artifacts_that_are_gone_are_said_to_be_gone(original, capsys):
    tracker = Tracker(None, original, "s", create=False)
    run_id = next(iter(tracker.complete().values())).run_id
    (folder,) = (original / "artifacts").rglob(run_id)
    shutil.rmtree(folder)
    assert export([f"var_dir={original}", "study=s", f"predictions={original / 'p.parquet'}"]) == 2
    assert f"the artifacts of run {run_id} are gone: file://" in capsys.readouterr().err
    (warning,) = [text for text in load_study(StudyRuns(tracker)).warnings if "gone" in text]
    assert warning.startswith(f"The artifacts of 1 of {CELLS} runs are gone (file://")

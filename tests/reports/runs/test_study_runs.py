"""Runs as reports read them: what is asked of MLflow, and what comes from the cache."""

import math

from harness.tracking.tags import KEPT_TAGS
from harness.tracking.tracker import Tracker
from reports.runs.study_runs import StudyRuns
from tests.support.stored import tracker_of


def plain_runs(runs):
    """By text, in which NaN equals NaN."""
    return {cell_id: (r.run_id, dict(r.tags), str(r.metrics)) for cell_id, r in runs.items()}


def asked_of_mlflow(tracker, everywhere=False):
    found = {}
    for one in tracker.runs(everywhere=everywhere):
        found.setdefault(one.tags["cell_id"], one)
    return found


def test_what_is_read_past_mlflow_is_what_it_gives(stored, tmp_path):
    tracker = tracker_of(stored)
    wanted = asked_of_mlflow(tracker)
    for read in (tracker.complete, *[StudyRuns(tracker, tmp_path).complete] * 2):
        found = read()
        assert list(found) == list(wanted), "in the order of their starts"
        assert plain_runs(found) == plain_runs(wanted)


def test_what_other_studies_hold_comes_without_numbers(var):
    tracker = tracker_of(var)
    other = Tracker(None, var, "another")
    assert other.complete() == {}
    wanted = asked_of_mlflow(other, everywhere=True)
    kept = {"kind", "complete", "cell_id", "method", "backbone", *KEPT_TAGS}
    assert set(wanted) == set(tracker.complete())
    bare = [(r.run_id, {k: v for k, v in r.tags.items() if k in kept}, {}) for r in wanted.values()]
    runs = other.complete(everywhere=True)
    assert list(runs) == list(wanted)
    assert [(r.run_id, r.tags, r.metrics) for r in runs.values()] == bare
    tracker.client.delete_experiment(tracker.experiment_id)
    assert other.complete(everywhere=True) == {}


def test_numbers_come_from_the_cache_and_tags_from_the_store(var, tmp_path, monkeypatch):
    tracker = tracker_of(var)
    first, second, *others = tracker.complete().values()
    tracker.client.log_metric(first.run_id, "test/corr", math.nan, step=1)
    assert plain_runs(StudyRuns(tracker, tmp_path).complete()) == plain_runs(tracker.complete())
    asked = []
    plain = Tracker.last_numbers
    monkeypatch.setattr(Tracker, "last_numbers", lambda self, ids: asked.extend(ids) or plain(self, ids))
    tracker.client.set_tag(first.run_id, "tuned", "abc")
    tracker.client.delete_run(second.run_id)
    runs = {run.run_id: run for run in StudyRuns(tracker, tmp_path).complete().values()}
    assert asked == []
    assert runs[first.run_id].tags["tuned"] == "abc"
    assert math.isnan(runs[first.run_id].metrics["test/corr"])
    assert math.isfinite(runs[first.run_id].metrics["test/mae"])
    assert set(runs) == {first.run_id, *(run.run_id for run in others)}
    tracker.client.restore_run(second.run_id)
    assert plain_runs(StudyRuns(tracker, tmp_path).complete()) == plain_runs(tracker.complete())


def test_a_damaged_cache_is_made_anew_and_none_costs_nothing(stored, tmp_path, monkeypatch):
    def read(folder):
        return plain_runs(StudyRuns(tracker_of(stored), folder).complete())

    wanted = read(tmp_path / "a")
    [path] = (tmp_path / "a" / "runs").iterdir()
    for damage in (b"", b"PAR1", b"x" * 1000, path.read_bytes()[:-200]):
        path.write_bytes(damage)
        assert read(tmp_path / "a") == read(tmp_path / "a") == wanted
    (tmp_path / "runs").write_text("a file in the place of the folder")
    assert read(tmp_path) == wanted
    # A server gives runs as a whole only.
    monkeypatch.setattr(Tracker, "_engine", lambda self: None)
    assert read(tmp_path / "b") == wanted
    assert not (tmp_path / "b").exists()

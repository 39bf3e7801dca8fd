"""Made-up studies equal logged ones, costs meet bounds, and no command queries a store cell by cell.

No test judges a clock.
"""

import math

import numpy as np
import pytest
import sqlalchemy

from harness.benchmark import main as benchmark
from harness.claims.ledger import Ledger
from harness.config.compose import load_benchmark
from harness.metrics import METRICS
from harness.plan import make_plan
from harness.tracking.tags import result_tags
from harness.tracking.tracker import Tracker
from reports.export import main as export
from reports.runs.study import load_study
from reports.runs.study_runs import StudyRuns
from tests.perf import made_up, scale

MANY = 10 * scale.FEW


@pytest.fixture(scope="module")
def filled(new_var):
    """Studies that are done, of few and of more cells, by their numbers of cells."""
    folders = {scale.FEW: new_var(), MANY: new_var()}
    # The studies share a cache by a link, because generating the data set takes longest.
    (folders[MANY] / "cache").symlink_to(folders[scale.FEW] / "cache")
    for cells, folder in folders.items():
        scale.fill(folder, cells)
    return folders


@pytest.fixture
def statements():
    """Record every SQL statement of this process from now on."""
    texts = []

    def note(connection, cursor, statement, *_):
        texts.append(statement)

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", note)
    yield texts
    sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", note)


def planned(folder, cells):
    return make_plan(load_benchmark(scale.request(folder, cells))).cells


# Made-up runs


def test_they_are_as_logged_ones(filled, var_dir):
    first, *_ = planned(filled[scale.FEW], scale.FEW)
    result, tags = made_up.lean_result(first), {"git_commit": "0" * 40}
    logged, stored = Tracker(None, var_dir, "logged"), Tracker(None, var_dir, "made")
    logged.finish(logged.log(first, result, tags), result)
    # Both describe their runs as of one study.
    stored.study = logged.study
    made_up.store_runs(stored, [(first, result)], **tags)
    [one], [other] = (list(tracker.complete().values()) for tracker in (logged, stored))
    assert one.tags == other.tags
    assert one.metrics == other.metrics
    for kind in ("params", "tags", "metrics"):
        left, right = (getattr(logged.client.get_run(r.run_id).data, kind) for r in (one, other))
        assert left == right, kind
    left, right = logged.load(one), stored.load(other)
    assert left.to_json() == right.to_json()
    np.testing.assert_array_equal(left.predictions.ids, right.predictions.ids)
    assert set(result_tags(result)) <= set(one.tags)


def test_a_request_plans_as_many_cells_as_it_says_and_claims_are_of_cells_that_are_done(filled, tmp_path):
    for cells in filled:
        assert len({cell.cell_id for cell in planned(filled[scale.FEW], cells)}) == cells
    with pytest.raises(AssertionError, match="21 cells"):
        scale.request(tmp_path, 21)
    cells = planned(filled[scale.FEW], scale.FEW)
    uri = f"sqlite:///{tmp_path / 'ledger.db'}"
    made_up.store_claims(uri, "s", cells)
    with Ledger(uri, "s") as ledger:
        assert ledger.done() == {cell.cell_id for cell in cells}
        assert not ledger.claim(cells[0].cell_id)


def test_the_papers_matrix_is_read_as_runs_of_trainings(var_dir, monkeypatch):
    few = ["datasets=[synthetic_mosei]", "backbones=[tfn,misa]", "methods=[none,ms_mix]"]
    monkeypatch.setattr(scale, "PAPER", [*scale.PAPER, *few])
    tracker, count = Tracker(None, var_dir, scale.STUDY), 2 * 2 * 5 + 1
    scale.fill_paper(tracker, count)
    study = load_study(StudyRuns(tracker))
    cells = {cell.cell_id: cell for cell in scale.paper_cells(var_dir, count)}
    assert len(cells) == study.counts()["done"] == count
    assert {cell.seed for cell in cells.values()} == {0, 1}
    assert set(study.frame["cell_id"]) == set(cells)
    for cell_id, rows in study.frame[study.frame["split"] == "test"].groupby("cell_id"):
        cell = cells[cell_id]
        assert len(rows) == len(cell.ratios) * (len(METRICS[cell.metrics]) + 1)
    assert {"epoch", "cell", "valid"} <= set(study.frame["split"])
    assert list(study.sampled["method"]) == ["ms_mix"]
    arrays = study.samples(study.sampled["run_id"].iloc[0])
    assert arrays["mixed_text"].shape == (made_up.SAMPLE, made_up.WIDTH)


# No query is per cell


def count(statements, command, arguments):
    assert command(arguments) == 0
    statements.clear()  # the first time the study is announced
    assert command(arguments) == 0
    return len(statements)


def test_commands_ask_the_stores_as_often_whatever_the_number_of_cells(filled, statements, capsys):
    resumes, exports = [], []
    for cells, folder in filled.items():
        resumes.append(count(statements, benchmark, [*scale.request(folder, cells), "launcher=inline"]))
        assert f"All {cells} cells of study 'scale' are done." in capsys.readouterr().out
        exports.append(count(statements, export, scale.export_request(folder)))
    assert resumes[0] == resumes[1] < MANY
    assert exports[0] == exports[1] < MANY


def test_numbers_are_read_in_pages(filled, statements, monkeypatch):
    tracker = Tracker(None, filled[MANY], scale.STUDY, create=False)
    whole = tracker.complete()
    asked = []
    for page in (MANY, MANY // 4):
        monkeypatch.setattr("harness.tracking.reader.BATCH", page)
        statements.clear()
        assert tracker.complete() == whole
        asked.append(len(statements))
    assert asked[1] - asked[0] == 3


# Costs


def test_the_largest_size_is_held_against_the_bounds(monkeypatch):
    """Processes start in 3 s; exports grow with the power 1.3."""

    def cost(kind, command, *arguments):
        settings = dict(argument.split("=") for argument in arguments)
        seeds = settings.get("seeds")
        cells = int(settings["var_dir"].rpartition("/")[2]) if seeds is None else 20 * len(seeds.split(","))
        beyond = {scale.PLAN: 1e-3 * cells, "reports.export": 1e-4 * cells**1.3}.get(command, 1e-2 * cells)
        return {"cpu_s": 3.0 + beyond * (cells > scale.FEW), "s": beyond, "mb": 1100.0}

    monkeypatch.setattr(scale, "fill", lambda folder, cells: None)
    monkeypatch.setattr(scale, "timed", cost)
    [part] = scale.scale(planned=(1000, 2000), stored=(1000, 8000))
    rows = {row.name: row for row in part.rows}
    assert len(rows) == 3 * (3 * 2 + 1)
    assert {name for name, row in rows.items() if not row.holds} == {
        "plan, 2000 cells, peak memory",
        "resume, 8000 cells",
        "resume, 8000 cells, peak memory",
        "export, 8000 cells, peak memory",
        "export, exponent",
    }
    assert math.isclose(rows["export, exponent"].value, 1.3, rel_tol=1e-6)
    assert rows["resume, 1000 cells, peak memory"].bound is None


@pytest.mark.parametrize(("seconds", "mb", "broken"), [(1, 100, 0), (11, 100, 1), (1, 4096, 2)])
def test_reports_are_held_against_their_bounds(monkeypatch, var_dir, seconds, mb, broken):
    monkeypatch.setattr(scale, "fill_paper", lambda tracker, count: None)
    monkeypatch.setattr(scale, "Tracker", lambda *_: None)
    monkeypatch.setattr(scale, "timed", lambda *_: {"s": seconds, "mb": mb})
    [part] = scale.reports(count=7)
    assert len(part.rows) == 4
    assert sum(not row.holds for row in part.rows) == broken


@pytest.mark.soak
def test_all_commands_are_measured():
    [studies], [reports] = scale.scale(planned=(100, 200), stored=(100, 200)), scale.reports(count=48)
    rows = {row.name: row.value for row in studies.rows + reports.rows}
    assert len(rows) == 21 + 4
    assert all(value > 0 for name, value in rows.items() if "exponent" not in name)
    assert rows["report, again"] < rows["report, first"], "nothing is drawn again"

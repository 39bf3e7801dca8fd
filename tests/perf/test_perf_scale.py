"""What large studies cost: made-up runs are as logged ones, costs meet their bounds, and nothing is asked of
a store cell by cell. No clock is judged."""

import math
import shutil
import sys

import numpy as np
import pytest
import sqlalchemy

from harness.benchmark import main as benchmark
from harness.config.compose import load_benchmark
from harness.ledger import Ledger
from harness.plan import make_plan
from harness.tracking.tags import result_tags
from harness.tracking.tracker import Tracker
from reports.export import main as export
from tests.perf import scale
from tests.perf.draw import draw
from tests.perf.stored import store_claims, store_runs
from tests.perf.timed import timed

MANY = 10 * scale.FEW


@pytest.fixture(scope="module")
def filled(new_var):
    """Studies that are done, of few and of ten times as many cells, by their numbers of cells."""
    found = {}
    for cells in (scale.FEW, MANY):
        found[cells] = folder = new_var()
        if cells == MANY:  # generating data takes longer than all else
            shutil.copytree(found[scale.FEW] / "cache", folder / "cache")
        scale.fill(folder, cells)
    return found


@pytest.fixture
def statements():
    """Every statement that any database of this process is given from now on."""
    found = []

    def note(connection, cursor, statement, *_):
        found.append(statement)

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", note)
    yield found
    sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", note)


# Made-up runs


def test_they_are_as_logged_ones(filled, var_dir):
    first, *_ = make_plan(load_benchmark(scale.request(filled[scale.FEW], scale.FEW))).cells
    result, tags = scale.stub(first), {"git_commit": "0" * 40}
    logged, made = Tracker(None, var_dir, "logged"), Tracker(None, var_dir, "made")
    logged.finish(logged.log(first, result, tags), result)
    store_runs(made, [(first, result)], tags)
    [one], [other] = (list(tracker.complete().values()) for tracker in (logged, made))
    assert one.tags == other.tags
    assert one.metrics == other.metrics
    assert len(one.metrics) == 20
    for kind in ("params", "tags", "metrics"):
        left, right = (getattr(logged.client.get_run(r.run_id).data, kind) for r in (one, other))
        assert left == right, kind
    left, right = logged.load(one), made.load(other)
    assert left.to_json() == right.to_json()
    np.testing.assert_array_equal(left.predictions.ids, right.predictions.ids)
    assert set(result_tags(result)) <= set(one.tags)


def test_claims_are_those_of_cells_that_are_done(tmp_path, filled):
    cells = make_plan(load_benchmark(scale.request(filled[scale.FEW], scale.FEW))).cells
    uri = f"sqlite:///{tmp_path / 'ledger.db'}"
    store_claims(uri, "s", cells)
    with Ledger(uri, "s") as ledger:
        assert ledger.done() == {cell.cell_id for cell in cells}
        assert not ledger.claim(cells[0].cell_id)


@pytest.mark.parametrize("cells", [scale.FEW, MANY])
def test_a_request_plans_as_many_cells_as_it_says(filled, cells):
    plan = make_plan(load_benchmark(scale.request(filled[scale.FEW], cells)))
    assert len({cell.cell_id for cell in plan.cells}) == cells


def test_a_number_of_cells_that_makes_no_matrix_is_refused(tmp_path):
    with pytest.raises(AssertionError, match="21 cells"):
        scale.request(tmp_path, 21)


# Nothing is asked cell by cell


def count(statements, action):
    assert action() == 0
    statements.clear()  # the first time the study is announced
    assert action() == 0
    return len(statements)


def test_a_resume_asks_the_stores_as_often_whatever_the_number_of_cells(filled, statements, capsys):
    asked = {}
    for cells, folder in filled.items():
        given = [*scale.request(folder, cells), "launcher=inline"]
        asked[cells] = count(statements, lambda given=given: benchmark(given))
        assert f"All {cells} cells of study 'scale' are done." in capsys.readouterr().out
    assert asked[scale.FEW] == asked[MANY] < MANY


def test_an_export_asks_the_store_as_often_whatever_the_number_of_cells(filled, statements):
    asked = {
        cells: count(statements, lambda folder=folder: export(scale.wanted(folder, 0)))
        for cells, folder in filled.items()
    }
    assert asked[scale.FEW] == asked[MANY] < MANY


def test_numbers_are_read_in_pages(filled, statements, monkeypatch):
    tracker = Tracker(None, filled[MANY], scale.STUDY, create=False)
    whole = tracker.complete()
    asked = []
    for page in (MANY, MANY // 4):
        monkeypatch.setattr("harness.tracking.reader.SOME", page)
        statements.clear()
        assert tracker.complete() == whole
        asked.append(len(statements))
    assert asked[1] - asked[0] == 3


# Costs


def test_the_largest_size_is_held_against_the_bounds(monkeypatch):
    slow = {"plan": 0.001, "resume": 0.01, "export": 0.001}
    monkeypatch.setattr(scale, "fill", lambda folder, cells: None)
    monkeypatch.setattr(scale, "cost", lambda command, folder, cells: (slow[command] * cells, 1100.0))
    monkeypatch.setattr(scale, "growth", lambda command, folders: 1.3 if command == "export" else 1.0)
    rows = {row.name: row for row in scale.measure((1000, 2000), (1000, 8000)).rows}
    assert len(rows) == 3 * (3 * 2 + 1)
    assert {name for name, row in rows.items() if not row.holds} == {
        "plan, 2000 cells, peak memory",
        "resume, 8000 cells",
        "resume, 8000 cells, peak memory",
        "export, 8000 cells, peak memory",
        "export, exponent",
    }
    assert rows["resume, 1000 cells, peak memory"].bound is None


def test_the_picture_shows_the_commands(monkeypatch, tmp_path):
    monkeypatch.setattr(scale, "fill", lambda folder, cells: None)
    monkeypatch.setattr(scale, "cost", lambda command, folder, cells: (1e-3 * cells, 100.0))
    monkeypatch.setattr(scale, "growth", lambda command, folders: 1.0)
    draw([scale.measure()], tmp_path / "perf.png")
    assert (tmp_path / "perf.png").stat().st_size > 10_000


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_the_exponent_leaves_out_what_few_cells_take(monkeypatch, tmp_path, power):
    class FakeChild:
        def __init__(self, factory, arguments, as_worker):
            assert factory == "tests.perf.scale:warm"
            self.calls = 0

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def ask(self, folder, cells):
            self.calls += 1
            start = 60.0 if self.calls == 1 else 3.0
            return {"cpu_s": start + (0.0 if cells == scale.FEW else 1e-3 * cells**power)}

    monkeypatch.setattr(scale, "Child", FakeChild)
    found = scale.growth("plan", dict.fromkeys((scale.FEW, 1000, 10_000), tmp_path))
    assert math.isclose(found, power, rel_tol=1e-6)


def test_a_warm_command_says_its_cpu_time_alone(filled, capsys):
    measure = scale.warm("plan")
    assert measure(str(filled[scale.FEW]), scale.FEW)["cpu_s"] > 0
    assert scale.warm("export")(str(filled[scale.FEW]), scale.FEW)["cpu_s"] > 0
    assert capsys.readouterr().out == "", "answers alone stand there"


def test_a_command_that_ends_badly_is_no_measurement(tmp_path):
    with pytest.raises(AssertionError, match="status 2"):
        scale.warm("export")(str(tmp_path), scale.FEW)
    with pytest.raises(AssertionError, match="no such thing"):
        timed([sys.executable, "-c", "raise SystemExit('no such thing')"])


def test_the_peak_of_a_command_is_its_own():
    ours = np.ones(2**24)  # 128 MB
    seconds, mb = timed([sys.executable, "-c", "pass"])
    assert seconds > 0
    assert 1 < mb < ours.nbytes / 2**20
    assert timed([sys.executable, "-c", "x = bytearray(2**28)"])[1] > 256


@pytest.mark.soak
def test_all_commands_are_measured():
    rows = {row.name: row.value for row in scale.measure((100, 200), (100, 200)).rows}
    assert len(rows) == 21
    assert all(value > 0 for name, value in rows.items() if "exponent" not in name)

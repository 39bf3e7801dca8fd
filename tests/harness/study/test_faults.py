"""Faults during a study: after each, nothing is lost, counted twice or half-logged."""

import math
import os
import resource
import shutil
import signal
import sqlite3
from contextlib import closing
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

import harness.train.loop
from harness.databases import check_sqlite
from harness.errors import UserError
from harness.launchers.processes import ProcessLauncher
from harness.tracking.tracker import Tracker
from reports import build, export
from tests.support.drivers.driving import assert_each_cell_once, copy_study, run

FEW = ("methods=[none,mixup]", "backbones=[lmf]")
CELLS = 4


@pytest.fixture(scope="module")
def undisturbed(train_study):
    """A finished study of a few cells; do not write into it."""
    return train_study(*FEW)


@pytest.fixture
def finished(undisturbed, tmp_path):
    return copy_study(undisturbed, tmp_path / "var")


@pytest.fixture
def sentence(capsys):
    """Return the error message of a command, which must be one line."""

    def read():
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("Error: ")
        return lines[0]

    return read


# Damaged files


def overwrite(path, place, length):
    with path.open("r+b") as file:
        file.seek(place)
        file.write(np.random.default_rng(place).bytes(length))


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 8192 * 4096])


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut short": cut,
    "another file": lambda path: path.write_text("this is no database\n" * 500),
    "head overwritten": lambda path: overwrite(path, 0, 64),
    "middle overwritten": lambda path: overwrite(path, 8192, path.stat().st_size // 2),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["mlflow.db", "ledger.db"])
def test_damage_of_every_kind_is_noticed(finished, name, damage):
    check_sqlite(finished / name)
    DAMAGES[damage](finished / name)
    with pytest.raises(UserError, match=r"is damaged.*restore it from a backup, or move it away"):
        check_sqlite(finished / name)


@pytest.mark.parametrize(("name", "damage"), [("mlflow.db", "empty"), ("ledger.db", "middle overwritten")])
def test_a_damaged_database(finished, undisturbed, sentence, monkeypatch, name, damage):
    file, other = finished / name, finished / {"mlflow.db": "ledger.db", "ledger.db": "mlflow.db"}[name]
    whole, untouched = file.read_bytes(), other.read_bytes()
    DAMAGES[damage](file)
    damaged = file.read_bytes()
    monkeypatch.setattr("harness.train.loop.train", None)
    assert run(finished, *FEW) == 2
    assert f"{file} is damaged" in sentence()
    assert file.read_bytes() == damaged
    if name == "mlflow.db":
        for command in (build, export):
            assert command.main([f"var_dir={finished}", "study=s", f"out={finished / 'x.csv'}"]) == 2
            assert "is damaged" in sentence()
        assert other.read_bytes() == untouched
    for ending in ("", "-wal", "-shm"):
        (finished / f"{name}{ending}").unlink(missing_ok=True)
    if name == "mlflow.db":
        file.write_bytes(whole)
    assert run(finished, *FEW) == 0
    assert_each_cell_once(finished, undisturbed, CELLS)


def test_a_locked_database_is_not_taken_for_a_damaged_one(finished):
    with closing(sqlite3.connect(finished / "ledger.db")) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        check_sqlite(finished / "ledger.db")


# The disk


def test_a_file_in_the_place_of_the_folder(tmp_path, sentence):
    (tmp_path / "var").write_text("")
    assert run(tmp_path / "var", *FEW) == 2
    assert str(tmp_path / "var") in sentence()


def test_no_room_to_write(var_dir, undisturbed, capsys):
    """A limit on file size simulates a full disk: the store fails, the spool still has room."""
    shutil.copytree(undisturbed / "cache", var_dir / "cache")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        assert run(var_dir, *FEW, "tracking.patience_s=2") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    out, said = capsys.readouterr()
    assert "Retrying in 1 s: the tracking store" in out
    assert said.startswith("Error: the tracking store sqlite:////")
    assert said.endswith("all trained results are saved; run the same command to resume.\n")
    kept = len(list((var_dir / "spool" / "s").iterdir()))
    assert kept >= 1
    before = len(Tracker(None, var_dir, "s", create=False).complete())
    assert kept + before <= CELLS
    assert run(var_dir, *FEW) == 0
    assert_each_cell_once(var_dir, undisturbed, CELLS)


def test_a_report_that_is_interrupted_or_cannot_be_written(finished, sentence, capsys, monkeypatch):
    """The cells are stored; the next start builds the report without training."""
    monkeypatch.setattr("harness.train.loop.train", None)
    monkeypatch.setattr("reports.page.report.FIGURES", ())
    with monkeypatch.context() as patch:
        patch.setattr("harness.interrupts.signal.signal", lambda *_: None)
        patch.setattr("reports.page.report.main_numbers", Mock(side_effect=KeyboardInterrupt))
        assert run(finished, *FEW, "report=true") == 130
    shutil.rmtree(finished / "reports", ignore_errors=True)
    (finished / "reports").write_text("")
    capsys.readouterr()
    assert run(finished, *FEW, "report=true") == 1
    said = sentence()
    assert str(finished / "reports") in said
    assert "to resume" in said
    (finished / "reports").unlink()
    assert run(finished, *FEW, "report=true") == 0
    assert f"All {CELLS} cells" in capsys.readouterr().out
    assert {"index.html", "tables"} <= {path.name for path in (finished / "reports" / "s").iterdir()}


# Processes and memory


def test_an_allocation_that_fails(var_dir, undisturbed, capsys, monkeypatch):
    """The memory check is off, so that the allocation itself fails."""
    monkeypatch.setattr("harness.train.networks.memory_bytes", lambda device: 2**63)
    huge = ["backbones=[lmf,tfn]", "backbone.tfn.text_hidden=3000000", "backbone.tfn.text_out=3000000"]
    assert run(var_dir, "methods=[none,mixup]", *huge) == 1
    shown = capsys.readouterr().out
    assert "4 of 8 cells have no result" in shown
    assert "allocate" in shown
    tracker = Tracker(None, var_dir, "s", create=False)
    failed = list(tracker.runs("tags.outcome = 'failed' and attributes.status = 'FAILED'"))
    assert len(failed) == 4
    assert all("allocate" in stored.tags["reason"] for stored in failed)
    assert_each_cell_once(var_dir, undisturbed, CELLS)


@pytest.mark.slow
def test_a_killed_worker_costs_its_cell(var_dir, undisturbed, capsys, monkeypatch):
    """The worker is killed on its first job: its cell fails with a reason, and the next start finishes."""
    submit, killed = ProcessLauncher.submit, []

    def submit_and_kill(launcher, job):
        submit(launcher, job)
        if not killed:
            killed.append(launcher._workers[0].process.pid)
            os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr(ProcessLauncher, "submit", submit_and_kill)
    assert run(var_dir, *FEW, "jobs=1", launcher="processes") == 1
    output = capsys.readouterr().out
    assert f"1 of {CELLS} cells have no result" in output
    reason = "worker died (signal 9: killed; often out of memory)"
    assert output.count(reason) == 2, "as it ends, and at the end"
    tracker = Tracker(None, var_dir, "s", create=False)
    assert len(tracker.complete()) == CELLS - 1
    (failed,) = tracker.runs("tags.outcome = 'failed'")
    assert "signal 9" in failed.tags["reason"]
    assert run(var_dir, *FEW) == 0
    assert_each_cell_once(var_dir, undisturbed, CELLS)


# Stores that do not answer


def test_a_ledger_that_fails_for_a_while(var_dir, undisturbed, capsys, monkeypatch):
    """Every third statement that writes there fails once."""
    calls, plain = [], Engine.begin

    def failing(engine):
        if "ledger.db" in str(engine.url):
            calls.append(engine)
            if len(calls) % 3 == 2:
                raise OperationalError("", None, sqlite3.OperationalError("database is locked"))
        return plain(engine)

    monkeypatch.setattr(Engine, "begin", failing)
    monkeypatch.setattr("harness.retry.FIRST_WAIT_S", 0.01)
    assert run(var_dir, *FEW) == 0
    said = capsys.readouterr().out
    assert f"s: the ledger sqlite:///{var_dir / 'ledger.db'} failed: database is locked" in said
    assert_each_cell_once(var_dir, undisturbed, CELLS)


def test_drivers_that_end_at_once_share_the_studys_run(var_dir):
    one, other = Tracker(None, var_dir, "s"), Tracker(None, var_dir, "s")
    plain = one.client.create_run

    def create_run(*arguments, **settings):
        other.describe("by the other")
        return plain(*arguments, **settings)

    one.client.create_run = create_run
    one.describe("by this one")
    (found,) = one.runs("tags.kind = 'study'")
    assert found.tags["mlflow.note.content"] == "by this one"


def test_a_server_that_is_not_there(tmp_path, sentence):
    assert run(tmp_path / "var", *FEW, "tracking.uri=http://user:secret@127.0.0.1:9") == 2
    assert sentence() == "Error: Cannot open the tracking store 'http://127.0.0.1:9': Connection refused."


# Divergence


def test_a_weight_that_is_not_finite(var_dir, capsys, monkeypatch):
    """Planted after the last step of an epoch in a weight that no loss of that epoch has seen."""
    plain, planted = harness.train.loop.make_optimizer, []

    def make_optimizer(*parts):
        optimizer, backbone = plain(*parts), parts[0]
        step = optimizer.step

        def step_and_plant():
            step()
            planted.append([-math.inf, math.nan][len(planted)])
            with torch.no_grad():
                next(backbone.parameters()).view(-1)[0] = planted[-1]

        optimizer.step = step_and_plant
        return optimizer

    monkeypatch.setattr(harness.train.loop, "make_optimizer", make_optimizer)
    two = ["methods=[none]", "backbones=[lmf]", "seeds=[1111,1112]", "train.max_batches=1"]
    assert run(var_dir, *two) == 1
    assert len(planted) == 2
    shown = " ".join(capsys.readouterr().out.split())
    assert "2 of 2 cells have no result" in shown
    assert shown.count("is not finite after epoch 1, step 1") >= 2
    tracker = Tracker(None, var_dir, "s", create=False)
    diverged = list(tracker.runs("tags.kind = 'cell'"))
    assert [stored.tags["outcome"] for stored in diverged] == ["diverged"] * 2
    for stored in diverged:
        assert "is not finite after epoch 1, step 1" in stored.tags["reason"]
        assert tracker.client.get_run(stored.run_id).info.status == "FAILED"
    monkeypatch.setattr(harness.train.loop, "make_optimizer", plain)
    assert run(var_dir, *two) == 1
    assert "diverged earlier: the weight" in capsys.readouterr().out
    assert len(list(tracker.runs("tags.kind = 'cell'"))) == 2
    assert run(var_dir, *two, "retry=diverged") == 0
    assert len(tracker.complete()) == 2
    assert run(var_dir, *two) == 0

"""Databases in files on a network disk: a warning for one machine, a refusal for a second one."""

import pytest

from harness.claims.ledger import Ledger
from harness.claims.process import Process
from harness.databases import sqlite_uri
from tests.support.drivers.driving import run

SMALL = ["methods=[none]", "backbones=[lmf]", "seeds=[1111]"]
QUICK = "ledger.beat_s=0.1", "ledger.stale_s=0.2"


@pytest.fixture
def on_nfs(monkeypatch):
    monkeypatch.setattr("harness.study.session.network_disk", lambda path: "nfs4")


@pytest.fixture
def elsewhere(var_dir):
    """A driver on another host that claimed a cell."""
    times = {"beat_s": 0.1, "stale_s": 0.2}
    with Ledger(
        sqlite_uri(var_dir / "ledger.db"), "s", process=Process("another host", 1, 1), **times
    ) as far:
        assert far.claim("a cell")
        yield far


def test_one_machine_is_warned_and_trains(var_dir, on_nfs, capsys):
    assert run(var_dir, *SMALL) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert (
        f"{str(var_dir / 'ledger.db')!r} lies on a network disk (nfs4), on which SQLite is not safe" in said
    )
    assert "for several, use shards (shard=1/4, then python -m harness.collect), or a server" in said


def test_a_second_machine_is_refused(var_dir, on_nfs, elsewhere, capsys):
    assert run(var_dir, *SMALL, *QUICK) == 2
    said = capsys.readouterr().err
    assert "Another machine works on this study, and '" in said
    assert "use shards (shard=1/4, then python -m harness.collect), or a server (tracking.uri=" in said
    assert said.count("\n") == 1


def test_a_machine_that_died_is_no_second_one(var_dir, on_nfs, elsewhere, capsys):
    elsewhere._stop.set()
    elsewhere._heart.join()
    assert run(var_dir, *SMALL, *QUICK) == 0
    assert "lies on a network disk" in capsys.readouterr().out


def test_on_a_local_disk_several_machines_are_none_of_its_business(var_dir, elsewhere, capsys):
    assert run(var_dir, *SMALL, *QUICK) == 0
    assert "network disk" not in capsys.readouterr().out

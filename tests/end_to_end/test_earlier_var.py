"""A var_dir that an earlier version wrote: resumed, exported and reported without training anything."""

import contextlib
import functools
import re
import shlex
import sqlite3
import subprocess
import sys
import tarfile

import pandas as pd
import pytest

from harness.benchmark import main as benchmark
from harness.errors import UserError
from harness.matrix import RESULTS_VERSION, Cell
from harness.tracking.tracker import Tracker
from reports.build import main as build
from reports.export import main as export
from reports.runs.frame import IDENTITY
from sweeps.run import main as sweep
from tests.support.paths import GOLDEN

SETTINGS = ["study=s", "launcher=inline", "report=false", "datasets=[synthetic_mosi]", "backbones=[lmf]"]
SETTINGS += ["dataset.synthetic_mosi.clips=60", "train.max_epochs=2", "backbone.lmf.rank=2"]
SETTINGS += ["backbone.lmf.text_hidden=8", "backbone.lmf.audio_hidden=4", "backbone.lmf.vision_hidden=4"]
MATRIX = ["methods=[none,mixup,'ms_mix{delta:0.4,sal:false}']", "seeds=[1111,1112]"]
OCCLUSION = ["occlusion.ratios=[0,0.5]", "occlusion.protocols=[test,train]"]
STORED = 2  # the results version of the archive


@pytest.fixture
def earlier(tmp_path, monkeypatch):
    """The earlier var_dir at its new place, its database upgraded if MLflow asks for it; training fails."""

    def forbidden(*_, **__):
        raise AssertionError("a cell is trained")

    # In this order: importing the job takes the loop's function, which would then be the one to restore.
    for place in ("harness.launchers.job.train", "harness.train.loop.train"):
        monkeypatch.setattr(place, forbidden)
    with tarfile.open(GOLDEN / "earlier_var.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    var = tmp_path / "var"
    with contextlib.closing(sqlite3.connect(var / "mlflow.db")) as connection:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            change = f"UPDATE {table} SET {column} = replace({column}, 'file:///somewhere/var', ?)"
            connection.execute(change, [var.as_uri()])
        connection.commit()
    try:
        Tracker(None, var, "s", create=False)
    except UserError as refusal:
        command = re.search(r"python (-m mlflow db upgrade '[^']*')", str(refusal))[1]
        subprocess.run([sys.executable, *shlex.split(command)], check=True)
    return var


def runs(var, kind):
    tracker = Tracker(None, var, "s", create=False)
    return {run.run_id: run.tags for run in (tracker.trials() if kind == "trial" else tracker.runs())}


@pytest.fixture
def as_stored(monkeypatch):
    """A function that makes this program compute the results version of the archive."""

    def ask():
        monkeypatch.setattr("harness.plan.Cell", functools.partial(Cell, results_version=STORED))
        for module in ("sweeps.trials", "harness.tracking.versions"):
            monkeypatch.setattr(f"{module}.RESULTS_VERSION", STORED)

    return ask


def test_it_is_exported_to_the_same_bytes_and_goes_on_where_it_was(earlier, as_stored, capsys):
    """A result that waited for MLflow is logged."""
    out, predictions = earlier.parent / "s.csv", earlier.parent / "s.parquet"
    assert export([f"var_dir={earlier}", "study=s", f"out={out}", f"predictions={predictions}"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    told = f"results of version {STORED}, but this program computes version {RESULTS_VERSION}"
    assert (told in said) == (STORED != RESULTS_VERSION)
    # Later versions added three columns.
    numbers = pd.read_csv(out, dtype=str).drop(columns=[*IDENTITY, "resolved"])
    pd.testing.assert_frame_equal(numbers, pd.read_csv(earlier / "s.csv", dtype=str))
    before = pd.read_parquet(earlier / "s.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(predictions)[list(before.columns)], before)
    cells, trials = runs(earlier, "cell"), runs(earlier, "trial")
    as_stored()
    assert benchmark([f"var_dir={earlier}", *SETTINGS, *OCCLUSION, *MATRIX]) == 0
    assert re.search(r"All \d+ cells of study 's' are done\.", capsys.readouterr().out)
    assert sweep([f"var_dir={earlier}", *SETTINGS, "param=delta", "seeds=[1111,1112]"]) == 0
    assert runs(earlier, "cell") == cells
    assert runs(earlier, "trial") == trials
    assert benchmark([f"var_dir={earlier}", *SETTINGS, "methods=[none]", "seeds=[1113]"]) == 0
    [added] = [tags for run_id, tags in runs(earlier, "cell").items() if run_id not in cells]
    assert (added["method"], added["seed"]) == ("none", "1113")
    assert not list((earlier / "spool" / "s").iterdir())


def test_its_results_are_not_those_of_this_version(earlier, capsys):
    """Each cell is planned again, and the old results stay."""
    before = runs(earlier, "cell")
    assert benchmark([f"var_dir={earlier}", *SETTINGS, "methods=[none]", "seeds=[1111]"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    kept = f"results of results version {STORED}: kept but not used, as this program computes version"
    assert kept in said
    assert "failed synthetic_mosi/lmf/none/seed1111: AssertionError: a cell is trained" in said
    assert runs(earlier, "cell") == before


@pytest.mark.slow
def test_it_is_reported(earlier):
    assert build([f"var_dir={earlier}", "study=s"]) == 0
    folder = earlier / "reports" / "s"
    assert "MS-Mix[sass,sig]{delta:0.4}" in (folder / "index.html").read_text(encoding="utf-8")
    for name in ("comparison", "occlusion", "sweep_delta"):
        for suffix in ("csv", "md", "tex"):
            text = (folder / "tables" / f"{name}.{suffix}").read_text(encoding="utf-8")
            assert ("0.4" if name == "sweep_delta" else "mixup" if suffix == "csv" else "Mixup") in text

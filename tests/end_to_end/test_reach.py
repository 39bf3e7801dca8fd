"""A study touches nothing outside its folder and no network, whatever its names and ids are."""

import hashlib
import json
import os
import re
import subprocess
import sys

import pandas as pd
import pytest

from harness.files import safe_name
from harness.tracking.tracker import Tracker
from reports.export import main as export
from tests.support.awkward import content, write
from tests.support.browser import elements
from tests.support.paths import ROOT

STUDIES = [
    "<img src=x onerror=alert(1)>",
    "$\N{RIGHT-TO-LEFT OVERRIDE}\N{GRINNING FACE}|a|b| [red]x ' \" %2e%2e%2fx",
    "..." + "\u00e9" * 98,
]
SWEEP = "..%2fx <script>alert(1)"
IDS = ["<b onclick=x>", r"$\input{/etc/passwd}$", "[red]x[/red]", "|a|b|"]
IDS += ["../../x", "=cmd()", "\u202e", "a\nb"]
# Every process of the study imports it.
WATCH = """
import os, sys
def see(event, given):
    if event in ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname"):
        # 1: between processes of this machine. ::1: urllib3 looks, when it is imported, whether that can be.
        if event.startswith("socket.get") or (given[0].family != 1 and given[1] != ("::1", 0)):
            with open(os.environ["SEEN"], "a") as file:
                print(event, given[1:], file=file)
sys.addaudithook(see)
"""


@pytest.fixture
def place(tmp_path):
    """A folder with a file of hostile ids, separate home and working directories, and an audit hook."""
    found = content()
    for split, part in found.items():
        part["id"] = [f"{IDS[row % len(IDS)]}{split}{row}" for row in range(len(part["id"]))]
    write(found, tmp_path)
    for name in ("home", "work", "watch"):
        (tmp_path / name).mkdir()
    (tmp_path / "watch" / "sitecustomize.py").write_text(WATCH)
    return tmp_path


# All commands in one process, because importing takes longer than training. The first study's report has
# every figure, and those of the others one with data and one that names a command.
USE = """
import json, sys
from harness.benchmark import main as benchmark
from reports.figures import sweeps
from reports.page import report
from sweeps.run import main as sweep
for program, few, arguments in json.loads(sys.argv[1]):
    if few:
        report.FIGURES = (*report.FIGURES[-1:], sweeps.FIGURE)
    if status := {"benchmark": benchmark, "sweep": sweep}[program](arguments):
        sys.exit(status)
"""


def run(place, calls):
    """Run the project's commands and return their output; calls: (program, few figures, arguments)."""
    path = os.pathsep.join([str(place / "watch"), str(ROOT)])
    more = {"PYTHONPATH": path, "HOME": str(place / "home"), "SEEN": str(place / "seen")}
    calls = [(program, few, [f"var_dir={place / 'var'}", *arguments]) for program, few, arguments in calls]
    command = [sys.executable, "-c", USE, json.dumps(calls)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "RAY"))}
    done = subprocess.run(command, cwd=place / "work", env={**kept, **more}, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert not re.search("Traceback|Warning", said)
    return said


def outside(place):
    """All files and folders but the study's, the home's and Python's caches, with a hash of their content."""
    folders = [place, *(ROOT / name for name in ("harness", "reports", "sweeps", "tests"))]
    paths = [path for folder in folders for path in folder.rglob("*") if "__pycache__" not in path.parts]
    own = place / "var", place / "home"
    others = [path for path in paths if not any(path.is_relative_to(folder) for folder in own)]
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "" for path in others}


@pytest.mark.slow
def test_hostile_names_all_the_way_to_the_report(place):
    var, home = place / "var", place / "home"
    before = outside(place)
    small = ["datasets=[mine]", f"dataset.mine.path={place / 'awkward.pkl'}", "backbones=[lmf]"]
    small += ["profile=quick", "train.max_epochs=1"]
    swept = ["param=alpha", f"sweep.name={SWEEP}", f"study={STUDIES[0]}", "seeds=[1,2]", "launcher=inline"]
    processes = ["methods=[none,ms_mix]", "seeds=[1,2]", "jobs=2", "report=false"]
    inline = ["methods=[none]", "seeds=[1]", "launcher=inline"]
    calls = [("benchmark", False, [*small, f"study={STUDIES[0]}", *processes])]
    calls += [("sweep", False, [*small, *swept])]
    calls += [("benchmark", True, [*small, f"study={study}", *inline]) for study in STUDIES[1:]]
    said = re.sub(r"\s+", " ", run(place, calls))
    for study in STUDIES:
        assert f"Study {study[:9]}".replace("\u202e", r"\u202e") in said
    assert outside(place) == before
    assert {path.name for path in home.iterdir()} <= {".cache", ".config"}, "what libraries keep"
    assert not (place / "seen").exists(), (place / "seen").read_text()
    assert {path.name for path in (var / "reports").iterdir()} == set(map(safe_name, STUDIES))
    assert len(list((var / "artifacts").iterdir())) == len(STUDIES)
    plain = None
    for study in STUDIES:
        check_study(var, study)
        folder = var / "reports" / safe_name(study)
        found = elements((folder / "index.html").read_text(encoding="utf-8"))
        planted = {("script", "src"), ("img", "onerror"), ("b", "onclick"), ("iframe", ""), ("object", "")}
        assert not planted & found
        plain = plain or found
        assert found <= plain, "the first study alone has a sweep"
    latex = "".join(p.read_text() for p in (var / "reports").rglob("*.tex"))
    assert r"\textless{}img src=x onerror=alert(1)\textgreater{}" in latex
    # The paper's main file shows the report's own, and says so in a comment.
    assert not re.search(r"<img|<script|\\input(?! its files|{(results\.tex|table_[\w+.-]*\.tex)})", latex)


def check_study(var, study):
    """MLflow and the export hold names and ids as they were given."""
    tracker = Tracker(None, var, study, create=False)
    assert tracker.client.get_experiment(tracker.experiment_id).name == study
    out = var / "clips.parquet"
    assert export([f"var_dir={var}", f"study={study}", f"predictions={out}"]) == 0
    ids = set(pd.read_parquet(out)["id"])
    assert ids == {f"{IDS[row % len(IDS)]}test{row}" for row in range(6)}
    arguments = json.loads(tracker.study_file("matrix.json"))["arguments"]
    assert f"study={study}" in arguments

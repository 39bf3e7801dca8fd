"""Every empty table and figure names a command that fills it: typed, it leaves no hole."""

import html
import re
import shlex

import pytest

from harness.benchmark import main as benchmark
from harness.config.compose import load_benchmark, load_sweep
from harness.errors import UserError
from reports import commands
from reports.figures.registry import FIGURES
from reports.page import summary
from reports.page.html import page
from reports.page.report import _report, all_tables
from reports.runs.study import load_study
from reports.runs.study_runs import StudyRuns
from reports.tables.table import Table
from reports.ui import main as ui
from sweeps.run import main as sweep
from tests.support.drivers.driving import Tracker, copy_study
from tests.support.studies import make_study

STUDY = "an odd 'study'"
SMALL = [
    *("datasets=[synthetic_mosi]", "dataset.synthetic_mosi.clips=60", "backbones=[lmf]"),
    *("train.max_epochs=1", "seeds=[3]", "launcher=inline", "report=false"),
]
# What leaves most of the report empty, and what a command must not repeat.
BARE = ["methods=[mixup]", "occlusion.protocols=[train]", "occlusion.ratios=[0.5]", "retry=diverged"]


@pytest.fixture(scope="module")
def bare(new_var):
    """A study whose only cell was trained on occluded inputs."""
    var = new_var()
    assert benchmark([f"var_dir={var}", f"study={STUDY}", *SMALL, *BARE]) == 0
    return var


def load(var):
    return load_study(StudyRuns(Tracker(None, var, STUDY, create=False)))


def empty_parts(study):
    """Name -> command of each table and figure without data."""
    tables = {t.name: t.fill for t in all_tables(study, summary.compare_methods(study)) if not len(t)}
    return tables | {f.name: f.fill(study) for f in FIGURES if f.data(study).empty}


def type_in(command):
    """Run a command, without the page, which takes longer than all the rest; returns its exit status."""
    python, m, module, *arguments = shlex.split(command)
    assert (python, m) == ("python", "-m")
    return {"harness.benchmark": benchmark, "sweeps.run": sweep}[module]([*arguments, "report=false"])


def test_commands_of_empty_parts_are_accepted(bare):
    empty = empty_parts(load(bare))
    assert len(empty) == 18
    for command in set(empty.values()):
        _, _, module, *arguments = shlex.split(command)
        compose = {"harness.benchmark": load_benchmark, "sweeps.run": load_sweep}[module]
        assert (compose(arguments).study, compose(arguments).var_dir) == (STUDY, str(bare))


@pytest.mark.slow
def test_commands_fill_what_is_empty(bare, tmp_path, capsys):
    var = copy_study(bare, tmp_path / "moved")
    steps, empty = 0, empty_parts(load(var))
    while holes := {n: c for n, c in empty.items() if "sweeps.run" not in c}:
        command = next(iter(holes.values()))
        assert type_in(command) == 0, command
        empty = empty_parts(load(var))
        assert not {name for name, same in holes.items() if same == command} & set(empty), command
        steps += 1
    assert steps <= 6
    assert list(empty) == ["figure4_sweeps"]
    assert not list((bare / "reports").glob("*")), "the commands are of the study as it lies now"


def test_the_command_of_the_ui_finds_the_study(bare, capsys, monkeypatch):
    assert benchmark([f"var_dir={bare}", f"study={STUDY}", *SMALL, *BARE]) == 0
    [advice] = re.findall("^Browse the runs with `(.*)`.$", capsys.readouterr().out, re.MULTILINE)
    *start, module, study, located = shlex.split(advice)
    assert [*start, module] == ["python", "-m", "reports.ui"]
    monkeypatch.setattr("reports.ui.free_port", lambda *_: (_ for _ in ()).throw(UserError("found")))
    assert ui([study, located]) == 2
    assert capsys.readouterr().err == "Error: found\n"
    report = _report(load(bare), [], [Table("t", "T", [])], [], bare)
    assert f"<code>{advice}</code>" in html.unescape(page(report))


def test_the_command_of_a_sweep_is_accepted(bare):
    _, _, module, *arguments = shlex.split(commands.sweep(load(bare), "delta"))
    assert module == "sweeps.run"
    config = load_sweep(arguments)
    assert (config.study, config.var_dir, config.report.build) == (STUDY, str(bare), True)


def test_a_finished_seed_gives_no_new_sample():
    study = make_study(2, samples=False)
    assert commands.sampled(study) == "make benchmark ARGS='seeds=[1113,1111,1112]'"
    assert commands.sampled(study, "ms_mix") == commands.sampled(study)
    assert commands.sampled(make_study(0, ()), "ms_mix") == "make benchmark"


@pytest.mark.parametrize("name", ["quick", "a b", "a$b", "it's", "..."])
def test_make_gets_only_names_that_it_can_hold(name):
    command = commands.again(make_study(1, name=name))
    plain = {
        "quick": "make benchmark",
        "a b": "make benchmark STUDY='a b'",
        "...": "make benchmark STUDY=...",
    }
    other = f"python -m harness.benchmark {shlex.join([f'study={name}', 'profile=quick'])}"
    assert command == plain.get(name, other)
    if name not in plain:
        assert load_benchmark(shlex.split(command)[3:]).study == name

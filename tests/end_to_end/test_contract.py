"""The contract of imports in pyproject.toml notices an import that points up, or in a circle."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PACKAGES = ("backbones", "methods", "harness", "reports", "sweeps")


def lint(folder):
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path):
    """A copy of the project's code and contract."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_project_keeps_it(copy):
    done = lint(copy)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("backbones/tfn.py", "from methods.base import Method", "Layers of the packages"),
        ("methods/mixup.py", "from harness.errors import UserError", "Layers of the packages"),
        ("harness/data/store.py", "from harness.train import seeds", "Layers of the harness"),
        ("reports/stats/intervals.py", "from reports import frame", "Layers of the reports"),
        ("harness/train/seeds.py", "from harness.train import loop", "No import cycles"),
    ],
)
def test_an_import_that_points_up_is_noticed(copy, file, line, broken):
    path = copy / file
    head, mark, rest = path.read_text().partition("from __future__ import annotations\n")
    path.write_text(f"{head}{mark}{line}\n{rest}")
    done = lint(copy)
    assert done.returncode == 1
    assert f"{broken} BROKEN" in done.stdout
    module = file.removesuffix(".py").replace("/", ".")
    assert f"{module} -> {line.split()[1]}" in done.stdout or broken == "No import cycles"


def test_a_module_outside_of_all_rooms_is_noticed(copy):
    (copy / "harness" / "attic.py").write_text('"""Nothing."""\n')
    done = lint(copy)
    assert done.returncode == 1
    assert "harness.attic" in done.stdout

"""The contract of imports in pyproject.toml notices upward and circular imports, and new packages."""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT

PACKAGES = ("backbones", "methods", "harness", "reports", "sweeps")
WRONG = {
    ("backbones/tfn.py", "from methods.base import Method"): "Layers of the packages",
    ("methods/mixup.py", "from harness.errors import UserError"): "Layers of the packages",
    ("harness/data/store.py", "from harness.train import seeds"): "Layers of the harness",
    ("reports/stats/intervals.py", "from reports.runs import frame"): "Layers of the reports",
    ("harness/train/seeds.py", "from harness.train import loop"): "No import cycles",
}


def lint(folder):
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_imports_that_point_up_and_modules_outside_of_all_rooms_are_noticed(tmp_path):
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    assert lint(tmp_path).returncode == 0
    for file, line in WRONG:
        head, mark, rest = (tmp_path / file).read_text().partition("from __future__ import annotations\n")
        (tmp_path / file).write_text(f"{head}{mark}{line}\n{rest}")
    (tmp_path / "harness" / "attic.py").write_text('"""Nothing."""\n')
    done = lint(tmp_path)
    assert done.returncode == 1
    assert "harness.attic" in done.stdout
    for (file, line), broken in WRONG.items():
        assert f"{broken} BROKEN" in done.stdout
        module = file.removesuffix(".py").replace("/", ".")
        chain = "- .seeds -> .loop " if broken == "No import cycles" else f"- {module} -> {line.split()[1]}"
        assert chain in done.stdout

"""A method is one file and one line in the registry: lint, tests, README and benchmark follow in a copy."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

TOY = '''"""toy: each example mixed with another one, a method for tests (nobody, nowhere).

How to use: `methods=[toy]`. z~^m = w z_i^m + (1 - w) z_j^m, y~ = w y_i + (1 - w) y_j.
Suggested settings: share = 0.6.
When it hurts: always.
Attribution: nobody.

NOTE[DIFF] there is no paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backbones.settings import check
from methods.base import Draw, Method, MethodSettings, pair_weights


@dataclass(frozen=True)
class ToySettings(MethodSettings):
    """share: most weight of the example itself, in [0, 1]."""

    share: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "share", 0 <= self.share <= 1, "in [0, 1]")


class Toy(Method):
    """Mixing of neighbours."""

    name = "toy"
    title = "Toy"
    citation = "nobody"
    Settings = ToySettings

    def draw(self, generator: np.random.Generator, labels: np.ndarray) -> Draw:
        """Each example with another one, in a random order."""
        first = np.arange(len(labels))
        share = np.full(len(labels), self.settings.share * generator.uniform(0.5, 1))
        pairs = np.stack([first, np.roll(generator.permutation(first), 1)], 1)
        return Draw(1, {"indices": pairs, "weights": pair_weights(share)})
'''
OF_METHODS = ["tests/methods", *(f"tests/harness/train/test_{n}.py" for n in ("waiting", "step", "build"))]
OF_FILES = ["tests/harness/train/test_loss_traces.py", "tests/end_to_end/test_readme.py"]
WRITTEN = "stored_ones and toy or tables"
NARROW = "toy and not mult and not misa and not almt and not glomo"
# One process, as importing takes longer than training.
USE = """
import sys
from harness import benchmark, catalog
sys.exit(catalog.main([]) or benchmark.main(sys.argv[1:]))
"""


def run(folder, *arguments):
    """Run Python in the copy; returns its output."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """Return a copy of the project with the toy method."""
    folder = tmp_path_factory.mktemp("copy")
    # mypy's cache of unchanged files saves a minute.
    if (ROOT / ".mypy_cache").is_dir():
        shutil.copytree(ROOT / ".mypy_cache", folder / ".mypy_cache")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.check_output(listed, cwd=ROOT, text=True).split("\0")[:-1]:
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    (folder / "methods" / "toy.py").write_text(TOY)
    registry = folder / "methods" / "__init__.py"
    last = "from methods.ms_mix_released import MSMixReleased\n"
    registry.write_text(registry.read_text().replace(last, last + "from methods.toy import Toy\n"))
    return folder


def test_it_is_clean(copy):
    run(copy, "-m", "ruff", "check", "methods")
    run(copy, "-m", "ruff", "format", "--check", "methods")
    run(copy, "-m", "mypy", "-p", "methods")
    lint = Path(sys.executable).with_name("lint-imports")
    subprocess.run([lint, "--no-logo", "--no-cache"], cwd=copy, check=True)


def test_it_passes_the_tests_of_every_method_once_generated_files_are_written(copy):
    test = ["-m", "pytest", "-p", "no:cacheprovider", "-k"]
    run(copy, *test, WRITTEN, "--update", *OF_FILES)
    wanted = f"({NARROW}) or ({WRITTEN}) or catalogue or of_a_backbone"
    passed = re.search(r"(\d+) passed", run(copy, *test, wanted, *OF_METHODS, *OF_FILES))
    assert int(passed[1]) >= 40
    row = "| [`toy`](methods/toy.py) | each example mixed with another one, a method for tests | nobody |"
    assert row in (copy / "README.md").read_text()


def test_it_trains_and_stands_in_every_list(copy, var_dir):
    matrix = ["datasets=[synthetic_mosi]", "dataset.synthetic_mosi.clips=60", "backbones=[lmf]", "seeds=[1]"]
    matrix += ["methods=[toy,toy{share:1}]", "method.toy.xi1=0.5", "train.max_epochs=1", "report=false"]
    listed = run(copy, "-c", USE, *matrix, "launcher=inline", f"var_dir={var_dir}", "study=s")
    assert "toy  Toy: each example mixed with another one, a method for tests" in listed
    assert "share:0.6" in listed
    assert "toy{share:1" in listed.partition("Study s")[2]

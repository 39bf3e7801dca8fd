"""A method from outside the package: one file and one line in the registry, and everything works with it."""

import os
import re
import subprocess
import sys
import textwrap

from tests.support.paths import TESTS

TOY = '''
"""toy: each example mixed with the one after it (nobody, nowhere)."""

from dataclasses import dataclass

import numpy as np

from harness.errors import check
from methods.base import Draw, Method, MethodSettings, mix


@dataclass(frozen=True)
class ToySettings(MethodSettings):
    """share: weight of the example itself, in [0, 1]."""

    share: float = 0.6

    def __post_init__(self):
        super().__post_init__()
        check(self, "share", 0 <= self.share <= 1, "in [0, 1]")


class Toy(Method):
    """Mixes neighbours."""

    name = "toy"
    title = "Toy"
    citation = "nobody"
    Settings = ToySettings

    def draw(self, generator, labels):
        first = np.arange(len(labels))
        share = np.full(len(labels), self.settings.share * generator.uniform(0.5, 1), np.float32)
        pairs = np.stack([first, np.roll(generator.permutation(first), 1)], 1)
        return Draw(1, {"indices": pairs, "weights": np.stack([share, 1 - share], 1)})

    def forward(self, latents, labels, draw, network=None):
        return mix(latents, labels, draw["indices"], draw["weights"])
'''

PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
from toy import Toy
from methods import METHODS
METHODS["toy"] = Toy
{action}
"""


def python(folder, action):
    """Run a program in which the toy is registered."""
    (folder / "toy.py").write_text(TOY)
    code = PROGRAM.format(folder=str(folder), action=textwrap.dedent(action))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=TESTS.parent, env=environment, capture_output=True, text=True
    )


def test_it_passes_the_tests_of_every_method(tmp_path):
    names = ("methods", "mixed_examples", "waiting", "step", "build", "diagnostics")
    files = [str(TESTS / f"test_{name}.py") for name in names]
    done = python(
        tmp_path,
        f"""
        import pytest
        options = ["-k", "toy and not (mult or misa or almt or glomo)", "-v", "-p", "no:cacheprovider"]
        sys.exit(pytest.main([*{files!r}, *options]))
        """,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= 100


def test_it_trains_and_stands_in_every_list(tmp_path, var_dir):
    arguments = [
        *("datasets=[synthetic_mosi]", "dataset.synthetic_mosi.clips=60", "backbones=[lmf]"),
        *("methods=[none,toy,toy{share:1}]", "method.toy.xi1=0.5", "seeds=[1]", "train.max_epochs=2"),
        *("launcher=inline", f"var_dir={var_dir}", "study=s"),
    ]
    done = python(
        tmp_path,
        f"""
        from harness import catalog
        from harness.benchmark import main
        catalog.main([])
        sys.exit(main({arguments!r}))
        """,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "toy  Toy: each example mixed with the one after it" in done.stdout
    assert "share:0.6" in done.stdout
    table = (var_dir / "reports" / "s" / "tables").glob("*.md")
    text = "\n".join(file.read_text() for file in table)
    assert "toy{share:1" in text

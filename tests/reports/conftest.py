"""A study with holes, of which the tests of reports read."""

import pytest

import harness.train.loop
from harness.train.loop import Diverged
from tests.support.drivers.driving import copy_study, run
from tests.support.stored import FEW


@pytest.fixture(scope="session")
def stored(new_var):
    """A study with a diverged cell, a failed one and one that was never begun; do not write into it."""
    var = new_var()
    plain = harness.train.loop.train

    def train(cell, *rest):
        if cell.seed == 1112 and cell.method == "mixup":
            raise Diverged("a training loss is not finite at epoch 2, step 1")
        if cell.seed == 1112 and cell.method == "ms_mix":
            raise RuntimeError("no room <here>")
        return plain(cell, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.launchers.job.train", train)
        assert run(var, *FEW) == 1
    return var


@pytest.fixture
def var(stored, tmp_path):
    """A copy of it to write into."""
    return copy_study(stored, tmp_path / "var")

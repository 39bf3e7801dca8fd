"""Two checkouts measured in turns: how many times as fast this one trains as another revision.

The other revision is checked out into a temporary worktree with this checkout's ``perf`` in place of its own,
so that both run the same measurement.
"""

from __future__ import annotations

import contextlib
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.errors import UserError
from tests.perf.child import ROOT, Child, ChildError, children
from tests.perf.rows import Part, Row
from tests.perf.steps import BUDGET_S, LEAST, MOST, epoch_s

METHODS, ROUNDS = ("none", "ms_mix"), 5


def measure(data: str, revision: str, backbones: Sequence[str], rounds: int = ROUNDS) -> Part:
    """Ratios for every backbone without mixing and with MS-Mix, one thread; raises UserError."""
    rows: list[Row] = []
    with checkout(revision) as root:
        for backbone in backbones:
            rows += _compared(root, data, backbone, rounds)
    how = (
        f"Epochs of {revision} over epochs of this checkout: above 1 this one is faster, or smaller. One "
        f"thread, medians of {rounds} rounds in which both take turns."
    )
    return Part("compare", f"Against {revision}", how, tuple(rows))


def _compared(root: Path, data: str, backbone: str, rounds: int) -> Iterator[Row]:
    arguments = {"data": data, "backbone": backbone, "threads": 1}
    sides = [Child("tests.perf.subjects:ours", arguments, root=place) for place in (root, ROOT)]
    try:
        with children(*sides):
            for method in METHODS:
                first = max(side.ask(method=method, steps=1)["step_s"] for side in sides)
                asked = {"method": method, "steps": max(LEAST, min(MOST, int(BUDGET_S / first)))}
                found = [[side.ask(evaluate=True, **asked) for side in sides] for _ in range(rounds)]
                times = [epoch_s(theirs) / epoch_s(mine) for theirs, mine in found]
                yield Row(f"{backbone}, {method}, epoch", statistics.median(times), "times")
                memory = [theirs["peak_mb"] / mine["peak_mb"] for theirs, mine in found]
                yield Row(f"{backbone}, {method}, peak memory", statistics.median(memory), "times")
    except ChildError as error:
        raise UserError(f"The other revision cannot be measured: {str(error).splitlines()[-1]}") from error


@contextlib.contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """A worktree of another revision, removed afterwards; raises UserError."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "base"
        done = _git("worktree", "add", "--detach", str(root), revision)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["git failed"])[-1]
            raise UserError(f"BASE={revision} cannot be checked out: {said}")
        try:
            shutil.rmtree(root / "perf", ignore_errors=True)
            shutil.copytree(ROOT / "perf", root / "perf")
            yield root
        finally:
            _git("worktree", "remove", "--force", str(root))


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)

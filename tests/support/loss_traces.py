"""Twenty steps of training for every backbone with every method, kept in ``golden/loss_traces.json``.

A change of arithmetic shows there, and so cannot go by without a new results version.
``python -m tests.support.loss_traces`` adds the traces of new methods and backbones, and writes those that
changed anew once `RESULTS_VERSION` was raised; before that it leaves them as they are and ends with status 1.
"""

import dataclasses
import json
import math
import sys
from itertools import product
from pathlib import Path
from unittest import mock

import torch

import harness.train.loop
from backbones import BACKBONES
from harness.matrix import RESULTS_VERSION, Cell
from harness.train.arithmetic import set_arithmetic
from methods import METHODS
from tests.support.builders import make_dataset, make_sizes, small_backbone
from tests.support.paths import GOLDEN

FILE = GOLDEN / "loss_traces.json"
COMMAND = "python -m tests.support.loss_traces"
RAISE = f"raise RESULTS_VERSION in harness/matrix.py and then refresh with `{COMMAND}`"
RTOL = 1e-4
STEPS, EPOCHS, BATCH, DIGITS = 20, 2, 6, 7
# With these, vector instructions change a loss by 3e-6 at most: a larger learning rate lets the sign of a
# gradient that is nearly zero count, on which two processors need not agree.
RULES = {"batch_size": BATCH, "learning_rate": 1e-4, "max_epochs": EPOCHS, "early_stop": EPOCHS}
SIZES = make_sizes()
CPU = torch.device("cpu")


def pairs() -> list[tuple[str, str]]:
    """Every (backbone, method) of the registries."""
    return list(product(BACKBONES, METHODS))


def cell_of(backbone: str, method: str) -> Cell:
    """The small cell whose losses are traced."""
    return Cell(
        dataset="toy",
        metrics="mosi",
        label_scale=SIZES.label_scale,
        fingerprint="",
        backbone=backbone,
        backbone_settings=small_backbone(backbone, SIZES, **RULES).settings,
        method=method,
        method_settings=METHODS[method].Settings(),
        seed=1,
    )


def trace(backbone: str, method: str, **changes) -> list[float]:
    """The loss that each step back-propagates, as `harness.train.loop` takes it; changes: of the cell."""
    cell, found, steps = (
        dataclasses.replace(cell_of(backbone, method), **changes),
        [],
        harness.train.loop.run_steps,
    )

    def recorded(*given):
        losses = steps(*given)
        found.extend(float(step[0]) for step in losses)
        return losses

    threads = torch.get_num_threads()
    torch.set_num_threads(cell.threads)
    set_arithmetic(cell.precision, cell.deterministic, CPU)
    try:
        with mock.patch.object(harness.train.loop, "run_steps", recorded):
            harness.train.loop.train(cell, make_dataset(SIZES, (STEPS // EPOCHS * BATCH, 4, 4)), CPU)
    finally:
        torch.set_num_threads(threads)
    return [float(f"{value:.{DIGITS - 1}e}") for value in found]


def difference(one: list[float], other: list[float]) -> float:
    """The largest relative difference of two traces; infinite where their lengths differ."""
    if len(one) != len(other):
        return math.inf
    return max(abs(a - b) / max(abs(a), abs(b), sys.float_info.min) for a, b in zip(one, other, strict=True))


def check(stored: dict, backbone: str, method: str, found: list[float]) -> None:
    """Fail with what is to be done where a trace is missing or another one than ``found``."""
    name, kept = f"{backbone} with {method}", stored["traces"].get(backbone, {}).get(method)
    assert kept is not None, f"{name} has no stored loss trace; add it with `{COMMAND}`."
    version = stored["results_version"]
    assert version == RESULTS_VERSION, (
        f"The stored loss traces are of results version {version}, and the code's is {RESULTS_VERSION}; "
        f"refresh them with `{COMMAND}`."
    )
    changed = difference(found, kept)
    assert changed <= RTOL, (
        f"{name} computes other losses than those of results version {version}, by up to {changed:.1e}. "
        f"Where that is wanted, {RAISE}."
    )


def read(file: Path = FILE) -> dict:
    """What is stored: ``results_version`` and ``traces``, by backbone and method."""
    return json.loads(file.read_text())


def refresh(file: Path = FILE) -> list[str]:
    """Bring the file up to date; returns the names of changed traces that it kept as they were."""
    stored = read(file) if file.exists() else {"results_version": RESULTS_VERSION, "traces": {}}
    known = stored["traces"] if stored["results_version"] == RESULTS_VERSION else {}
    traces, refused = {}, []
    for backbone, method in pairs():
        found = trace(backbone, method)
        kept = known.get(backbone, {}).get(method, found)
        if difference(kept, found) > RTOL:
            refused.append(f"{backbone} with {method}")
        # The same numbers on another processor would change the last digits.
        traces.setdefault(backbone, {})[method] = kept
    write(file, traces)
    return refused


def write(file: Path, traces: dict) -> None:
    """A line for each trace, so that one sees which of them changed."""
    groups = []
    for backbone, found in traces.items():
        lines = ",\n".join(
            f"  {json.dumps(method)}: {json.dumps(losses)}" for method, losses in found.items()
        )
        groups.append(f" {json.dumps(backbone)}: {{\n{lines}\n }}")
    body = ",\n".join(groups)
    file.write_text(f'{{"results_version": {RESULTS_VERSION}, "traces": {{\n{body}\n}}}}\n')


def main() -> int:
    """Refresh the file; returns the exit status."""
    refused = refresh()
    if refused:
        print(f"Not overwritten, as their losses changed: {', '.join(refused)}; {RAISE}.", file=sys.stderr)
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())

"""Twenty steps of training for every backbone with every method, kept in ``golden/loss_traces/METHOD.json``.

A change of arithmetic shows there, so it needs a new results version: ``--update`` adds missing traces, and
replaces existing ones only after `RESULTS_VERSION` was raised.
"""

import dataclasses
import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from unittest import mock

import torch

import harness.train.loop
from backbones import BACKBONES
from harness.matrix import RESULTS_VERSION
from harness.train.arithmetic import set_arithmetic
from tests.support.builders import make_dataset, make_sizes, small_cell
from tests.support.paths import GOLDEN

FOLDER = GOLDEN / "loss_traces"
COMMAND = "make test ARGS=--update"
RAISE = f"raise RESULTS_VERSION in harness/matrix.py and then run `{COMMAND}`"
RTOL = 1e-4
STEPS, EPOCHS, BATCH, DIGITS = 20, 2, 6, 7
# With these, vector instructions change a loss by 3e-6 at most: a larger learning rate lets the sign of a
# gradient that is nearly zero count, on which two processors need not agree.
RULES = {"batch_size": BATCH, "learning_rate": 1e-4, "max_epochs": EPOCHS, "early_stop": EPOCHS}
# With the usual seed, two signed intensities nearly cancel in the denominator of a weight, which enlarges
# rounding errors to 2e-4 of a loss.
SEEDS = {("mult", "ms_mix_released"): 3}
SIZES = make_sizes()
CPU = torch.device("cpu")


def trace(backbone: str, method: str, **changes) -> list[float]:
    """The loss that each step backpropagates, as `harness.train.loop` takes it; changes: of the cell."""
    cell = small_cell(backbone, method, rules=RULES)
    cell = dataclasses.replace(cell, seed=SEEDS.get((backbone, method), cell.seed))
    cell = dataclasses.replace(cell, **changes)
    values, run_steps = [], harness.train.loop.run_steps

    def recorded(*arguments):
        losses = run_steps(*arguments)
        values.extend(float(step[0]) for step in losses)
        return losses

    threads = torch.get_num_threads()
    torch.set_num_threads(cell.threads)
    set_arithmetic(cell.precision, cell.deterministic, CPU)
    try:
        with mock.patch.object(harness.train.loop, "run_steps", recorded):
            harness.train.loop.train(cell, make_dataset(SIZES, (STEPS // EPOCHS * BATCH, 4, 4)), CPU)
    finally:
        torch.set_num_threads(threads)
    return [float(f"{value:.{DIGITS - 1}e}") for value in values]


def traces(method: str, backbones: Iterable[str] = BACKBONES) -> dict[str, list[float]]:
    """The method's trace with these backbones."""
    return {backbone: trace(backbone, method) for backbone in backbones}


def difference(one: list[float], other: list[float]) -> float:
    """The largest relative difference of two traces; infinite where their lengths differ."""
    if len(one) != len(other):
        return math.inf
    return max(abs(a - b) / max(abs(a), abs(b), sys.float_info.min) for a, b in zip(one, other, strict=True))


def check(stored: dict, method: str, losses: dict[str, list[float]]) -> None:
    """Fail with advice if a backbone's trace is missing or differs from the stored one."""
    version = stored["results_version"]
    assert version == RESULTS_VERSION, (
        f"The stored loss traces are of results version {version}, and the code's is {RESULTS_VERSION}; "
        f"write them anew with `{COMMAND}`."
    )
    for backbone, values in losses.items():
        name = f"{backbone} with {method}"
        assert backbone in stored["traces"], f"{name} has no stored loss trace; add it with `{COMMAND}`."
        change = difference(values, stored["traces"][backbone])
        assert change <= RTOL, (
            f"{name} computes other losses than those of results version {version}, by up to {change:.1e}. "
            f"Where that is wanted, {RAISE}."
        )


def read(method: str, folder: Path = FOLDER) -> dict:
    """The stored ``results_version`` and ``traces`` by backbone; no trace where there is no file."""
    file = folder / f"{method}.json"
    if not file.exists():
        return {"results_version": RESULTS_VERSION, "traces": {}}
    return json.loads(file.read_text())


def update(method: str, losses: dict[str, list[float]], folder: Path = FOLDER) -> None:
    """Store the losses, but for those that this results version already has; a line for each backbone."""
    stored = read(method, folder)
    # Equal numbers too are kept: another processor would change their last digits.
    known = stored["traces"] if stored["results_version"] == RESULTS_VERSION else {}
    lines = [f" {json.dumps(name)}: {json.dumps(known.get(name, losses[name]))}" for name in losses]
    body = ",\n".join(lines)
    folder.mkdir(exist_ok=True)
    (folder / f"{method}.json").write_text(
        f'{{"results_version": {RESULTS_VERSION}, "traces": {{\n{body}\n}}}}\n'
    )

"""``python -m tests.perf.gpu``: is training on CUDA right, repeatable and fast? All backbones, all methods.

Needs PyTorch and NumPy only. The data are synthetic, at the sizes of MOSI, the settings the published ones.
Of each pair it finds

- agreement: the largest difference between the losses on the CPU and on the GPU in the first step and in all,
  by the total loss; to be within FIRST_TOLERANCE and TOLERANCE. Dropout is off, random numbers are drawn on
  the CPU, and Adam's epsilon is EPSILON: at 1e-8 it makes whole steps of the rounding errors of gradients
  that are 0, after which two runs on one CPU differ by 1e-2.
- deterministic: whether two runs with ``deterministic=true`` give the same losses and weights, bit for bit.
- steps_per_s: training steps per second in each kind of arithmetic; evaluated_clips_per_s: in "fp32".
- peak_memory_mb: most memory that PyTorch allocated while it trained in "fp32", MiB.
- packed: steps per second of 1, 2 and 4 processes together on the GPU, and ``busy``, the share of time in
  which it runs a kernel or copies: the time of one step's kernels, which PyTorch's profiler finds for one
  process alone, times all steps per second. Kernels of two processes do not run at the same time.

Writes all of it as JSON (``--out``, by default ``tests/perf/gpu_check.json`` on CUDA), and the hours that the
paper profile's matrix takes there (`hours`). Exit status: 0; 1 where a pair disagrees, is not repeatable or
fails; 2 the request is wrong; 3 there is no CUDA device, and nothing was checked.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from backbones import BACKBONES
from harness.data.dataset import Dataset
from harness.data.store import load_dataset, save_dataset
from harness.data.synthetic.clips import SyntheticSettings
from harness.data.synthetic.generate import generate
from harness.errors import UserError, unknown
from harness.matrix import Cell
from harness.train.loop import Splits
from methods import METHODS
from tests.perf.gpu_packed import Crew
from tests.perf.gpu_steps import (
    MODES,
    WARM_UP,
    HostDraws,
    Steps,
    all_threads,
    kernel_seconds,
    make_cell,
    peak_memory_mb,
    place,
    rate,
    relative_difference,
    same_bits,
    without_dropout,
)
from tests.perf.hours import estimated_hours

FIRST_TOLERANCE, TOLERANCE = 1e-4, 1e-3
"""Of the first step's losses, before any training, and of all steps'. On the CPU, weights moved by 1e-7 move
losses by about 1e-6 in 20 steps; by up to 3e-4 where AdvMixUp chooses features by the sign of a gradient."""
NO_DEVICE = "No CUDA device here; nothing was checked."
FILE = Path(__file__).with_name("gpu_check.json")


@dataclass(frozen=True)
class Place:
    """Where and how pairs are checked: the dataset, its splits on the CPU and on the device, processes."""

    dataset: Dataset
    cpu: Splits
    device: Splits
    crew: Crew
    options: argparse.Namespace


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, print and write; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        pairs = _pairs(options)
    except UserError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 2
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.stderr.write(f"{NO_DEVICE}\n")
        return 3
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    out = Path(options.out or (FILE if options.device == "cuda" else "var/perf/gpu_check_cpu.json"))
    with tempfile.TemporaryDirectory() as folder:
        found = check_all(pairs, options, Path(folder) / "data")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write("\n".join([*table(found), "", f"Written to {out}."]) + "\n")
    return 0 if all(holds(pair) for pair in found["pairs"]) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.perf.gpu", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter

    def add(name: str, default: Any, text: str, kind: Callable[[str], Any] = str) -> None:
        parser.add_argument(name, default=default, help=f"{text} (default: {default})", type=kind)

    add("--backbones", ",".join(BACKBONES), "names")
    add("--methods", ",".join(METHODS), "names")
    add("--modes", "fp32,fp32_any_order,tf32,bf16", "kinds of arithmetic to be timed; also: compile")
    add("--steps", 20, "to be compared", int)
    add("--seconds", 2.0, "that each speed is measured for", float)
    add("--packed", "2,4", "numbers of processes on one GPU; empty for none")
    add("--size", "full", "of the data: full | quick")
    add("--device", "cuda", "cuda | cpu; the CPU stands in for a GPU where the check itself is tested")
    parser.add_argument("--out", help="the JSON file (default: perf/gpu_check.json on CUDA)")
    return parser


def _pairs(options: argparse.Namespace) -> list[tuple[str, str]]:
    """Pairs of backbone and method; splits lists in the options. Raises UserError."""
    allowed: dict[str, Iterable[str]] = {"backbones": BACKBONES, "methods": METHODS, "modes": MODES}
    for name, names in allowed.items():
        setattr(options, name, tuple(part.strip() for part in getattr(options, name).split(",")))
        for given in getattr(options, name):
            if given not in names:
                raise unknown(name.removesuffix("s"), given, names)
    options.modes = tuple(dict.fromkeys(["fp32", *options.modes]))
    for name, names in {"size": ("full", "quick"), "device": ("cuda", "cpu")}.items():
        if getattr(options, name) not in names:
            raise unknown(name, getattr(options, name), names)
    if options.steps < 1 or options.seconds <= 0:
        raise UserError("--steps must be at least 1, and --seconds above 0.")
    try:
        options.packed = tuple(sorted({1, *(int(n) for n in options.packed.split(",") if n)}))
    except ValueError:
        raise UserError(f"--packed={options.packed!r} is no list of numbers like 2,4.") from None
    if options.packed[0] < 1:
        raise UserError("--packed takes numbers from 1 on.")
    return [(backbone, method) for backbone in options.backbones for method in options.methods]


def check_all(pairs: Sequence[tuple[str, str]], options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Check pairs of backbone and method; folder: where the data are put."""
    save_dataset(generate(SyntheticSettings("synthetic_mosi", size=options.size))[0], folder)
    dataset, device = load_dataset(folder), torch.device(options.device)
    splits = place(dataset, torch.device("cpu")), place(dataset, device)
    found = []
    torch.set_num_threads(1)  # as in workers
    with Crew(str(folder), options.device, options.packed) as crew:
        where = Place(dataset, *splits, crew, options)
        for number, (backbone, method) in enumerate(pairs, 1):
            found.append(check_pair(backbone, method, where))
            sys.stderr.write(f"{number}/{len(pairs)} {backbone} {method}: {_said(found[-1])}\n")
    result = {
        "gpu": torch.cuda.get_device_name() if options.device == "cuda" else None,
        "device": options.device,
        "torch": torch.__version__,
        "steps": options.steps,
        "tolerances": {"first": FIRST_TOLERANCE, "difference": TOLERANCE},
        "data": f"synthetic_mosi, size {options.size}",
        "busy": "kernel time per step (PyTorch's profiler, one process alone) times steps per second of all",
        "pairs": found,
    }
    return {**result, "paper": estimated_hours(result)}


def check_pair(backbone: str, method: str, where: Place) -> dict[str, Any]:
    """All that is measured of one pair; what fails is said under "error"."""
    cell = make_cell(backbone, method)
    found: dict[str, Any] = {"backbone": backbone, "method": method, "error": None}
    try:
        found["agreement"] = agreement(without_dropout(cell), where)
        found["deterministic"] = same_bits(cell, where.dataset, where.device, where.options.steps)
        found |= speeds(cell, where)
        found["packed"] = packed(cell, where, found["kernel_ms"] / 1e3)
    # A GPU's memory may be too small for one of them.
    except (RuntimeError, UserError) as error:
        found["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
    return found


def agreement(
    cell: Cell, where: Place, change: Callable[[Steps], object] = lambda steps: None
) -> dict[str, Any]:
    """How far the device's losses are from the CPU's; change: made to the device's training before it."""
    count = where.options.steps
    with HostDraws(), all_threads():
        wanted = Steps(cell, where.dataset, where.cpu).steady().run(count)
        steps = Steps(cell, where.dataset, where.device).steady()
        change(steps)
        found = steps.run(count)
    first, difference = relative_difference(wanted[:1], found[:1]), relative_difference(wanted, found)
    within = first <= FIRST_TOLERANCE and difference <= TOLERANCE
    return {"first": first, "difference": difference, "holds": within}


def speeds(cell: Cell, where: Place) -> dict[str, Any]:
    """Steps per second in each mode, clips evaluated per second, and peak memory; these in the first mode."""
    device = where.device.resident["train"].device
    found: dict[str, Any] = {"steps_per_s": {}}
    for mode in where.options.modes:
        steps = Steps(replace(cell, **MODES[mode]), where.dataset, where.device)

        def some(steps: Steps = steps) -> int:
            return len(steps.run(WARM_UP))

        memory = peak_memory_mb(some, device)
        found["steps_per_s"][mode] = rate(some, device, where.options.seconds)
        if mode == "fp32":
            steps.evaluate()
            found["evaluated_clips_per_s"] = rate(steps.evaluate, device, where.options.seconds)
            found["peak_memory_mb"] = memory
            found["kernel_ms"] = 1e3 * kernel_seconds(steps, WARM_UP)
    return found


def packed(cell: Cell, where: Place, kernels_s: float) -> dict[str, dict[str, float]]:
    """Steps per second of several processes together, and how busy they keep the device, by their number.

    kernels_s: time of one step's kernels.
    """
    found = {}
    for size in where.options.packed:
        together = where.crew.steps_per_s(cell, size, where.options.seconds)
        found[str(size)] = {"steps_per_s": together, "busy": kernels_s * together}
    return found


def holds(pair: Mapping[str, Any]) -> bool:
    """Whether a pair agrees with the CPU and is repeatable."""
    return not pair["error"] and pair["agreement"]["holds"] and pair["deterministic"]


def _said(pair: Mapping[str, Any]) -> str:
    if pair["error"]:
        return str(pair["error"])
    verdict = "agrees" if pair["agreement"]["holds"] else "DISAGREES"
    repeatable = "repeatable" if pair["deterministic"] else "NOT REPEATABLE"
    return f"{verdict} ({pair['agreement']['difference']:.1e}), {repeatable}"


def table(found: Mapping[str, Any]) -> Iterator[str]:
    """Lines of Markdown."""
    yield f"{found['gpu'] or 'The CPU in place of a GPU'}, torch {found['torch']}; {found['data']}."
    yield ""
    yield "| backbone | method | CPU and GPU | steps/s | together | busy | peak MiB |"
    yield "|---|---|---|---|---|---|---|"
    for pair in found["pairs"]:
        head = f"| {pair['backbone']} | {pair['method']} | {_said(pair)} |"
        if pair["error"]:
            yield f"{head} | | | |"
            continue
        rates = ", ".join(f"{mode} {value:.1f}" for mode, value in pair["steps_per_s"].items())
        together = ", ".join(f"{n}: {p['steps_per_s']:.1f}" for n, p in pair["packed"].items())
        busy = ", ".join(f"{n}: {p['busy']:.0%}" for n, p in pair["packed"].items())
        memory = "" if pair["peak_memory_mb"] is None else f"{pair['peak_memory_mb']:.0f}"
        yield f"{head} {rates} | {together} | {busy} | {memory} |"
    paper = found["paper"]
    yield ""
    hours = ", ".join(f"{n} at once {value:.1f} h" for n, value in paper["hours"].items())
    yield f"{paper['trainings']} trainings of the paper profile: {hours}."
    yield from paper["assumptions"]


if __name__ == "__main__":
    sys.exit(main())

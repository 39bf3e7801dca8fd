"""``python -m tests.perf.gpu``: is training on CUDA right, repeatable and fast? All backbones, all methods.

Needs PyTorch and NumPy only. The data are synthetic, at the sizes of MOSI, the settings the published ones.
Of each pair it finds

- agreement: the largest difference between the losses on the CPU and on the GPU in the first step and in all,
  by the total loss. Dropout is off, random numbers are drawn on the CPU, and Adam's epsilon is EPSILON: at
  1e-8 it makes whole steps of the rounding errors of gradients that are 0, after which two runs on one CPU
  differ by 1e-2.
- deterministic: whether two runs with ``deterministic=true`` give the same losses and weights, bit for bit.
- steps_per_s: training steps per second in each kind of arithmetic; evaluated_clips_per_s: in "fp32".
- peak_memory_mb: most memory that PyTorch allocated while it trained in "fp32", MiB.
- packed: steps per second of 1, 2 and 4 processes together on the GPU, and ``busy``, the share of time in
  which it runs a kernel or copies: the time of one step's kernels, from PyTorch's profiler of one process
  alone, times all steps per second. Kernels of two processes do not run at the same time.

Writes all of it as JSON (``--out``, by default ``tests/perf/gpu_check.json`` on CUDA), and the hours that the
paper profile's matrix takes there (`hours`). Exit status: 0; 1 where a pair disagrees, is not repeatable or
fails; 2 the request is wrong; 3 there is no CUDA device, and nothing was checked.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any

import torch

from backbones import BACKBONES
from harness.data.dataset import Dataset
from harness.data.store import load_dataset, save_dataset
from harness.data.synthetic import generate
from harness.data.synthetic.clips import SyntheticSettings
from harness.errors import UserError, unknown
from harness.launchers.processes import usable_cores
from harness.matrix import Cell
from harness.train.loop import Splits
from harness.train.splits import peak_memory_mb, reset_peak_memory
from methods import METHODS
from tests.perf.hours import estimated_hours
from tests.perf.steps import (
    HostDraws,
    Steps,
    kernel_seconds,
    make_cell,
    rate,
    relative_difference,
    same_bits,
    splits_on,
    without_dropout,
)

FIRST_TOLERANCE, TOLERANCE = 1e-4, 1e-3
"""Of the first step's losses, before any training, and of all steps'. On the CPU, weights moved by 1e-7 move
losses by about 1e-6 in 20 steps; by up to 3e-4 where AdvMixUp chooses features by the sign of a gradient."""
MODES: Mapping[str, Mapping[str, Any]] = {
    "fp32": {},
    "fp32_any_order": {"deterministic": False},
    "tf32": {"precision": "tf32"},
    "bf16": {"precision": "bf16"},
    "compile": {"compile": True},
}
"""Kinds of arithmetic, and how a cell says so; the first is the benchmark's default."""
NO_DEVICE = "No CUDA device here; nothing was checked."
FILE = Path(__file__).with_name("gpu_check.json")
CPU, WARM_UP = torch.device("cpu"), 3
CONTEXT = multiprocessing.get_context("spawn")
LIMIT_S = 300.0  # for a process to start and to compile its first step


@dataclass(frozen=True)
class Bench:
    """Where and how pairs are checked: the dataset, its splits on the CPU and on the device, processes."""

    dataset: Dataset
    cpu: Splits
    device: Splits
    crew: Crew
    options: argparse.Namespace


def main(arguments: list[str] | None = None) -> int:
    """Check, print and write; returns the exit status."""
    options = _parser().parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.stderr.write(f"{NO_DEVICE}\n")
        return 3
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    out = Path(options.out or (FILE if options.device == "cuda" else "var/perf/gpu_check_cpu.json"))
    with tempfile.TemporaryDirectory() as folder:
        report = check_all(options, Path(folder) / "data")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write("\n".join([*table(report), "", f"Written to {out}."]) + "\n")
    return 0 if all(holds(pair) for pair in report["pairs"]) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.perf.gpu", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter

    def add(name: str, default: str, text: str, **kwargs: Any) -> None:
        parser.add_argument(name, default=default, help=f"{text} (default: {default})", **kwargs)

    add("--backbones", ",".join(BACKBONES), "names", type=names_of("backbone", BACKBONES))
    add("--methods", ",".join(METHODS), "names", type=names_of("method", METHODS))
    modes = "kinds of arithmetic to be timed; also: compile"
    add("--modes", "fp32,fp32_any_order,tf32,bf16", modes, type=names_of("mode", MODES))
    add("--steps", "20", "to be compared", type=positive)
    add("--seconds", "2.0", "that each speed is measured for", type=float)
    add("--packed", "2,4", "numbers of processes on one GPU; empty for none", type=_counts)
    add("--size", "full", "of the data", choices=("full", "quick"))
    device = "the CPU stands in for a GPU where the check itself is tested"
    add("--device", "cuda", device, choices=("cuda", "cpu"))
    parser.add_argument("--out", help="the JSON file (default: tests/perf/gpu_check.json on CUDA)")
    return parser


def names_of(kind: str, allowed: Collection[str]) -> Callable[[str], tuple[str, ...]]:
    """The type of an argument that is a list of names."""

    def parse(text: str) -> tuple[str, ...]:
        names = tuple(name.strip() for name in text.split(","))
        for name in names:
            if name not in allowed:
                raise argparse.ArgumentTypeError(str(unknown(kind, name, allowed)))
        return names

    return parse


def positive(text: str) -> int:
    """The type of an argument that is a number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def _counts(text: str) -> tuple[int, ...]:
    return tuple(sorted({1, *(positive(name) for name in text.split(",") if name)}))


def check_all(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Check all pairs of backbone and method; folder: where the data are put."""
    save_dataset(generate(SyntheticSettings("synthetic_mosi", size=options.size))[0], folder)
    dataset, device = load_dataset(folder), torch.device(options.device)
    pairs = list(product(options.backbones, options.methods))
    checks = []
    torch.set_num_threads(1)  # as in workers
    with Crew(folder, device, options.packed) as crew:
        bench = Bench(dataset, splits_on(CPU, dataset), splits_on(device, dataset), crew, options)
        for number, (backbone, method) in enumerate(pairs, 1):
            checks.append(check_pair(backbone, method, bench))
            sys.stderr.write(f"{number}/{len(pairs)} {backbone} {method}: {_verdict(checks[-1])}\n")
    report = {
        "gpu": torch.cuda.get_device_name() if options.device == "cuda" else None,
        "device": options.device,
        "torch": torch.__version__,
        "steps": options.steps,
        "tolerances": {"first": FIRST_TOLERANCE, "difference": TOLERANCE},
        "data": f"synthetic_mosi, size {options.size}",
        "busy": "kernel time per step (PyTorch's profiler, one process alone) times steps per second of all",
        "pairs": checks,
    }
    return {**report, "paper": estimated_hours(report)}


def check_pair(backbone: str, method: str, bench: Bench) -> dict[str, Any]:
    """All that is measured of one pair; the reason of a failure is its "error"."""
    cell = make_cell(backbone, method)
    check: dict[str, Any] = {"backbone": backbone, "method": method, "error": None}
    try:
        check["agreement"] = agreement(without_dropout(cell), bench)
        check["deterministic"] = same_bits(cell, bench.dataset, bench.device, bench.options.steps)
        check |= speeds(cell, bench)
        packed = {n: bench.crew.steps_per_s(cell, n, bench.options.seconds) for n in bench.options.packed}
        kernels_s = check["kernel_ms"] / 1e3
        check["packed"] = {str(n): {"steps_per_s": r, "busy": kernels_s * r} for n, r in packed.items()}
    # A GPU's memory may be too small for one of them.
    except (RuntimeError, UserError) as error:
        check["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
    return check


def agreement(
    cell: Cell, bench: Bench, change: Callable[[Steps], object] = lambda steps: None
) -> dict[str, Any]:
    """How far the device's losses are from the CPU's; change: made to the device's training before it."""
    count, threads = bench.options.steps, torch.get_num_threads()
    torch.set_num_threads(usable_cores())
    try:
        with HostDraws():
            expected = Steps(cell, bench.dataset, bench.cpu).steady().run(count)
            steps = Steps(cell, bench.dataset, bench.device).steady()
            change(steps)
            actual = steps.run(count)
    finally:
        torch.set_num_threads(threads)
    first, difference = (relative_difference(expected[:n], actual[:n]) for n in (1, count))
    within = first <= FIRST_TOLERANCE and difference <= TOLERANCE
    return {"first": first, "difference": difference, "holds": within}


def speeds(cell: Cell, bench: Bench) -> dict[str, Any]:
    """Steps per second in each mode; in "fp32" clips evaluated per second, peak memory and kernels' time."""
    device, seconds = bench.device.resident["train"].device, bench.options.seconds
    steps = Steps(cell, bench.dataset, bench.device)
    reset_peak_memory(device)
    steps.run(WARM_UP)
    measured: dict[str, Any] = {"steps_per_s": {}, "peak_memory_mb": peak_memory_mb(device)}
    steps.evaluate()
    measured["evaluated_clips_per_s"] = rate(steps.evaluate, device, seconds)
    measured["kernel_ms"] = 1e3 * kernel_seconds(steps, WARM_UP)
    for mode in dict.fromkeys(["fp32", *bench.options.modes]):
        steps = Steps(replace(cell, **MODES[mode]), bench.dataset, bench.device)
        steps.run(WARM_UP)
        measured["steps_per_s"][mode] = steps_per_s(steps, seconds)
    return measured


def steps_per_s(steps: Steps, seconds: float) -> float:
    """How many steps a second are trained, measured for a while."""
    return rate(lambda: len(steps.run(WARM_UP)), steps.device, seconds)


class Crew:
    """Processes that train cells together on one device.

    Args:
        folder: of the stored dataset. device: of all of them. sizes: how many are to be used together.
    """

    def __init__(self, folder: Path, device: torch.device, sizes: Collection[int]):
        self._barriers = {size: CONTEXT.Barrier(size) for size in sizes}
        material = (folder, device, self._barriers)
        self._pool = ProcessPoolExecutor(max(sizes, default=1), CONTEXT, _load, material)

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def steps_per_s(self, cell: Cell, size: int, seconds: float) -> float:
        """Steps per second of ``size`` processes together; raises RuntimeError where one of them fails."""
        futures = [self._pool.submit(_train_together, cell, size, seconds) for _ in range(size)]
        wait(futures)
        errors = [error for error in (future.exception() for future in futures) if error is not None]
        if errors:
            # All have answered, so nobody waits at it.
            self._barriers[size].reset()
            said = f"{type(errors[0]).__name__}: {errors[0]}"
            raise RuntimeError(f"of {size} processes, {len(errors)} failed: {said}")
        return sum(future.result() for future in futures)


MATERIAL: dict[str, Any] = {}


def _load(folder: Path, device: torch.device, barriers: Mapping[int, Any]) -> None:
    """Get ready to train (the process's side, as the following)."""
    torch.set_num_threads(1)
    dataset = load_dataset(folder)
    MATERIAL.update(dataset=dataset, splits=splits_on(device, dataset), barriers=barriers)


def _train_together(cell: Cell, size: int, seconds: float) -> float:
    """Begin with the others and end after them, so that all train as long as it is measured."""
    barrier = MATERIAL["barriers"][size]
    try:
        steps = Steps(cell, MATERIAL["dataset"], MATERIAL["splits"])
        steps.run(WARM_UP)
        barrier.wait(LIMIT_S)
        measured = steps_per_s(steps, seconds)
        ended = time.perf_counter()
        while time.perf_counter() - ended < seconds / 4:
            steps.run(WARM_UP)
        barrier.wait(LIMIT_S)
    except BrokenBarrierError:
        raise RuntimeError("another process failed") from None
    # The others must not wait for this one.
    except Exception:
        barrier.abort()
        raise
    return measured


def holds(pair: Mapping[str, Any]) -> bool:
    """Whether a pair agrees with the CPU and is repeatable."""
    return not pair["error"] and pair["agreement"]["holds"] and pair["deterministic"]


def _verdict(pair: Mapping[str, Any]) -> str:
    if pair["error"]:
        return str(pair["error"])
    verdict = "agrees" if pair["agreement"]["holds"] else "DISAGREES"
    repeatable = "repeatable" if pair["deterministic"] else "NOT REPEATABLE"
    return f"{verdict} ({pair['agreement']['difference']:.1e}), {repeatable}"


def table(report: Mapping[str, Any]) -> Iterator[str]:
    """Lines of Markdown."""
    yield f"{report['gpu'] or 'The CPU in place of a GPU'}, torch {report['torch']}; {report['data']}."
    yield ""
    yield "| backbone | method | CPU and GPU | steps/s | together | busy | peak MiB |"
    yield "|---|---|---|---|---|---|---|"
    for pair in report["pairs"]:
        head = f"| {pair['backbone']} | {pair['method']} | {_verdict(pair)} |"
        if pair["error"]:
            yield f"{head} | | | |"
            continue
        rates = ", ".join(f"{mode} {value:.1f}" for mode, value in pair["steps_per_s"].items())
        together = ", ".join(f"{n}: {p['steps_per_s']:.1f}" for n, p in pair["packed"].items())
        busy = ", ".join(f"{n}: {p['busy']:.0%}" for n, p in pair["packed"].items())
        yield f"{head} {rates} | {together} | {busy} | {pair['peak_memory_mb']:.0f} |"
    paper = report["paper"]
    hours = ", ".join(f"{n} at once {value:.1f} h" for n, value in paper["hours"].items())
    yield from ("", f"{paper['trainings']} trainings of the paper profile: {hours}.", *paper["assumptions"])


if __name__ == "__main__":
    sys.exit(main())

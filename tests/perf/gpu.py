"""``python -m tests.perf.gpu``: is training on CUDA right, repeatable and fast? All backbones, all methods.

Needs PyTorch and NumPy, for cells with a text encoder transformers too. The data are synthetic, at the sizes
of MOSI, the settings the published ones. It has three parts (``--parts``):

- cells: short trainings through the launcher, in every kind of arithmetic, see `gpu_cells`.
- agreement: how far single steps on the GPU differ from the CPU's, see `gpu_agreement`.
- speed: steps_per_s, training steps per second with their diagnostics, as in a training, in "fp32", and for
  TIMED methods in each kind of arithmetic; evaluated_clips_per_s; peak_memory_mb; packed: for TIMED methods,
  steps per second of 1, 2 and 4 processes together on the GPU, with MPS too where it is installed, and
  ``busy``, the share of time in which it runs a kernel or copies: the time of one step's kernels, from
  PyTorch's profiler of one process alone, times all steps per second.

Writes all of it as JSON (``--out``, by default ``tests/perf/gpu_check.json`` on CUDA) and as a page beside
it, with the hours that the paper profile's matrix takes there (`hours`). Each failure is a sentence with the
command that repeats it alone. Exit status: 0; 1 there is a failure; 2 the request is wrong; 3 there is no
CUDA device, and nothing was checked.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch

from backbones import BACKBONES
from harness.data.store import save_dataset
from harness.data.synthetic import generate
from harness.data.synthetic.clips import SyntheticSettings
from harness.errors import UserError, line_with_type
from harness.train.device import device_name, peak_memory_mb, reset_peak_memory
from methods import METHODS
from tests.perf.arguments import Parser, name_of, names_of, positive
from tests.perf.child import Child, ChildError
from tests.perf.gpu_agreement import TOLERANCE, UPDATE_TOLERANCE, agreement, without_dropout
from tests.perf.gpu_cells import KINDS, PLAIN, check_cells, failures, memory_check
from tests.perf.hours import estimated_hours
from tests.perf.steps import WARM_UP, kernel_seconds, make_cell, rate, steps_per_s, training

PARTS = ("cells", "agreement", "speed")
TIMED = ("none", "ms_mix")  # methods that are timed in all modes, and packed
MODES = {**PLAIN, "compile": {"compile": True}}
"""Kinds of arithmetic, and how a cell says so; the first is the benchmark's default."""
FILE = Path(__file__).with_name("gpu_check.json")


def main(arguments=None):
    options = _parser().parse_args(arguments)
    on_cuda = options.device == "cuda"
    if on_cuda and not torch.cuda.is_available():
        print("No CUDA device here; nothing was checked.", file=sys.stderr)
        return 3
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with tempfile.TemporaryDirectory() as folder:
        options.data = str(Path(folder) / "data")
        report = check_all(options)
    out = options.out or (FILE if on_cuda else Path("var/perf/gpu_check_cpu.json"))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    page = list(table(report))
    out.with_suffix(".md").write_text("\n".join(page) + "\n", encoding="utf-8")
    print(*page, "", f"Written to {out} and {out.with_suffix('.md')}.", sep="\n")
    return 1 if report["failures"] else 0


def _parser():
    parser = Parser("python -m tests.perf.gpu", __doc__)
    parser.option("--backbones", ",".join(BACKBONES), "names", names_of("backbone", BACKBONES))
    parser.option("--methods", ",".join(METHODS), "names", names_of("method", METHODS))
    parser.option("--parts", ",".join(PARTS), "of the check", names_of("part", PARTS))
    parser.option("--kinds", ",".join(KINDS), "of cells", names_of("kind", KINDS))
    modes = "kinds of arithmetic to be timed; also: compile"
    parser.option("--modes", "fp32,fp32_any_order,tf32,bf16", modes, names_of("mode", MODES))
    parser.option("--steps", "5", "to be compared", positive)
    parser.option("--seconds", "0.5", "that each speed is measured for", float)
    parser.option("--packed", "2,4", "numbers of processes on one GPU, beside 1", _counts)
    parser.option("--size", "full", "of the data: full or quick", name_of("size", ("full", "quick")))
    device = "the CPU stands in for a GPU where the check itself is tested"
    parser.option("--device", "cuda", device, name_of("device", ("cuda", "cpu")))
    parser.add_argument("--out", help="the JSON file (default: tests/perf/gpu_check.json on CUDA)", type=Path)
    return parser


def _counts(text):
    return tuple(sorted({1, *(positive(name) for name in text.split(",") if name)}))


def check_all(options):
    """Check all pairs of backbone and method; ``options.data`` is the folder where the data are put."""
    save_dataset(generate(SyntheticSettings("synthetic_mosi", size=options.size))[0], Path(options.data))
    cells = check_cells(options, _say) if "cells" in options.parts else []
    memory = memory_check(cells, options) if cells else {}
    pairs = check_pairs(options) if {"agreement", "speed"} & set(options.parts) else []
    report = {
        "gpu": device_name(torch.device("cuda")) if options.device == "cuda" else None,
        "device": options.device,
        "torch": torch.__version__,
        "steps": options.steps,
        "tolerances": {"difference": TOLERANCE, "update": UPDATE_TOLERANCE},
        "data": f"synthetic_mosi, size {options.size}",
        "busy": "kernel time per step (PyTorch's profiler, one process alone) times steps per second of all",
        "failures": [*failures(cells, memory, options.device), *pair_failures(pairs, options.device)],
        "cells": cells,
        "memory": memory,
        "pairs": pairs,
    }
    return {**report, "paper": estimated_hours(report)}


def _say(text):
    print(text, file=sys.stderr)


def check_pairs(options):
    """Check the agreement and the speed of all pairs."""
    pairs, checks, crews = list(product(options.backbones, options.methods)), [], {"": [], "mps": []}
    torch.set_num_threads(1)  # as in workers
    with mps() as found:
        crews = crews if found else {"": []}
        try:
            for number, pair in enumerate(pairs, 1):
                checks.append(check_pair(*pair, options, crews, found))
                _say(f"pair {number}/{len(pairs)} {' '.join(pair)}: {_verdict(checks[-1])}")
        finally:
            for crew in crews.values():
                dismiss(crew)
    return checks


def check_pair(backbone, method, options, crews, mps_variables=None):
    """Measure a pair; the reason of a failure is its "error". crews: processes, for this pair and others."""
    cell = make_cell(backbone, method)
    check = {"backbone": backbone, "method": method, "error": None}
    try:
        if "agreement" in options.parts:
            check["agreement"] = agreement(without_dropout(cell), options)
        if "speed" in options.parts:
            check |= speeds(cell, options)
            for name, crew in crews.items() if method in TIMED else ():
                paces = {}
                for n in options.packed:
                    with variables((name and mps_variables) or {}):
                        paces[str(n)] = together(crew, n, options, backbone=backbone, method=method)
                check[f"packed_{name}" if name else "packed"] = paces
            # Last, because a process that was profiled once may stay slower.
            check["kernel_ms"] = 1e3 * kernel_seconds(training(cell, options.data, options.device), WARM_UP)
            for packed in [check[key] for key in ("packed", "packed_mps") if key in check]:
                for n, pace in packed.items():
                    packed[n] = {"steps_per_s": pace, "busy": check["kernel_ms"] / 1e3 * pace}
    # A GPU's memory may be too small for one mode.
    except (RuntimeError, UserError) as error:
        check["error"] = line_with_type(error)
    return check


@contextlib.contextmanager
def mps():
    """Start a daemon of NVIDIA's MPS; yields the variables by which processes find it, or None without it."""
    control = shutil.which("nvidia-cuda-mps-control")
    if control is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        found = {"CUDA_MPS_PIPE_DIRECTORY": f"{folder}/pipe", "CUDA_MPS_LOG_DIRECTORY": f"{folder}/log"}
        for path in found.values():
            os.mkdir(path)
        environment = {**os.environ, **found}
        started = subprocess.run([control, "-d"], env=environment, capture_output=True, check=False)
        try:
            yield found if started.returncode == 0 else None
        finally:
            subprocess.run([control], input=b"quit\n", env=environment, capture_output=True, check=False)


@contextlib.contextmanager
def variables(values):
    """Set variables of the environment, which new processes inherit."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def speeds(cell, options):
    """Measure steps per second in each mode; in "fp32" also evaluation and peak memory."""
    steps = training(cell, options.data, options.device)
    reset_peak_memory(steps.device)
    steps.train(WARM_UP)
    measured = {"steps_per_s": {}, "peak_memory_mb": peak_memory_mb(steps.device)}
    steps.evaluate()
    measured["evaluated_clips_per_s"] = rate(steps.evaluate, steps.device, options.seconds)
    for mode in dict.fromkeys(["fp32", *(options.modes if cell.method in TIMED else ())]):
        steps = training(replace(cell, **MODES[mode]), options.data, options.device)
        steps.train(WARM_UP)
        measured["steps_per_s"][mode] = steps_per_s(steps, options.seconds)
    return measured


def together(crew, size, options, **cell):
    """Measure steps per second of some processes together; raises RuntimeError where one of them fails."""
    try:
        while len(crew) < size:
            crew.append(Child("tests.perf.steps:together", data=options.data, device=options.device))
        for seconds in (0.0, options.seconds):
            for child in crew[:size]:
                child.begin(seconds=seconds, **cell)
            measured = [child.end() for child in crew[:size]]
    except ChildError as error:
        dismiss(crew)
        raise RuntimeError(f"one of {size} processes failed: {str(error).splitlines()[-1]}") from error
    return sum(answer["steps_per_s"] for answer in measured)


def dismiss(crew):
    while crew:
        crew.pop().__exit__()


def pair_failures(pairs, device):
    """Yield a sentence for each failure, with the command that repeats it alone."""
    for pair in pairs:
        alone = f"--backbones={pair['backbone']} --methods={pair['method']} --parts=agreement,speed"
        repeat = f"Repeat it with `python -m tests.perf.gpu --device={device} {alone}`."
        if pair["error"]:
            yield f"{pair['backbone']} with {pair['method']}: {pair['error']}. {repeat}"
        elif "agreement" in pair and not pair["agreement"]["holds"]:
            numbers = "losses differ by {difference:.1e}, weights by {update:.1e} of a step".format(
                **pair["agreement"]
            )
            yield f"{pair['backbone']} with {pair['method']} disagrees with the CPU: {numbers}. {repeat}"


def _verdict(pair):
    if pair["error"]:
        return pair["error"]
    if "agreement" not in pair:
        return "timed"
    verdict = "agrees" if pair["agreement"]["holds"] else "DISAGREES"
    return f"{verdict} ({pair['agreement']['difference']:.1e}, {pair['agreement']['update']:.1e})"


def table(report):
    """Yield lines of Markdown."""
    yield f"{report['gpu'] or 'The CPU in place of a GPU'}, torch {report['torch']}; {report['data']}.\n"
    yield from [f"- {sentence}" for sentence in report["failures"]] or ["No failures."]
    cells = report["cells"]
    good = sum(not cell["error"] for cell in cells)
    if cells:
        yield f"\n{good} of {len(cells)} cells trained through the launcher and repeated their results."
    for backbone, numbers in report["memory"].items():
        assumed = f"packing assumes {numbers['estimate_mb']:.0f} MiB"
        yield f"- {backbone}: {assumed}, cells took {_mib(numbers['peak_mb'])}."
    if report["pairs"]:
        yield from ("", *_pair_table(report))


def _mib(number):
    return "an unknown amount" if number is None else f"at most {number:.0f}"


def _pair_table(report):
    yield "| backbone | method | CPU and GPU | steps/s | together | with MPS | busy | peak MiB |"
    yield "|---|---|---|---|---|---|---|---|"
    for pair in report["pairs"]:
        numbers = [""] * 5
        if not pair["error"] and "steps_per_s" in pair:
            rates = ", ".join(f"{mode} {value:.1f}" for mode, value in pair["steps_per_s"].items())
            packed, with_mps = pair.get("packed", {}), pair.get("packed_mps", {})
            paces = [
                ", ".join(f"{n}: {p['steps_per_s']:.1f}" for n, p in measured.items())
                for measured in (packed, with_mps)
            ]
            busy = ", ".join(f"{n}: {p['busy']:.0%}" for n, p in packed.items())
            numbers = [rates, *paces, busy, f"{pair['peak_memory_mb']:.0f}"]
        yield f"| {' | '.join([pair['backbone'], pair['method'], _verdict(pair), *numbers])} |"
    paper = report["paper"]
    hours = ", ".join(f"{n} at once {value:.1f} h" for n, value in paper["hours"].items())
    yield from ("", f"{paper['trainings']} trainings of the paper profile: {hours}.", *paper["assumptions"])


if __name__ == "__main__":
    sys.exit(main())

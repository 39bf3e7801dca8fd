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

import json
import os
import sys
import tempfile
from dataclasses import fields, replace
from itertools import product
from pathlib import Path

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from backbones import BACKBONES
from harness.data.store import save_dataset
from harness.data.synthetic import generate
from harness.data.synthetic.clips import SyntheticSettings
from harness.errors import UserError, line_with_type
from harness.launchers.processes import usable_cores
from harness.train.device import peak_memory_mb, reset_peak_memory
from methods import METHODS
from tests.perf.arguments import Parser, name_of, names_of, positive
from tests.perf.child import Child, ChildError
from tests.perf.hours import estimated_hours
from tests.perf.steps import WARM_UP, kernel_seconds, make_cell, rate, steps_per_s, training

FIRST_TOLERANCE, TOLERANCE = 1e-4, 1e-3
"""Of the first step's losses, before any training, and of all steps'. On the CPU, weights moved by 1e-7 move
losses by about 1e-6 in 20 steps; by up to 3e-4 where AdvMixUp chooses features by the sign of a gradient."""
MODES = {
    "fp32": {},
    "fp32_any_order": {"deterministic": False},
    "tf32": {"precision": "tf32"},
    "bf16": {"precision": "bf16"},
    "compile": {"compile": True},
}
"""Kinds of arithmetic, and how a cell says so; the first is the benchmark's default."""
EPSILON = 1e-4  # of Adam, well above rounding errors
DRAWS = (torch.randn_like, torch.rand_like, torch.randn, torch.rand)
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
    print(*table(report), "", f"Written to {out}.", sep="\n")
    return 0 if all(holds(pair) for pair in report["pairs"]) else 1


def _parser():
    parser = Parser("python -m tests.perf.gpu", __doc__)
    parser.option("--backbones", ",".join(BACKBONES), "names", names_of("backbone", BACKBONES))
    parser.option("--methods", ",".join(METHODS), "names", names_of("method", METHODS))
    modes = "kinds of arithmetic to be timed; also: compile"
    parser.option("--modes", "fp32,fp32_any_order,tf32,bf16", modes, names_of("mode", MODES))
    parser.option("--steps", "20", "to be compared", positive)
    parser.option("--seconds", "2.0", "that each speed is measured for", float)
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
    pairs, checks, crew = list(product(options.backbones, options.methods)), [], []
    torch.set_num_threads(1)  # as in workers
    try:
        for number, pair in enumerate(pairs, 1):
            checks.append(check_pair(*pair, options, crew))
            print(f"{number}/{len(pairs)} {' '.join(pair)}: {_verdict(checks[-1])}", file=sys.stderr)
    finally:
        dismiss(crew)
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


def check_pair(backbone, method, options, crew):
    """Measure a pair; the reason of a failure is its "error". crew: processes, for this pair and others."""
    cell = make_cell(backbone, method)
    check = {"backbone": backbone, "method": method, "error": None}
    try:
        check["agreement"] = agreement(without_dropout(cell), options)
        check["deterministic"] = same_bits(cell, options)
        check |= speeds(cell, options)
        check["packed"] = {}
        for n in options.packed:
            pace = together(crew, n, options, backbone=backbone, method=method)
            check["packed"][str(n)] = {"steps_per_s": pace, "busy": check["kernel_ms"] / 1e3 * pace}
    # A GPU's memory may be too small for one of them.
    except (RuntimeError, UserError) as error:
        check["error"] = line_with_type(error)
    return check


def agreement(cell, options, change=lambda steps: None):
    """Compare the losses on the device and on the CPU; change: made to the device's training before it."""
    threads, losses = torch.get_num_threads(), []
    torch.set_num_threads(usable_cores())
    try:
        for device, prepare in (("cpu", lambda steps: None), (options.device, change)):
            with HostDraws():
                steps = training(cell, options.data, device)
                for group in steps.optimizer.param_groups:
                    group["eps"] = EPSILON
                prepare(steps)
                losses.append(steps.run(options.steps))
    finally:
        torch.set_num_threads(threads)
    expected, actual = losses
    first, difference = relative_difference(expected[:1], actual[:1]), relative_difference(expected, actual)
    within = first <= FIRST_TOLERANCE and difference <= TOLERANCE
    return {"first": first, "difference": difference, "holds": within}


def without_dropout(cell):
    """Set all probabilities of dropout to 0: devices draw different masks from one seed."""
    names = [f.name for f in fields(cell.backbone_settings) if f.name.endswith("_dropout")]
    return replace(cell, backbone_settings=replace(cell.backbone_settings, **dict.fromkeys(names, 0.0)))


class HostDraws(TorchFunctionMode):
    """Within it random tensors are drawn on the CPU and copied, so that all devices get the same ones."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func not in DRAWS:
            return func(*args, **kwargs)
        device = kwargs.get("device")
        if isinstance(args[0], Tensor):
            device, args = args[0].device, (args[0].cpu(), *args[1:])
        return func(*args, **{**kwargs, "device": "cpu"}).to(device)


def relative_difference(expected, actual):
    """Return the largest difference of losses, (n, 5) each, by the total loss (first column).

    That of the step, or of the first one where it is larger: losses that go to 0 have no digits to compare.
    """
    total = expected[:, :1].abs().maximum(expected[0, 0].abs())
    return float(((expected - actual).abs() / total).nan_to_num(torch.inf).max())


def same_bits(cell, options):
    """Return whether two trainings give the same losses and weights, bit for bit."""
    runs = [training(cell, options.data, options.device) for _ in range(2)]
    first, second = (run.run(options.steps) for run in runs)
    pairs = zip(*(run.weights() for run in runs), strict=True)
    return torch.equal(first, second) and all(torch.equal(a, b) for a, b in pairs)


def speeds(cell, options):
    """Measure steps per second in each mode; in "fp32" also evaluation, peak memory and kernels' time."""
    steps = training(cell, options.data, options.device)
    reset_peak_memory(steps.device)
    steps.run(WARM_UP)
    measured = {"steps_per_s": {}, "peak_memory_mb": peak_memory_mb(steps.device)}
    steps.evaluate()
    measured["evaluated_clips_per_s"] = rate(steps.evaluate, steps.device, options.seconds)
    measured["kernel_ms"] = 1e3 * kernel_seconds(steps, WARM_UP)
    for mode in dict.fromkeys(["fp32", *options.modes]):
        steps = training(replace(cell, **MODES[mode]), options.data, options.device)
        steps.run(WARM_UP)
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


def holds(pair):
    return not pair["error"] and pair["agreement"]["holds"] and pair["deterministic"]


def _verdict(pair):
    if pair["error"]:
        return pair["error"]
    verdict = "agrees" if pair["agreement"]["holds"] else "DISAGREES"
    repeatable = "repeatable" if pair["deterministic"] else "NOT REPEATABLE"
    return f"{verdict} ({pair['agreement']['difference']:.1e}), {repeatable}"


def table(report):
    """Yield lines of Markdown."""
    yield f"{report['gpu'] or 'The CPU in place of a GPU'}, torch {report['torch']}; {report['data']}.\n"
    yield "| backbone | method | CPU and GPU | steps/s | together | busy | peak MiB |"
    yield "|---|---|---|---|---|---|---|"
    for pair in report["pairs"]:
        numbers = ["", "", "", ""]
        if not pair["error"]:
            rates = ", ".join(f"{mode} {value:.1f}" for mode, value in pair["steps_per_s"].items())
            pace = ", ".join(f"{n}: {p['steps_per_s']:.1f}" for n, p in pair["packed"].items())
            busy = ", ".join(f"{n}: {p['busy']:.0%}" for n, p in pair["packed"].items())
            numbers = [rates, pace, busy, f"{pair['peak_memory_mb']:.0f}"]
        yield f"| {' | '.join([pair['backbone'], pair['method'], _verdict(pair), *numbers])} |"
    paper = report["paper"]
    hours = ", ".join(f"{n} at once {value:.1f} h" for n, value in paper["hours"].items())
    yield from ("", f"{paper['trainings']} trainings of the paper profile: {hours}.", *paper["assumptions"])


if __name__ == "__main__":
    sys.exit(main())

"""Cells of the GPU check, through the launcher that users run: each must train, and repeat its bits.

Two worker processes share the device. Both run a cell at once, and then again, so that results are equal
twice in one process, in two processes, and beside other work. If the order of sums on a GPU varies, two runs
must only succeed.
"""

import contextlib
import hashlib
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from backbones.text import BertSettings
from harness.launchers.base import Job
from harness.launchers.choose import make_launcher
from harness.launchers.gpu_sharing import worker_bytes
from harness.launchers.job import run_job
from tests.perf.steps import make_cell
from tests.support.cells import with_changes

WORKERS, EPOCHS, BATCHES = 2, 2, 3
PLAIN = {
    "fp32": {},
    "fp32_any_order": {"deterministic": False},
    "tf32": {"precision": "tf32"},
    "bf16": {"precision": "bf16"},
}
"""Kinds of cells, and their fields; with every method."""
OCCLUDED = {"ratios": (0.0, 0.3), "train_ratio": 0.3}
SPECIAL = {
    "occluded": OCCLUDED,
    "occluded_entries": {**OCCLUDED, "granularity": "entry"},
    "bert": {"text": BertSettings(model="random", learning_rate=2e-5, weight_decay=0.0)},
    "bert_frozen": {
        "text": BertSettings(model="random", finetune=False, learning_rate=0.0, weight_decay=0.0)
    },
}
"""Kinds of cells with one method only."""
KINDS = {**PLAIN, **SPECIAL}
BERT = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}


def check_cells(options, say=lambda text: None):
    """Run all cells; returns by cell its kind, pair, peak memory, and the reason of a failure, or None."""
    names = list(product(options.backbones, options.methods, [k for k in options.kinds if k in PLAIN]))
    special = "ms_mix" if "ms_mix" in options.methods else options.methods[-1]
    names += product(options.backbones, [special], [k for k in options.kinds if k in SPECIAL])
    checks = []
    with contextlib.closing(open_pool(options.device)) as pool:
        for number, (backbone, method, kind) in enumerate(names, 1):
            check = {"backbone": backbone, "method": method, "kind": kind, "peak_memory_mb": None}
            check["error"] = checked(pool, short_cell(backbone, method, kind), options, check)
            checks.append(check)
            say(f"cell {number}/{len(names)} {backbone} {method} {kind}: {check['error'] or 'repeats'}")
    return checks


def open_pool(device):
    """Start the workers as a benchmark with ``jobs_per_gpu=2`` does."""
    return make_launcher("processes", WORKERS, run_job, ("cuda:0",) if device == "cuda" else ())


def short_cell(backbone, method, kind):
    """Make a cell that trains for a few steps."""
    cell = replace(make_cell(backbone, method), max_batches=BATCHES, **KINDS[kind])
    return with_changes(cell, backbone={"max_epochs": EPOCHS})


def checked(pool, cell, options, check):
    """Run a cell several times, and set the check's peak memory; returns the reason of a failure, or None."""
    try:
        job = job_of(cell, options)
    except ImportError as error:
        return f"not checked, because {error.name} is not installed"
    outcomes = run(pool, [job] * WORKERS)
    if cell.deterministic:
        outcomes += run(pool, [job] * WORKERS)
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    if errors:
        return f"{len(errors)} of {len(outcomes)} runs failed: {errors[0]}"
    results = [outcome.result for outcome in outcomes]
    check["peak_memory_mb"] = max(result.cell["peak_memory_mb"] for result in results)
    reasons = [result.reason for result in results if result.status != "complete"]
    if reasons:
        return f"{len(reasons)} of {len(results)} runs diverged: {reasons[0]}"
    different = len({digest(result) for result in results}) if cell.deterministic else 1
    return None if different == 1 else f"{len(results)} runs give {different} different results"


def run(pool, jobs):
    """Return the outcomes of jobs, which run with one job per worker at a time."""
    outcomes, size = [], min(pool.slots, len(jobs))
    for start in range(0, len(jobs), size):
        for job in jobs[start : start + size]:
            pool.submit(job)
        while len(outcomes) < min(start + size, len(jobs)):
            outcomes += pool.wait(60.0)
    return outcomes


def digest(result):
    """Hash what must be reproducible: scores, curves without times, and predictions."""
    curves = {name: values for name, values in result.curves.items() if not name.endswith("_s")}
    scores = {name: dict(values) for name, values in result.scores.items()}
    numbers = repr((sorted(scores.items()), sorted(curves.items()))).encode()
    predictions = b"".join(np.ascontiguousarray(x).tobytes() for x in result.predictions.values.values())
    return hashlib.sha256(numbers + predictions).hexdigest()


def job_of(cell, options):
    """Return the job of a cell; with text, beside the data lie a random encoder and its states."""
    job = Job(cell, options.data, options.device)
    if cell.text.encoder == "features":
        return job
    folder = Path(options.data).parent
    model = random_bert(folder / "bert")
    if cell.text.finetune:
        return replace(job, text_model=model)
    from harness.data.pretrained import find_model, text_states

    data = SimpleNamespace(name=cell.dataset, folder=Path(options.data))
    found = find_model(model, folder)
    states = text_states(
        found, {cell.dataset: data}, [cell], options.device, 1, folder, lambda text: None
    )  # in this process, as the driver does
    return replace(job, text_model=model, text_states=states[cell.dataset, cell.backbone])


def random_bert(folder):
    """Save a small BERT with random weights, once; returns its folder."""
    from transformers import BertConfig, BertModel

    if not folder.exists():
        torch.manual_seed(0)
        BertModel(BertConfig(**BERT)).save_pretrained(folder)
    return str(folder)


def memory_check(checks, options):
    """Compare the peak memory of each backbone's cells with the estimate that packing uses, in MiB."""
    found = {}
    for backbone in options.backbones:
        peaks = [c["peak_memory_mb"] for c in checks if c["backbone"] == backbone and c["kind"] in PLAIN]
        cell = make_cell(backbone, options.methods[-1])
        need = worker_bytes([cell], {cell.dataset: Path(options.data)}, True) / 2**20
        measured = max((peak for peak in peaks if peak is not None), default=None)
        found[backbone] = {"peak_mb": measured, "estimate_mb": need}
    return found


def failures(checks, memory, device):
    """Yield a sentence for each failure, with the command that repeats it alone."""
    command = f"python -m tests.perf.gpu --device={device} --parts=cells"
    for check in checks:
        if check["error"]:
            pair = f"{check['backbone']} with {check['method']}, {check['kind']}"
            alone = f"--backbones={check['backbone']} --methods={check['method']} --kinds={check['kind']}"
            yield f"{pair}: {check['error']}. Repeat it with `{command} {alone}`."
    for backbone, numbers in memory.items():
        peak, estimate = numbers["peak_mb"], numbers["estimate_mb"]
        # On the CPU the peak is that of the whole process.
        if device == "cuda" and peak is not None and peak > estimate:
            alone = f"--backbones={backbone} --kinds=fp32"
            yield (
                f"{backbone} needs {peak:.0f} MiB, but packing assumes {estimate:.0f} MiB. "
                f"Repeat it with `{command} {alone}`."
            )

"""How long the report of a large study takes, and how much memory.

Writes a study of made-up results straight into a fresh MLflow database, as the paper profile would leave it,
and reports it twice, each time in a process of its own: from nothing, and with nothing changed.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from backbones import BACKBONES
from backbones.base import resolve_settings
from backbones.batch import MODALITIES
from harness.databases import sqlite_uri
from harness.matrix import Cell
from harness.metrics import METRICS
from harness.tracking.tracker import Tracker
from harness.train.inspection import SAMPLE
from harness.train.result import Result
from methods import METHODS
from tests.perf.rows import Part, Row
from tests.perf.stored import store_runs
from tests.perf.timed import timed

RUNS = 5000
BOUNDS = {"first": 60.0, "again": 10.0}
BOUND_MB = 2048.0
KINDS = ("mosi", "mosei", "sims")
STUDIED = ("none", "mixup", "manifold_mixup", "multimix", "advmixup", "powmix", "c_mixup", "ms_mix")
RATIOS = tuple(k / 10 for k in range(10))
TRAINED_AT = (0.0, 0.1, 0.3, 0.5, 0.7)
SAMPLED = ("mosei", "misa")
EPOCHS, WIDTH = 30, 64


def cells(count: int) -> Iterator[Cell]:
    """As many cells of the paper's matrix, with as many seeds as it takes."""
    made = 0
    for seed in itertools.count(1111):
        for kind, backbone, method, ratio in itertools.product(KINDS, BACKBONES, STUDIED, TRAINED_AT):
            if made == count:
                return
            made += 1
            entry = BACKBONES[backbone]
            settings = resolve_settings(entry, entry.Settings(), kind)
            test = (0.0,) if ratio else RATIOS
            yield Cell(
                dataset=kind,
                metrics=kind,
                fingerprint=kind,
                seed=seed,
                label_scale=1.0 if kind == "sims" else 3.0,
                backbone=backbone,
                backbone_settings=settings,
                method=method,
                method_settings=METHODS[method].Settings(),
                ratios=test,
                train_ratio=ratio,
            )


def made_up(cell: Cell, generator: np.random.Generator) -> Result:
    """A result with as many numbers as a real one has."""
    keys = ["valid", *("test" if not r else f"test_r{r:.2f}" for r in cell.ratios)]
    level = 0.5 + 0.05 * list(BACKBONES).index(cell.backbone)
    scores = {
        k: {m: level + generator.normal(0, 0.02) for m in (*METRICS[cell.metrics], "loss")} for k in keys
    }
    names = (
        "epoch_s",
        "train_s",
        "peak_memory_mb",
        "parameter_count",
        "method_parameter_count",
        "best_epoch",
    )
    curves = [f"mix_lambda_{m}_{q}" for m in (*MODALITIES, "label") for q in ("q10", "q50", "q90")]
    curves += ["mix_opposite_rate", "mix_label_spread", "mix_distance", "valid_loss", "epoch_s"]
    curves += [f"train_{part}_loss" for part in ("total", "task", "mixed", "penalty", "auxiliary")]
    first = cell.seed == 1111 and not cell.train_ratio and (cell.dataset, cell.backbone) == SAMPLED
    return Result(
        "complete",
        scores,
        cell=dict.fromkeys(names, 1.0 + generator.random()),
        curves={name: generator.random(EPOCHS).tolist() for name in curves},
        environment={"device": "cpu", "torch": "2.13.0"},
        samples=samples(generator) if first and cell.method != "none" else {},
    )


def samples(generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Latents of a sample, as `harness.train.inspection.sample_latents` keeps them."""
    arrays: dict[str, np.ndarray] = {}
    for kind in ("clean", "mixed"):
        arrays |= {f"{kind}_{m}": generator.standard_normal((SAMPLE, WIDTH)) for m in MODALITIES}
        arrays[f"{kind}_labels"] = generator.uniform(-3, 3, SAMPLE)
    return {name: array.astype(np.float16) for name, array in arrays.items()}


def fill(tracker: Tracker, count: int) -> None:
    """Write the runs of a study."""
    generator = np.random.default_rng(0)
    store_runs(tracker, ((cell, made_up(cell, generator)) for cell in cells(count)))


def report_twice(count: int) -> dict[str, dict[str, float]]:
    """Seconds and MB of the first report of a study with so many runs, and of one with nothing new."""
    with tempfile.TemporaryDirectory() as folder:
        tracker = Tracker(sqlite_uri(Path(folder) / "mlflow.db"), Path(folder), "perf")
        fill(tracker, count)
        command = [sys.executable, "-m", "reports.build", f"var_dir={folder}", "study=perf"]
        found = {}
        for name in BOUNDS:
            seconds, peak = timed(command)
            found[name] = {"s": seconds, "mb": peak}
        return found


def measure(count: int = RUNS) -> Part:
    """Both reports of a study with so many runs."""
    rows: list[Row] = []
    for name, cost in report_twice(count).items():
        rows.append(Row(f"report, {name}", cost["s"], "s", BOUNDS[name]))
        rows.append(Row(f"report, {name}, peak memory", cost["mb"], "MB", BOUND_MB))
    how = f"The report of a study of {count} runs, with the start of its process."
    return Part("reports", "What a report costs", how, tuple(rows))

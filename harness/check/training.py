"""A training of two epochs on synthetic clips: whether it ends, its time, and calls that wait for a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from backbones import BACKBONES
from backbones.base import resolve_settings
from harness.check import backbones, methods
from harness.check.waiting import Waiting
from harness.data.dataset import Dataset
from harness.data.synthetic.clips import SyntheticSettings
from harness.data.synthetic.generate import generate
from harness.errors import line_with_type
from harness.matrix import Cell
from harness.plugins import kind_of
from harness.train.loop import train
from harness.train.result import Diverged, Result
from methods import METHODS

CLIPS, EPOCHS, REPEATS = 300, 2, 2
DATA, PARTNER, BASELINE = "synthetic_mosi", "lmf", "none"


def report(cls: type[Any], file: str) -> Iterator[tuple[str, str, bool]]:
    """Train and yield (sentence, fault, whether the fault is only a warning)."""
    backbone, method = (cls.name, BASELINE) if kind_of(cls) == "backbone" else (PARTNER, cls.name)
    sentence = f"a training of {EPOCHS} epochs ends ({backbone}, {method}, {CLIPS} clips of {DATA})"
    dataset = generate(SyntheticSettings(DATA, clips=CLIPS))[0]
    with _one_thread():
        try:
            results = [_train(backbone, method, dataset) for _ in range(REPEATS)]
        except Diverged as error:
            yield sentence, f"{error}.", False
            return
        except Exception as error:
            yield sentence, f"{line_with_type(error).rstrip('.')}.", False
            return
        yield sentence, "", False
        other = (PARTNER, BASELINE)
        baseline = [_train(*other, dataset) for _ in range(REPEATS)]
    own, base = (min(result.cell["epoch_s"] for result in some) for some in (results, baseline))
    cost = f"time per epoch on one CPU core: {100 * (own / base - 1):+.0f}% against {' with '.join(other)}"
    yield cost, "", False
    yield "no step waits for the device", _waits(cls, file), True


def _train(backbone: str, method: str, dataset: Dataset) -> Result:
    kind = BACKBONES[backbone]
    rules = replace(resolve_settings(kind, kind.Settings(), "mosi"), max_epochs=EPOCHS)
    settings = METHODS[method].Settings()
    cell = Cell(DATA, "mosi", dataset.label_scale, "", backbone, rules, method, settings, seed=1)
    return train(cell, dataset, torch.device("cpu"))


def _waits(cls: type[Any], file: str) -> str:
    """Return the lines of the class's file that copy a tensor's values to the host; empty for none."""
    waiting = Waiting(file)
    if kind_of(cls) == "method":
        method, latents = methods.make(cls), methods.make_latents("sequences", methods.BATCH)
        with waiting:
            methods.mixed_of(method, latents)
    else:
        backbone, batch = backbones.make(cls), backbones.make_batch()
        with waiting:
            backbone(batch)
    lines = ", ".join(f"{name} in line {line}" for line, name in sorted(waiting.lines.items()))
    return f"on CUDA, each of these calls waits until the device is done: {lines}." if lines else ""


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

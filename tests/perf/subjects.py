"""What measuring processes run: this project's training loop, and the plain reference, on one dataset."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backbones import BACKBONES
from backbones.base import resolve_settings
from backbones.batch import MODALITIES
from harness.data.dataset import SPLITS, Dataset
from harness.data.occlusion import MaskField
from harness.data.store import load_dataset
from harness.matrix import Cell
from harness.train import loop, step
from harness.train.diagnostics import Diagnostics
from harness.train.seeds import generator_for
from harness.train.splits import ResidentSplit, peak_memory_mb, reset_peak_memory
from methods import METHODS
from tests.perf.reference import MODELS, MulT, PlainTraining
from tests.perf.stopwatch import watched

EPOCH, SEED, CPU = 1, 1111, torch.device("cpu")
Measure = Callable[..., dict[str, float]]


def ours(data: str, backbone: str, threads: int, settings: Mapping[str, Any] | None = None) -> Measure:
    """A training of this project; see `Training.measure`. data: folder of a stored dataset."""
    torch.set_num_threads(threads)
    return Training(load_dataset(Path(data)), backbone, threads, settings or {}).measure


class Training:
    """Training loops of one backbone with its published settings, at a dataset's size."""

    def __init__(self, dataset: Dataset, backbone: str, threads: int, settings: Mapping[str, Any]):
        kind = BACKBONES[backbone]
        self.dataset, self.backbone, self.threads = dataset, backbone, threads
        self.settings = resolve_settings(kind, kind.Settings(**settings), "mosi")

    def cell(self, method: str, steps: int | None) -> Cell:
        """The cell of a method, bounded to a number of batches."""
        scale = self.dataset.label_scale
        data = ("synthetic_mosi", "mosi", scale, "")
        chosen = METHODS[method].Settings()
        return Cell(
            *data, self.backbone, self.settings, method, chosen, SEED, max_batches=steps, threads=self.threads
        )

    def measure(
        self,
        method: str = "none",
        steps: int = 2,
        warm_up: int = 1,
        clips: int | None = None,
        fraction: float = 1.0,
        padded: bool = True,
        evaluate: bool = False,
    ) -> dict[str, float]:
        """Seconds of a training step and of its parts, and the epoch's size.

        Args:
            steps: how many are measured, after a warm-up. clips: of the training split, all where None.
            fraction: of the steps of every sequence. padded: False makes every step of padding valid.
            evaluate: also time the validation split.

        Returns:
            step_s with its parts data_s, method_s, forward_s, backward_s, optimizer_s, rest_s; steps, of an
            epoch; peak_mb, of the process since the call; and valid_s, valid_forward_s, of one evaluation.
        """
        dataset = _resized(self.dataset, clips, fraction, padded)
        backbone, method_ = loop.build(self.cell(method, None), dataset, CPU)
        optimizer = loop.make_optimizer(backbone, method_)
        splits = loop.Splits(
            {name: ResidentSplit(dataset.splits[name], CPU) for name in SPLITS},
            {name: MaskField("", name, 0, dataset.splits[name].ids) for name in SPLITS},
        )
        reset_peak_memory(CPU)
        parts = (backbone, method_, optimizer, splits, EPOCH)
        loop.run_steps(self.cell(method, warm_up), *parts, Diagnostics().watch)
        calls = {
            "data_s": (ResidentSplit, ("take",)),
            "forward_s": (loop, ("step_losses",)),
            "mix_s": (step, ("mix_batch",)),
            "draw_s": (type(method_), ("draw",)),
            "backward_s": (torch.Tensor, ("backward",)),
            "optimizer_s": (type(optimizer), ("step",)),
        }
        with watched(calls) as spent:
            started = time.perf_counter()
            loop.run_steps(self.cell(method, steps), *parts, Diagnostics().watch)
            total = time.perf_counter() - started
        found = {"data_s": spent["data_s"], "method_s": spent["mix_s"] + spent["draw_s"]}
        found |= {"forward_s": spent["forward_s"] - spent["mix_s"], "backward_s": spent["backward_s"]}
        found |= {"optimizer_s": spent["optimizer_s"]}
        found["rest_s"] = total - sum(found.values())
        order = np.arange(len(dataset.splits["train"]))
        length = len(loop.batches(order, backbone.settings.batch_size))
        done = min(steps, length)
        numbers = {key: seconds / done for key, seconds in found.items()} | {"step_s": total / done}
        numbers |= {"steps": length, "peak_mb": peak_memory_mb(CPU)}
        if evaluate:
            numbers |= _evaluation(self.cell(method, None), backbone, splits)
        return numbers


def _evaluation(cell: Cell, backbone: Any, splits: Any) -> dict[str, float]:
    loop.predict(cell, backbone, splits, "valid")
    with watched({"valid_forward_s": (type(backbone), ("__call__",))}) as spent:
        started = time.perf_counter()
        loop.task_loss(backbone, *loop.predict(cell, backbone, splits, "valid"))
        return {**spent, "valid_s": time.perf_counter() - started}


def _resized(dataset: Dataset, clips: int | None, fraction: float, padded: bool) -> Dataset:
    """The dataset with fewer training clips, shorter sequences, or without padding."""
    splits = dict(dataset.splits)
    for name, split in splits.items():
        rows = slice(clips if name == "train" else None)
        features, lengths = {}, {}
        for m in MODALITIES:
            keep = max(1, round(fraction * split.features[m].shape[1]))
            features[m] = np.ascontiguousarray(split.features[m][rows, :keep])
            stated = np.ceil(fraction * split.lengths[m][rows])
            chosen = stated if padded else np.full(len(stated), keep)
            lengths[m] = chosen.astype(split.lengths[m].dtype).clip(1, keep)
        splits[name] = replace(
            split, features=features, lengths=lengths, labels=split.labels[rows], ids=split.ids[rows]
        )
    return replace(dataset, splits=splits)


def plain(data: str, model: str, threads: int, dropouts: bool = True) -> Measure:
    """A training of the plain reference on the same batches; returns step_s and peak_mb."""
    torch.set_num_threads(threads)
    split = load_dataset(Path(data)).splits["train"]
    features = {m: torch.from_numpy(np.array(x)) for m, x in split.features.items()}
    labels = torch.from_numpy(np.array(split.labels))
    torch.manual_seed(SEED)
    kind = MODELS[model]
    training = PlainTraining(MulT(dropouts) if kind is MulT else kind(), kind.learning_rate)
    order = generator_for(SEED, "order", EPOCH).permutation(len(labels))
    indices = [torch.from_numpy(index) for index in loop.batches(order, kind.batch_size)]

    def measure(steps: int = 2, warm_up: int = 0) -> dict[str, float]:
        reset_peak_memory(CPU)
        for index in indices[:warm_up]:
            training.step({m: x[index] for m, x in features.items()}, labels[index])
        started = time.perf_counter()
        for index in indices[:steps]:
            training.step({m: x[index] for m, x in features.items()}, labels[index])
        seconds = (time.perf_counter() - started) / min(steps, len(indices))
        return {"step_s": seconds, "steps": len(indices), "peak_mb": peak_memory_mb(CPU)}

    return measure

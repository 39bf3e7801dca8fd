"""How long the paper profile's matrix takes on a GPU, from what `tests.perf.gpu` measured there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backbones import BACKBONES
from backbones.base import resolve_settings
from harness.data.synthetic.statistics import SHAPES
from harness.train.splits import EVALUATION_BATCH

DATASETS = ("mosi", "mosei", "sims")
METHODS = ("none", "mixup", "manifold_mixup", "multimix", "advmixup", "powmix", "c_mixup", "ms_mix")
SEEDS, TEST_RATIOS, TRAIN_RATIOS = 5, 10, 4
EPOCHS = {"tfn": 20, "lmf": 20, "mult": 20, "misa": 20, "almt": 60, "glomo": 20}
"""Epochs until early stopping: assumed, nobody has measured them on the real data."""


def estimated_hours(
    measured: Mapping[str, Any], epochs: Mapping[str, int] = EPOCHS, methods: Sequence[str] = METHODS
) -> dict[str, Any]:
    """Hours of the paper profile's matrix on the measured GPU.

    Args:
        measured: the content of ``perf/gpu_check.json``.
        epochs: of a training, by backbone.
        methods: of the matrix.

    Returns:
        gpu; hours: by the number of workers, "1", "2", "4"; backbones: the same for each backbone; missing:
        pairs of backbone and method that were not measured, which the hours leave out; trainings: how many
        the hours stand for; assumptions: sentences.
    """
    pairs = {(pair["backbone"], pair["method"]): pair for pair in measured["pairs"] if not pair.get("error")}
    wanted = [(backbone, method) for backbone in epochs for method in methods]
    hours: dict[str, dict[str, float]] = {}
    for backbone, method in wanted:
        if (backbone, method) in pairs:
            pair = pairs[backbone, method]
            alone = sum(_dataset_s(backbone, name, pair, epochs[backbone]) for name in DATASETS) / 3600
            for workers, gain in _gains(pair).items():
                row = hours.setdefault(workers, dict.fromkeys(epochs, 0.0))
                row[backbone] += alone / gain
    found = [pair for pair in wanted if pair in pairs]
    return {
        "gpu": measured.get("gpu"),
        "hours": {workers: sum(row.values()) for workers, row in hours.items()},
        "backbones": {b: {workers: row[b] for workers, row in hours.items()} for b in epochs},
        "missing": ["/".join(pair) for pair in wanted if pair not in pairs],
        "trainings": len(found) * len(DATASETS) * SEEDS * (1 + TRAIN_RATIOS),
        "assumptions": _assumptions(epochs),
    }


def _dataset_s(backbone: str, dataset: str, pair: Mapping[str, Any], epochs: int) -> float:
    """Seconds of all trainings of a backbone and method on a data set, one after the other."""
    train, valid, test = SHAPES[f"synthetic_{dataset}", "full"].clips
    size, measured_size = batch_size(backbone, dataset), batch_size(backbone, "mosi")
    step_s = max(1.0, size / measured_size) / pair["steps_per_s"]["fp32"]
    clip_s = 1 / pair["evaluated_clips_per_s"]
    epoch_s = steps_per_epoch(train, size) * step_s + valid * clip_s
    tests = TEST_RATIOS + TRAIN_RATIOS  # a training on occluded clips is tested on clean ones alone
    return SEEDS * ((1 + TRAIN_RATIOS) * (epochs * epoch_s + valid * clip_s) + tests * test * clip_s)


def _gains(pair: Mapping[str, Any]) -> dict[str, float]:
    """How many times as many steps so many workers do together as one alone, by their number."""
    packed = pair["packed"]
    return {n: found["steps_per_s"] / packed["1"]["steps_per_s"] for n, found in packed.items()}


def batch_size(backbone: str, like: str) -> int:
    """The published batch size for a data set."""
    size = resolve_settings(BACKBONES[backbone], BACKBONES[backbone].Settings(), like).batch_size
    assert size is not None, "settings are resolved"
    return size


def steps_per_epoch(clips: int, size: int) -> int:
    """Batches of an epoch; a last one of a single clip joins the one before."""
    whole, rest = divmod(clips, size)
    return max(1, whole + (rest > 1))


def _assumptions(epochs: Mapping[str, int]) -> list[str]:
    assumed = ", ".join(f"{name} {count}" for name, count in epochs.items())
    return [
        f"Epochs of a training: {assumed}.",
        "Steps are as long as measured with MOSI's sizes and batches, and longer in proportion to batches "
        "that are larger on another data set.",
        f"Clips are evaluated, {EVALUATION_BATCH} at a time, as fast as measured with MOSI's sizes.",
        "Several workers share one GPU as measured; the matrix is spread evenly over them. Loading data and "
        "starting workers is left out.",
    ]

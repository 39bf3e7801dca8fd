"""How long the paper profile's matrix takes on a GPU, from what `tests.perf.gpu` measured there."""

from itertools import product

import numpy as np

from backbones import BACKBONES
from backbones.base import resolve_settings
from harness.data.synthetic.statistics import SHAPES
from harness.train.loop import batches
from harness.train.splits import EVALUATION_BATCH

DATASETS = ("mosi", "mosei", "sims")
METHODS = ("none", "mixup", "manifold_mixup", "multimix", "advmixup", "powmix", "c_mixup", "ms_mix")
SEEDS, TEST_RATIOS, TRAIN_RATIOS = 5, 10, 4
EPOCHS = {"tfn": 20, "lmf": 20, "mult": 20, "misa": 20, "almt": 60, "glomo": 20}
"""Epochs until early stopping: assumed, nobody has measured them on the real data."""


def estimated_hours(measured, epochs=EPOCHS, methods=METHODS):
    """Estimate the hours that profile=paper takes on the measured GPU.

    Args:
        measured: the content of ``gpu_check.json``. epochs: of a training, by backbone.

    Returns:
        gpu; hours: by the number of workers, "1", "2", "4"; backbones: the same for each backbone; missing:
        pairs of backbone and method that were not measured, which the hours leave out; trainings: how many
        the hours stand for; assumptions: sentences.
    """
    usable = [pair for pair in measured["pairs"] if not pair.get("error") and "steps_per_s" in pair]
    pairs = {(pair["backbone"], pair["method"]): pair for pair in usable}
    matrix = list(product(epochs, methods))
    missing = ["/".join(names) for names in matrix if names not in pairs]
    backbones, total = {backbone: {} for backbone in epochs}, {}
    for backbone, method in matrix:
        if pair := pairs.get((backbone, method)):
            alone_s = sum(_dataset_s(backbone, name, pair, epochs[backbone]) for name in DATASETS)
            packed = pair.get("packed") or _packed(measured, backbone)
            for workers, together in packed.items():
                gain = together["steps_per_s"] / packed["1"]["steps_per_s"]
                for hours in (backbones[backbone], total):
                    hours[workers] = hours.get(workers, 0.0) + alone_s / 3600 / gain
    assumed = ", ".join(f"{name} {count}" for name, count in epochs.items())
    return {
        "gpu": measured.get("gpu"),
        "hours": total,
        "backbones": backbones,
        "missing": missing,
        "trainings": (len(matrix) - len(missing)) * len(DATASETS) * SEEDS * (1 + TRAIN_RATIOS),
        "assumptions": [
            f"Epochs of a training: {assumed}.",
            "Steps are as long as measured with MOSI's sizes and batches, and longer in proportion to "
            "batches that are larger on another data set.",
            f"Clips are evaluated, {EVALUATION_BATCH} at a time, as fast as measured with MOSI's sizes.",
            "Several workers share one GPU as measured; the matrix is spread evenly over them. Loading data "
            "and starting workers is left out.",
        ],
    }


def _packed(measured, backbone):
    """Return speeds by number of processes, of any method of the backbone; of one process without any."""
    found = [
        pair["packed"] for pair in measured["pairs"] if pair["backbone"] == backbone and "packed" in pair
    ]
    return found[-1] if found else {"1": {"steps_per_s": 1.0}}


def _dataset_s(backbone, dataset, pair, epochs):
    """Return the seconds of all trainings of a backbone and method on a data set, one after the other."""
    kind = BACKBONES[backbone]
    size, measured_size = (resolve_settings(kind, kind.Settings(), d).batch_size for d in (dataset, "mosi"))
    train, valid, test = SHAPES[f"synthetic_{dataset}", "full"].clips
    step_s = max(1.0, size / measured_size) / pair["steps_per_s"]["fp32"]
    clip_s = 1 / pair["evaluated_clips_per_s"]
    epoch_s = len(batches(np.arange(train), size)) * step_s + valid * clip_s
    tests = TEST_RATIOS + TRAIN_RATIOS  # a training on occluded clips is tested on clean ones alone
    return SEEDS * ((1 + TRAIN_RATIOS) * (epochs * epoch_s + valid * clip_s) + tests * test * clip_s)

"""Every backbone learns: the quick profile's floor, and more from three modalities than from text alone."""

import dataclasses

import numpy as np
import pytest
import torch

from backbones import BACKBONES
from backbones.batch import MODALITIES
from harness.benchmark import main
from harness.data.synthetic import SyntheticSettings, generate
from harness.matrix import Cell
from harness.train.loop import train
from methods import METHODS
from tests.support.builders import make_sizes, small_backbone
from tests.support.drivers.driving import exported

pytestmark = pytest.mark.slow

# As many clips as the full set, sequences and widths of the quick one: two cores train them in a minute.
CLIPS = 2199
EPOCHS = 14
FLOOR = 0.3
# MISA at the quick profile's width has no room for three modalities.
CHANGES = {"misa": {"latent_dim": 64, "batch_size": 16, "learning_rate": 0.001}}


def test_without_mixing_every_backbone_reaches_the_quick_profiles_floor(var_dir):
    asked = ["profile=quick", "methods=[none]", "seeds=[1112]", "report=false", f"var_dir={var_dir}"]
    assert main(asked) == 0
    frame, _ = exported(var_dir, "quick")
    corr = frame[(frame["split"] == "test") & (frame["metric"] == "corr") & (frame["occlusion_ratio"] == 0)]
    means = corr.groupby(["dataset", "backbone"])["value"].mean()
    assert len(means) == 3 * len(BACKBONES)
    assert (means >= FLOOR).all(), means[means < FLOOR]


@pytest.fixture(scope="module")
def dataset():
    return generate(SyntheticSettings("synthetic_mosi", "quick", CLIPS, False, 0))[0]


def silent(dataset, kept):
    """All other modalities are zeros."""
    splits = {}
    for name, split in dataset.splits.items():
        features = {m: x if m in kept else np.zeros_like(x) for m, x in split.features.items()}
        splits[name] = dataclasses.replace(split, features=features)
    return dataclasses.replace(dataset, splits=splits)


@pytest.mark.parametrize(
    "name",
    # The longest of them.
    [
        pytest.param(n, marks=pytest.mark.soak) if n in ("mult", "misa", "almt", "glomo") else n
        for n in BACKBONES
    ],
)
def test_audio_and_vision_add_to_text(dataset, name):
    settings = small_backbone(name, make_sizes()).settings
    settings = dataclasses.replace(settings, max_epochs=EPOCHS, **CHANGES.get(name, {}))
    cell = Cell("x", "mosi", 3.0, "f", name, settings, "none", METHODS["none"].Settings(), 1)
    corr = {
        kept: train(cell, silent(dataset, kept), torch.device("cpu")).scores["test"]["corr"]
        for kept in (("text",), MODALITIES)
    }
    assert corr[MODALITIES] > corr["text",] + 0.03, corr

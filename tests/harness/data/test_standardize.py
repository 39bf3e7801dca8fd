"""The scale of features: statistics by a plain loop, and networks that do not see units."""

import numpy as np
import pytest
import torch

from backbones.batch import MODALITIES
from harness.config.compose import load_benchmark
from harness.data.dataset import SPLITS
from harness.data.standardize import feature_scale, scale_notes, standardize
from harness.data.store import load_dataset
from harness.data.synthetic.clips import SyntheticSettings
from harness.data.synthetic.generate import generate
from harness.plan import make_plan
from harness.train.loop import train


def make_data(scale=1.0, shift=0.0):
    """A small dataset, whose first feature of vision has another unit."""
    dataset = generate(SyntheticSettings("synthetic_mosi", clips=40))[0]
    for split in dataset.splits.values():
        rows = split.features["vision"]
        valid = np.arange(rows.shape[1]) < split.lengths["vision"][:, None]
        rows[..., 0] = np.where(valid, rows[..., 0] * np.float32(scale) + np.float32(shift), 0)
    return dataset


def valid_rows(split, modality):
    """All valid steps, clip by clip."""
    clips = zip(split.features[modality], split.lengths[modality], strict=True)
    return np.concatenate([steps[:length] for steps, length in clips]).astype(float)


def test_statistics_equal_those_of_all_valid_steps():
    split = make_data(scale=100, shift=1e4).splits["train"]
    for m in MODALITIES:
        rows, scale = valid_rows(split, m), feature_scale(split, m)
        assert np.array_equal(scale.low, rows.min(0))
        assert np.array_equal(scale.high, rows.max(0))
        np.testing.assert_allclose(scale.mean, rows.mean(0), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(scale.std, rows.std(0), rtol=1e-9)
        np.testing.assert_allclose(scale.magnitude, np.sqrt(np.square(rows).mean(0)), rtol=1e-9)


def test_every_feature_gets_mean_0_and_deviation_1_over_the_training_split_alone():
    data, made = make_data(scale=1e8, shift=3e8), standardize(make_data(scale=1e8, shift=3e8))
    for m in MODALITIES:
        rows = valid_rows(made.splits["train"], m)
        np.testing.assert_allclose(rows.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(rows.std(0), 1, atol=1e-5)
        before = valid_rows(data.splits["train"], m)
        for split in SPLITS:
            expected = (valid_rows(data.splits[split], m) - before.mean(0)) / before.std(0)
            np.testing.assert_allclose(valid_rows(made.splits[split], m), expected, atol=1e-4)
            steps = np.arange(made.splits[split].features[m].shape[1])
            padded = steps >= made.splits[split].lengths[m][:, None]
            assert not made.splits[split].features[m][padded].any(), "padding stays zero"
    assert made.notes[-1] == "every feature is scaled to mean 0 and deviation 1."


def test_a_constant_feature_keeps_its_unit():
    made = standardize(make_data(scale=0, shift=0.1))
    assert np.abs(valid_rows(made.splits["test"], "vision")[:, 0]).max() < 1e-6
    assert np.isfinite(made.splits["test"].features["vision"]).all()


@pytest.mark.parametrize(("scale", "count"), [(1, 0), (900, 0), (2000, 1)])
def test_a_feature_far_larger_than_the_others_is_noted(scale, count):
    notes = scale_notes(make_data(scale=scale))
    assert len(notes) == count
    for note in notes:
        assert note.startswith("vision has 1 of 12 features that are over 1000 times as large")
        assert "standardize=true" in note


def test_the_setting_is_part_of_the_cell_and_reaches_the_network(tmp_path):
    typed = [f"var_dir={tmp_path}", "dataset.synthetic_mosi.clips=40", "backbones=[lmf]", "seeds=[1]"]
    typed += ["methods=[none]", "train.max_epochs=1"]
    results = []
    for more in ([], ["dataset.synthetic_mosi.standardize=true"]):
        plan = make_plan(load_benchmark([*typed, *more]))
        [cell], [data] = plan.cells, plan.datasets.values()
        dataset = load_dataset(data.folder)
        results.append((cell.cell_id, train(cell, dataset, torch.device("cpu")).scores["test"]["mae"]))
        means = np.abs(valid_rows(dataset.splits["train"], "text").mean(0))
        assert (means.max() < 1e-5) == bool(more)
    (plain_id, plain), (scaled_id, scaled) = results
    assert plain_id != scaled_id
    assert plain != scaled

"""Scales of labels: what a file's labels say of them, and results that do not depend on where neutral is."""

import pickle
import re

import numpy as np
import pytest
import torch

from harness.config.compose import load_benchmark
from harness.data.export import raw_mmsa
from harness.data.labels import LabelScale, given_scale
from harness.data.mmsa.reader import read_mmsa
from harness.data.store import load_dataset
from harness.data.synthetic.clips import SyntheticSettings
from harness.errors import UserError
from harness.plan import make_plan
from harness.train.loop import train

LABELS = "regression_labels"


def scale_of(setting="label_{}", **typed):
    """The scale of data like MOSI with some settings."""
    return given_scale(3.0, typed.get("label_scale"), typed.get("label_center"), setting)


def splits(*values):
    """The same labels in every split."""
    return {split: np.array(values, float) for split in ("train", "valid", "test")}


def settings_in(sentence):
    """What a sentence says to type first, as keyword arguments."""
    typed = re.search(r"give ((?:label_\w+=\S+ ?)+)", sentence).group(1)
    return {key: float(value) for key, value in re.findall(r"(label_\w+)=(-?[\d.]*\d)", typed)}


# Labels -> a word of the refusal, and the scale that it gives.
MEANT_OTHERWISE = {
    "1 to 5": ([1.0, 2.5, 5.0], "no label on the other side of 0", (3.0, 2.0)),
    "0 to 1": ([0.01, 0.4, 0.98], "no label on the other side of 0", (0.5, 0.5)),
    "below 0": ([-5.0, -0.5, -2.5], "no label on the other side of 0", (-2.5, 2.5)),
    "ratings 1 to 5": ([1, 2, 5], "whole numbers 1 to 5, like classes", (3.0, 2.0)),
    "classes 0 to 6": ([0, 6, 3], "whole numbers 0 to 6, like classes", (3.0, 3.0)),
    "-1 to 1": ([-0.9, 0.2, 1.0], "at most half of [-3, 3]", (0.0, 1.0)),
    "tiny": ([-0.02, 0.01, 0.0], "at most half of [-3, 3]", (0.0, 0.02)),
    "-9 to 10": ([-9.0, 10.0, 0.0], "holds 10, outside [-3, 3]", (0.0, 10.0)),
    "all 100": ([100.0, 100.0, 100.0], "holds 100, outside [-3, 3]", (0.0, 100.0)),
}


@pytest.mark.parametrize("labels", MEANT_OTHERWISE)
def test_labels_that_are_meant_otherwise_are_refused_with_what_to_type(labels):
    values, word, expected = MEANT_OTHERWISE[labels]
    with pytest.raises(UserError, match=re.escape(word)) as refusal:
        scale_of().check(splits(*values), "file", "labels")
    typed = settings_in(str(refusal.value))
    assert (typed.get("label_center", 0.0), typed["label_scale"]) == expected
    scale_of(**typed).check(splits(*values), "file", "labels")


@pytest.mark.parametrize(
    ("values", "typed"),
    [
        ([-2.4, 0, 3], {}),
        ([-1.6, 0, 1], {}),
        ([0, 0, 0], {}),  # of no scale
        ([1.5, 1.5, 1.5], {}),
        ([-0.5, 0.5, 0], {"label_scale": 3.0}),
        ([0, 1, 3], {"label_center": 0.0}),
        ([1, 5, 2], {"label_center": 3.0, "label_scale": 2.0}),
        ([-3.00005, 3, 0], {}),  # rounding
    ],
)
def test_labels_that_may_be_meant_so_pass(values, typed):
    scale_of(**typed).check(splits(*values), "file", "labels")


def test_the_split_with_the_odd_label_is_named():
    labels = splits(-3, 3) | {"valid": np.array([-4.5, 0])}
    with pytest.raises(UserError, match=r"^file: valid/labels holds -4\.5, outside"):
        scale_of().check(labels, "file", "labels")


def test_metrics_with_classes_need_their_scale():
    assert LabelScale(3.0).metrics("mine", "mosei", None) == ("mosei", [])
    assert LabelScale(1.0).metrics("mine", "sims", "sims") == ("sims", [])
    for scale in (LabelScale(1.0), LabelScale(3.0, 3.0)):
        kind, [note] = scale.metrics("mine", "mosi", None)
        assert kind == "score"
        assert f"labels are in {scale.range}" in note
        with pytest.raises(UserError, match=r"needs labels in \[-3, 3\].*give dataset\.mine\.metrics=score"):
            scale.metrics("mine", "mosi", "mosi")
    with pytest.raises(UserError, match="Did you mean 'score'"):
        LabelScale(1.0).metrics("mine", "sims", "scores")


@pytest.fixture(scope="module")
def content():
    return raw_mmsa(SyntheticSettings("synthetic_mosi", clips=60))


def write(content, path, change):
    """Write the content with other labels."""
    changed = {name: {**split, LABELS: change(split[LABELS])} for name, split in content.items()}
    path.write_bytes(pickle.dumps(changed, 4))
    return path


REFUSED = {
    "one-hot": (lambda y: np.eye(6)[np.arange(len(y)) % 6], "is one-hot, of shape .* not a class"),
    "seven columns": (lambda y: np.column_stack([y] + [np.abs(y)] * 6), "one sentiment score per clip"),
    "texts": (lambda y: np.where(y > 0, "positive", "negative"), "must hold numbers, got str"),
    "classes": (lambda y: np.clip(np.round(y) + 3, 0, 6).astype(int), "like classes, and this tool predicts"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_labels_that_are_no_scores_are_refused(kind, content, tmp_path):
    change, reason = REFUSED[kind]
    with pytest.raises(UserError, match=reason):
        read_mmsa(write(content, tmp_path / "file.pkl", change), LabelScale(3.0))


def trained(var, path, *typed):
    """Train one small cell on a file and return its result."""
    small = ["backbones=[tfn]", "seeds=[1]", "train.max_epochs=2", "datasets=[mine]", "text=features"]
    plan = make_plan(load_benchmark([f"var_dir={var}", f"dataset.mine.path={path}", *small, *typed]))
    [cell] = plan.cells
    return train(cell, load_dataset(plan.datasets["mine"].folder), torch.device("cpu"))


@pytest.mark.parametrize("method", ["c_mixup", pytest.param("ms_mix", marks=pytest.mark.slow)])
def test_a_shifted_scale_trains_the_same_network_and_gives_back_its_own_units(method, content, tmp_path):
    """The labels are multiples of 1/16, so that shifting them is exact."""
    typed = [f"methods=[{method}]", "dataset.mine.metrics=score", "dataset.mine.label_scale=3"]
    results = []
    for shift in (0, 4):
        path = write(content, tmp_path / f"{shift}.pkl", lambda y, shift=shift: np.round(16 * y) / 16 + shift)
        results.append(trained(tmp_path / "var", path, *typed, f"dataset.mine.label_center={shift}"))
    at_zero, at_four = results
    assert at_four.curves["train_task_loss"] == at_zero.curves["train_task_loss"]
    assert np.array_equal(at_four.predictions.labels - 4, at_zero.predictions.labels)
    shifted = at_four.predictions.values[0.0] - 4
    np.testing.assert_allclose(shifted, at_zero.predictions.values[0.0], atol=1e-6)
    assert set(at_zero.scores["test"]) == {"mae", "rmse", "corr", "spearman", "ccc", "r2", "loss"}
    for split in ("valid", "test"):
        assert at_four.scores[split] == pytest.approx(at_zero.scores[split], abs=1e-5)


def test_a_file_is_checked_again_on_another_scale_although_it_is_cached(content, tmp_path):
    path = write(content, tmp_path / "file.pkl", lambda y: y)
    trained(tmp_path / "var", path, "methods=[none]")
    with pytest.raises(UserError, match="outside"):
        trained(tmp_path / "var", path, "methods=[none]", "dataset.mine.label_center=2")

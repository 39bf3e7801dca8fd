"""Samples for figures and mechanism checks: what is stored, from which weights, and that nothing changes."""

import math

import numpy as np
import pytest
import torch

from backbones.batch import MODALITIES
from harness.benchmark import main
from harness.tracking.tracker import Tracker
from harness.train.inspection import (
    Inspection,
    _explained,
    _small,
    correlation,
    mechanism,
    sample_latents,
    without,
)
from harness.train.loop import train
from harness.train.seeds import generator_for
from harness.train.splits import ResidentSplit
from methods import METHODS
from tests.support.builders import PAIRS, changed, make_dataset, make_sizes, small_backbone, small_cell
from tests.support.drivers.driving import comparable, exported

CPU = torch.device("cpu")
N = 13
RULES = {"batch_size": 4, "max_epochs": 3, "early_stop": 9}
DATASET = make_dataset(make_sizes(), (12, 12, 12))
TRUTH = {"a": np.linspace(0, 1, 36).reshape(12, 3), "u": np.linspace(-3, 3, 36).reshape(12, 3)}


def make_parts(backbone, method, clips=N, **options):
    """A cell with its network in eval mode, and a split."""
    cell = small_cell(backbone, method, rules=RULES, options=options)
    network = small_backbone(backbone, make_sizes(), batch_size=4).eval()
    torch.manual_seed(0)
    made = METHODS[method](cell.method_settings, network.latent_widths, 3.0).eval()
    split = make_dataset(make_sizes(), (clips, 1, 1)).splits["train"]
    return cell, network, made, ResidentSplit(split, CPU)


@pytest.mark.parametrize(("method", "backbone"), PAIRS)
def test_samples_of_every_method_and_backbone(method, backbone):
    cell, network, made, split = make_parts(backbone, method)
    samples = sample_latents(cell, network, made, split)
    clean = network.encode(network.embed(split.take(np.arange(N)))).vectors()
    for m in MODALITIES:
        assert samples[f"clean_{m}"].shape == clean[m].shape
        assert samples[f"clean_{m}"].dtype == np.float16
        stored = np.sort(samples[f"clean_{m}"].astype(float), axis=0)
        np.testing.assert_allclose(stored, np.sort(clean[m].detach().numpy(), axis=0), atol=2e-2, rtol=1e-3)
    assert sorted(samples["clean_labels"]) == sorted(split.labels.numpy().astype(np.float16))
    mixed = len(samples.get("mixed_labels", []))
    assert (mixed == 0) == (method == "none")
    assert all(len(samples[f"mixed_{m}"]) == mixed for m in MODALITIES if mixed)
    assert all(np.isfinite(array).all() for array in samples.values())
    again = sample_latents(cell, network, made, split)
    assert all(np.array_equal(samples[name], again[name]) for name in samples)


def test_copies_are_sampled_as_copies():
    """A weight of 0 or 1 gives back clean latents, so every mixed row is a clean one with its label."""
    samples = sample_latents(*make_parts("lmf", "manifold_mixup", alpha=0.0))
    clean = {(*row, y) for row, y in zip(samples["clean_text"], samples["clean_labels"], strict=True)}
    mixed = {(*row, y) for row, y in zip(samples["mixed_text"], samples["mixed_labels"], strict=True)}
    assert mixed
    assert mixed <= clean


def test_a_sample_has_its_own_streams_and_batches_as_in_training():
    """The same as a loop over batches, each with the draw of its number."""
    cell, network, made, split = make_parts("lmf", "mixup")
    samples = sample_latents(cell, network, made, split)
    order = generator_for(1, "sample").permutation(N)
    np.testing.assert_array_equal(samples["clean_labels"], split.split.labels[order].astype(np.float16))
    labels = []
    for step, index in enumerate([order[:4], order[4:8], order[8:12], order[12:]]):
        clips = split.split.labels[index]
        arrays = made.draw(generator_for(1, "sample", step), clips).arrays
        labels += (arrays["weights"] * clips[arrays["indices"]]).sum(1).tolist()
    np.testing.assert_allclose(samples["mixed_labels"].astype(float), labels, atol=2e-3)


def test_stored_arrays_are_small():
    given = np.array([1e9, -1e9, 1.5, np.inf])
    for kind in (np.float32, np.float64):
        small = _small(given.astype(kind))
        assert (small.dtype, small.tolist()) == (np.float16, [65504, -65504, 1.5, 65504])
    whole = np.array([70000])
    assert _small(whole) is whole


def test_an_explanation_is_asked_for_on_the_device_and_once():
    """The device "meta" has no numbers: nothing is read back for a method without explanations."""
    cell, network, _, split = make_parts("lmf", "mixup")
    seen = []

    class Explained(METHODS["mixup"]):
        def explain(self, latents, labels, draw):
            seen.append({x.device.type for x in (*latents.values.values(), labels, *draw.values())})
            return {}

    method = Explained(cell.method_settings, network.latent_widths, 3.0)
    batch = changed(split.take(np.arange(4)), lambda x: x.to("meta"))
    latents = network.to("meta").encode(network.embed(batch))
    draw = method.draw(np.random.default_rng(0), np.zeros(4, np.float32))
    assert list(_explained(network, method, batch, latents, draw)) == []
    assert seen == [{"meta"}]


def test_correlations_by_hand():
    x = np.array([1.0, 2.0, 4.0])
    assert correlation(x, -3 * x) == pytest.approx(-1)
    assert correlation(x, np.array([1.0, 0.0, 1.0])) == pytest.approx(np.corrcoef(x, [1, 0, 1])[0, 1])
    assert correlation(1e-3 * x, 1e-3 * x) == pytest.approx(1)
    assert math.isnan(correlation(x, np.ones(3)))
    assert math.isnan(correlation(np.full(3, 0.1), x))
    np.testing.assert_allclose(without(3 * x + 2, x), 0, atol=1e-12)


def test_at_most_512_are_sampled():
    samples = sample_latents(*make_parts("lmf", "mixup", clips=600))
    assert len(samples["clean_labels"]) == len(samples["mixed_labels"]) == 512


@pytest.mark.parametrize("similarity", ["minmax", "cosine"])
def test_the_explained_batch_of_ms_mix(similarity):
    cell, network, made, split = make_parts("lmf", "ms_mix", similarity=similarity)
    found = {k[6:]: v for k, v in sample_latents(cell, network, made, split).items() if k[:6] == "batch_"}
    pairs, s = found["indices"], found["similarity"].astype(float)
    assert s.shape == (4, 4)
    np.testing.assert_allclose(s, s.T)
    above = s[np.triu_indices(4, 1)]
    if similarity == "minmax":
        assert (above.min(), above.max()) == (0, 1)
    assert all(s[i, j] > cell.method_settings.delta - 1e-3 for i, j in pairs)
    bases = []
    for m in MODALITIES:
        w = np.abs(found[f"intensity_{m}"].astype(float))[pairs]
        bases.append(2 * found[f"lambda_{m}"].astype(float) - w[:, 0] / w.sum(1))
    np.testing.assert_allclose(np.stack(bases), np.stack([bases[0]] * 3), atol=2e-2)
    means = np.mean([found[f"lambda_{m}"].astype(float) for m in MODALITIES], 0)
    np.testing.assert_allclose(found["lambda_label"], means, atol=2e-3)
    total, task, mixed, penalty, auxiliary = found["losses"].astype(float)
    assert total == pytest.approx(task + 0.7 * mixed + penalty + auxiliary, rel=1e-2)


def test_mechanism_checks_of_intensities():
    _, network, made, split = make_parts("lmf", "ms_mix")
    generator = np.random.default_rng(0)
    truth = {"a": generator.uniform(0, 1, (N, 3)), "u": generator.uniform(-3, 3, (N, 3))}
    found = mechanism(network, made, split, truth)
    intensities = made.intensities(network.encode(network.embed(split.take(np.arange(N)))))
    for number, m in enumerate(MODALITIES):
        i = np.abs(intensities[m].detach().numpy())
        wanted = np.corrcoef(i, truth["a"][:, number] * np.abs(truth["u"][:, number]))[0, 1]
        assert found[f"intensity_{m}_truth"] == pytest.approx(wanted, abs=1e-4)
        y, a = np.abs(split.labels.numpy()), truth["a"][:, number]
        (_, ia, iy), (_, _, ay), _ = np.corrcoef([i, a, y])
        assert found[f"intensity_{m}_label"] == pytest.approx(iy, abs=1e-4)
        partial = (ia - iy * ay) / np.sqrt((1 - iy**2) * (1 - ay**2))
        assert found[f"intensity_{m}_partial"] == pytest.approx(partial, abs=1e-4)
        assert abs(partial - ia) > 1e-3, "it differs from the plain correlation"
    constant = {**truth, "u": np.zeros((N, 3))}
    assert mechanism(network, made, split, constant).keys() == {k for k in found if not k.endswith("_truth")}
    _, _, other, _ = make_parts("lmf", "mixup")
    assert mechanism(network, other, split, truth) == {}


def test_looking_changes_no_number():
    cell = small_cell("tfn", rules=RULES)
    plain = train(cell, DATASET, CPU)
    seen = train(cell, DATASET, CPU, inspection=Inspection(True, TRUTH))
    assert seen.scores.pop("mechanism").keys() >= {"intensity_text_truth"}
    assert seen.samples
    assert plain.scores == seen.scores
    assert all(np.array_equal(plain.predictions.values[r], seen.predictions.values[r]) for r in (0.0,))


def test_the_methods_weights_are_those_of_the_best_epoch(monkeypatch):
    """One epoch of learning, then steps so large that the later ones are worse."""
    found = {}
    for epochs in (1, 3):
        cell = small_cell(rules={**RULES, "max_epochs": epochs})
        rates = iter([1e-3, 1e-3, 50.0, 50.0, 50.0, 50.0])
        monkeypatch.setattr("harness.train.loop.learning_rate", lambda *_, rates=rates: next(rates))
        result = train(cell, DATASET, CPU, inspection=Inspection(True, TRUTH))
        assert result.cell["best_epoch"] == 1
        found[epochs] = result.scores["mechanism"]
    assert found[1] == found[3]


def test_a_study_stores_samples_of_each_first_seed(var_dir):
    given = [f"var_dir={var_dir}", "datasets=[synthetic_mosi]", "dataset.synthetic_mosi.clips=60"]
    given += ["backbones=[lmf]", "methods=[none,ms_mix]", "seeds=[7,5]", "train.max_epochs=1"]
    given += ["occlusion.ratios=[0]", "launcher=inline"]
    assert main([*given, "study=a", "report=false"]) == 0
    tracker = Tracker(None, var_dir, "a", create=False)
    stored = {}
    for run in tracker.complete().values():
        result = tracker.load(run)
        key = run.tags["method"], run.tags["seed"]
        stored[key] = set(result.samples)
        assert ("mechanism" in result.scores) == (run.tags["method"] == "ms_mix")
        assert ("epoch/mix_opposite_rate" in run.metrics) == (run.tags["method"] == "ms_mix")
    with_samples = {key for key, names in stored.items() if names}
    assert with_samples == {("none", "7"), ("ms_mix", "7")}
    assert "batch_similarity" in stored["ms_mix", "7"]
    assert main([*given, "study=b", "report=false"]) == 0, "taken over from the first, samples too"
    again = Tracker(None, var_dir, "b", create=False)
    assert any(again.load(run).samples for run in again.complete().values())
    first, second = (exported(var_dir, name)[0] for name in ("a", "b"))
    assert comparable(first).equals(comparable(second))
    assert not set(first["split"]) & {"mechanism"}

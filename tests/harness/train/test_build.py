"""What a training starts from: batches, initial weights, the optimizer; and what a few of its steps do."""

import copy
import dataclasses
import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backbones import BACKBONES
from harness.data.dataset import Dataset, Split
from harness.errors import UserError
from harness.matrix import Cell
from harness.train import memory
from harness.train.loop import batches, train
from harness.train.networks import build, make_optimizer
from harness.train.step import step_losses
from methods import METHODS
from tests.support.builders import drawn, make_batch, make_sizes, small_backbone

SIZES = make_sizes()
over_both = pytest.mark.parametrize(
    ("method_name", "backbone_name"), list(itertools.product(METHODS, BACKBONES))
)
over_backbones = pytest.mark.parametrize("backbone_name", BACKBONES)


def make_dataset() -> Dataset:
    batch = make_batch(SIZES, 6)
    split = Split(
        np.array([f"clip{k}" for k in range(6)]),
        {m: x.numpy() for m, x in batch.features.items()},
        {m: x.numpy() for m, x in batch.lengths.items()},
        batch.labels.numpy(),
    )
    return Dataset(dict.fromkeys(("train", "valid", "test"), split), 3.0)


def make_cell(backbone_name: str, method_name: str, seed: int = 1, **options) -> Cell:
    return Cell(
        dataset="toy",
        metrics="mosi",
        label_scale=3.0,
        fingerprint="",
        backbone=backbone_name,
        backbone_settings=small_backbone(backbone_name, SIZES).settings,
        method=method_name,
        method_settings=METHODS[method_name].Settings(**options),
        seed=seed,
    )


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 200), st.integers(1, 70), st.integers(0, 9))
def test_batches(clips, size, seed):
    order = np.random.default_rng(seed).permutation(clips)
    made = batches(order, size)
    np.testing.assert_array_equal(np.concatenate(made), order)
    assert all(len(batch) == size for batch in made[:-1])
    if clips == 1:
        assert len(made) == 1
    else:
        assert len(made[-1]) != 1 or size == 1
        assert 1 <= len(made[-1]) <= size + 1
        assert len(made[-1]) <= size or clips % size == 1 or size == 1


@over_backbones
def test_a_backbone_too_large_for_the_memory_is_refused_before_it_is_made(backbone_name, monkeypatch):
    """Bytes of the weights counted by hand, five times: they, gradients, two moments, the best ones."""
    cell, dataset, cpu = make_cell(backbone_name, "none"), make_dataset(), torch.device("cpu")
    need = 5 * sum(p.nbytes for p in small_backbone(backbone_name, SIZES).parameters())
    monkeypatch.setattr(memory, "memory_bytes", lambda device: need)
    train(cell, dataset, cpu)
    monkeypatch.setattr(memory, "memory_bytes", lambda device: need - 1)
    monkeypatch.setattr("harness.train.loop.build", None)
    with pytest.raises(UserError, match=f"^{backbone_name} has .* narrower features"):
        train(cell, dataset, cpu)


@over_backbones
def test_a_text_encoders_width_is_not_that_of_the_files_text(backbone_name, monkeypatch):
    """Fine-tuned, it gives its own; frozen, its layers lie side by side."""
    cell, dataset, cpu = make_cell(backbone_name, "none"), make_dataset(), torch.device("cpu")
    split, layers = dataset.splits["train"], BACKBONES[backbone_name].text_layers
    wide = {**split.features, "text": np.tile(split.features["text"], (1, 1, layers))}
    stacked = Dataset(dict.fromkeys(dataset.splits, dataclasses.replace(split, features=wide)), 3.0)
    need = 5 * sum(p.nbytes for p in small_backbone(backbone_name, SIZES).parameters())
    monkeypatch.setattr(memory, "memory_bytes", lambda device: need)
    for finetune, found in ((True, dataset), (False, stacked)):
        text = dataclasses.replace(cell.text, encoder="bert", finetune=finetune)
        memory.require_memory(dataclasses.replace(cell, text=text), found, cpu)


def test_the_memory_is_what_the_system_tells(tmp_path, monkeypatch):
    cpu = torch.device("cpu")
    told = memory.memory_bytes(cpu)
    assert told is None or 2**28 < told < 2**50
    monkeypatch.setattr(memory, "GROUP_LIMIT", tmp_path / "memory.max")
    without = memory.memory_bytes(cpu)
    for limit, wanted in (("max", without), ("4096", 4096 if told else None)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        assert memory.memory_bytes(cpu) == wanted


@over_both
def test_the_backbone_starts_the_same_under_every_method(method_name, backbone_name):
    dataset, cpu = make_dataset(), torch.device("cpu")
    backbone, method = build(make_cell(backbone_name, method_name), dataset, cpu)
    plain, _ = build(make_cell(backbone_name, "none"), dataset, cpu)
    other, other_method = build(make_cell(backbone_name, method_name, seed=2), dataset, cpu)
    state, wanted = backbone.state_dict(), plain.state_dict()
    assert all(torch.equal(x, wanted[key]) for key, x in state.items())
    assert any(not torch.equal(x, other.state_dict()[key]) for key, x in state.items())
    for (key, x), y in zip(method.named_parameters(), other_method.parameters(), strict=True):
        assert torch.equal(x, y) == key.endswith(("norm.weight", "norm.bias"))


@over_backbones
def test_a_methods_settings_do_not_change_its_initial_weights(backbone_name):
    dataset, cpu = make_dataset(), torch.device("cpu")
    first, second = (
        build(make_cell(backbone_name, "ms_mix", **options), dataset, cpu)[1].state_dict()
        for options in ({"heads": 1}, {"heads": 8, "alpha": 0.5})
    )
    assert all(torch.equal(x, second[key]) for key, x in first.items())


@over_backbones
def test_a_methods_initial_weights_have_a_stream_of_their_own(backbone_name, monkeypatch):
    class Wasteful(BACKBONES[backbone_name]):
        def __init__(self, *given):
            super().__init__(*given)
            torch.rand(3)

    dataset, cell = make_dataset(), make_cell(backbone_name, "ms_mix")
    wanted = build(cell, dataset, torch.device("cpu"))[1].state_dict()
    monkeypatch.setitem(BACKBONES, backbone_name, Wasteful)
    made = build(cell, dataset, torch.device("cpu"))[1].state_dict()
    assert all(torch.equal(x, wanted[key]) for key, x in made.items())


@over_both
def test_the_optimizer_holds_every_trained_parameter_once(method_name, backbone_name):
    backbone, method = build(make_cell(backbone_name, method_name), make_dataset(), torch.device("cpu"))
    optimizer = make_optimizer(backbone, method)
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    wanted = {id(p) for p in [*backbone.parameters(), *method.parameters()] if p.requires_grad}
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == wanted
    main = {id(p) for p in optimizer.param_groups[0]["params"]}
    assert {id(p) for p in method.parameters()} <= main
    assert optimizer.param_groups[0]["lr"] == backbone.settings.learning_rate
    decays = [group["weight_decay"] for group in optimizer.param_groups]
    assert decays[0] == backbone.settings.weight_decay
    assert set(decays[1:]) <= {decays[0], 0.0}


@over_both
def test_a_step_moves_every_weight(method_name, backbone_name):
    backbone, method = build(make_cell(backbone_name, method_name), make_dataset(), torch.device("cpu"))
    # An odd batch: under L1 the gradients of a last bias cannot cancel.
    optimizer, batch = make_optimizer(backbone, method), make_batch(SIZES, 5)
    modules = torch.nn.ModuleList([backbone.train(), method])
    before = copy.deepcopy(modules.state_dict())
    for seed in range(3):
        optimizer.zero_grad()
        step_losses(backbone, method, batch, drawn(method, batch, seed)).total.backward()
        optimizer.step()
    trained = {key for key, p in modules.named_parameters() if p.requires_grad}
    for key, x in modules.state_dict().items():
        if key in trained:
            assert not torch.equal(x, before[key]), key


def test_training_imports_torch_and_numpy_alone():
    heavy = (
        "mlflow",
        "hydra",
        "omegaconf",
        "optuna",
        "ray",
        "transformers",
        "pandas",
        "matplotlib",
        "sklearn",
    )
    code = (
        f"import sys, harness.train.loop, methods, backbones; print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def is_vectors(backbone_name: str) -> bool:
    backbone = small_backbone(backbone_name, SIZES)
    latents = backbone.encode(backbone.embed(make_batch(SIZES, 2)))
    return all(x.ndim == 2 for x in latents.values.values())


@pytest.mark.parametrize("backbone_name", list(filter(is_vectors, BACKBONES)))
def test_heads_cannot_matter_for_vectors(backbone_name):
    """With one token per modality, training is bit-identical whatever the number of heads."""
    ends = []
    for heads in (1, 8):
        backbone, method = build(
            make_cell(backbone_name, "ms_mix", heads=heads), make_dataset(), torch.device("cpu")
        )
        optimizer = make_optimizer(backbone.train(), method)
        for seed in range(3):
            batch = make_batch(SIZES, 6, seed)
            torch.manual_seed(seed)
            optimizer.zero_grad()
            step_losses(backbone, method, batch, drawn(method, batch, seed)).total.backward()
            optimizer.step()
        ends.append({**backbone.state_dict(), **method.state_dict()})
    assert all(torch.equal(x, ends[1][key]) for key, x in ends[0].items())

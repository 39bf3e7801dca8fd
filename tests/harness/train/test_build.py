"""What a training starts from: batches, initial weights, the optimizer; and what a few of its steps do."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backbones import BACKBONES
from harness.data.dataset import Dataset
from harness.errors import UserError
from harness.train import networks
from harness.train.loop import batches, train
from harness.train.networks import build, make_optimizer
from harness.train.step import step_losses
from tests.support.builders import (
    PAIRS,
    drawn,
    make_batch,
    make_dataset,
    make_sizes,
    small_backbone,
    small_cell,
)

SIZES = make_sizes()
over_pairs = pytest.mark.parametrize(("method_name", "backbone_name"), PAIRS)
over_backbones = pytest.mark.parametrize("backbone_name", BACKBONES)
CPU = torch.device("cpu")
DATASET = make_dataset(SIZES, (6, 6, 6))


def built(*cell, **options):
    return build(small_cell(*cell, **options), DATASET, CPU)


def train_steps(backbone, method, seeds, clips):
    """One step on each seed's batch of so many clips; returns all weights."""
    optimizer = make_optimizer(backbone.train(), method)
    for seed in seeds:
        batch = make_batch(SIZES, clips, seed)
        torch.manual_seed(seed)
        optimizer.zero_grad()
        step_losses(backbone, method, batch, drawn(method, batch, seed)).total.backward()
        optimizer.step()
    return torch.nn.ModuleList([backbone, method]).state_dict()


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 200), st.integers(1, 70), st.integers(0, 9))
def test_batches(clips, size, seed):
    order = np.random.default_rng(seed).permutation(clips)
    made = batches(order, size)
    np.testing.assert_array_equal(np.concatenate(made), order)
    assert all(len(batch) == size for batch in made[:-1])
    joined = size == 1 or clips % size == 1
    assert clips == 1 or len(made[-1]) != 1
    assert 1 <= len(made[-1]) <= size + joined


@over_backbones
def test_a_backbone_too_large_for_the_memory_is_refused_before_it_is_made(backbone_name, monkeypatch):
    """Bytes of the weights counted by hand, five times: they, gradients, two moments, the best ones."""
    cell = small_cell(backbone_name, "none", rules={"max_epochs": 1})
    need = 5 * sum(p.nbytes for p in small_backbone(backbone_name, SIZES).parameters())
    monkeypatch.setattr(networks, "memory_bytes", lambda device: need)
    train(cell, DATASET, CPU)
    # A text encoder's width is not that of the file's text: fine-tuned, it gives its own; frozen, its layers
    # lie side by side.
    split, layers = DATASET.splits["train"], BACKBONES[backbone_name].text_layers
    wide = {**split.features, "text": np.tile(split.features["text"], (1, 1, layers))}
    stacked = Dataset(dict.fromkeys(DATASET.splits, dataclasses.replace(split, features=wide)), 3.0)
    for finetune, dataset in ((True, DATASET), (False, stacked)):
        text = dataclasses.replace(cell.text, encoder="bert", finetune=finetune)
        networks.require_memory(dataclasses.replace(cell, text=text), dataset, CPU)
    monkeypatch.setattr(networks, "memory_bytes", lambda device: need - 1)
    monkeypatch.setattr("harness.train.loop.build", None)
    with pytest.raises(UserError, match=f"^{backbone_name} has .* narrower features"):
        train(cell, DATASET, CPU)


def test_the_memory_is_what_the_system_tells(tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "GROUP_LIMIT", tmp_path / "memory.max")
    total = networks.memory_bytes(CPU)
    assert 2**28 < total < 2**50
    for limit, wanted in (("max", total), ("4096", 4096), (f"{2**60}", total)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        assert networks.memory_bytes(CPU) == wanted


@over_pairs
def test_the_backbone_starts_the_same_under_every_method(method_name, backbone_name):
    backbone, method = built(backbone_name, method_name)
    plain, _ = built(backbone_name, "none")
    other, other_method = built(backbone_name, method_name, seed=2)
    state, wanted = backbone.state_dict(), plain.state_dict()
    assert all(torch.equal(x, wanted[key]) for key, x in state.items())
    assert any(not torch.equal(x, other.state_dict()[key]) for key, x in state.items())
    for (key, x), y in zip(method.named_parameters(), other_method.parameters(), strict=True):
        assert torch.equal(x, y) == key.endswith(("norm.weight", "norm.bias"))


def test_a_methods_initial_weights_depend_on_nothing_else(monkeypatch):
    """Neither on its settings, nor on how many random numbers the backbone draws."""

    class Wasteful(BACKBONES["lmf"]):
        def __init__(self, *given):
            super().__init__(*given)
            torch.rand(3)

    settings = ({"heads": 1}, {"heads": 8, "alpha": 0.5})
    first, second = (built(options=options)[1].state_dict() for options in settings)
    monkeypatch.setitem(BACKBONES, "lmf", Wasteful)
    third = built(options={"heads": 1})[1].state_dict()
    assert all(torch.equal(x, second[key]) and torch.equal(x, third[key]) for key, x in first.items())


@over_pairs
def test_the_optimizer_holds_every_trained_parameter_once(method_name, backbone_name):
    backbone, method = built(backbone_name, method_name)
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


@over_pairs
def test_a_step_moves_every_weight(method_name, backbone_name):
    backbone, method = built(backbone_name, method_name)
    modules = torch.nn.ModuleList([backbone, method])
    before = copy.deepcopy(modules.state_dict())
    # An odd batch: under L1 the gradients of a last bias cannot cancel.
    after = train_steps(backbone, method, [0, 0, 0], 5)
    for key, p in modules.named_parameters():
        assert not p.requires_grad or not torch.equal(after[key], before[key]), key

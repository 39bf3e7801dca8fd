"""The start of a training: batches, initial weights, the optimizer, and the first steps."""

import copy
import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertConfig, BertModel

from backbones import BACKBONES
from backbones.text import FrozenText, TextEncoder, load_model
from harness.config.compose import load_benchmark
from harness.data.dataset import Dataset
from harness.data.store import load_dataset
from harness.data.text_inputs import with_text
from harness.errors import UserError
from harness.plan import make_plan
from harness.train import loop, networks
from harness.train.checkpoint import Checkpoint
from harness.train.loop import batches, train
from harness.train.networks import build, make_optimizer
from harness.train.step import step_losses
from tests.support.builders import (
    PAIRS,
    drawn,
    make_batch,
    make_dataset,
    make_sizes,
    same_bits,
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


def test_a_memory_too_small_is_told_in_numbers(monkeypatch):
    """Settings, widths and lengths make different networks, each counted once."""
    monkeypatch.setattr(networks, "_counts", {})
    cells = [small_cell("lmf", "none", rules={"rank": rank}) for rank in (2, 3)]
    for cell in [*cells, *cells]:
        count = sum(p.numel() for p in BACKBONES["lmf"](cell.backbone_settings, SIZES).parameters())
        need = 20 * count
        monkeypatch.setattr(networks, "memory_bytes", lambda device, n=need: n)
        networks.require_memory(cell, DATASET, CPU)
        monkeypatch.setattr(networks, "memory_bytes", lambda device, n=need: n - 1)
        with pytest.raises(UserError) as caught:
            networks.require_memory(cell, DATASET, CPU)
        assert str(caught.value) == (
            f"lmf has {count:,} weights for features of these widths (text 11, audio 5, vision 6); training "
            f"needs {need / 1e9:.1f} GB of memory, but there are only {need / 1e9:.1f} GB. Use narrower "
            "features, or leave this backbone out."
        )
    monkeypatch.setattr(networks, "memory_bytes", lambda device: 3e9)
    monkeypatch.setattr(networks, "_counts", dict.fromkeys(networks._counts, 123_456_789_000))
    with pytest.raises(UserError, match=r"^lmf has 123,456,789,000 .* 2469.1 GB of .* only 3.0 GB\. Use"):
        networks.require_memory(cells[0], DATASET, CPU)


def test_the_memory_of_a_gpu_is_its_total(monkeypatch):
    cuda = torch.device("cuda", 1)
    monkeypatch.setattr("harness.train.device.start_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: {cuda: (1, 2**40)}[device])
    assert networks.memory_bytes(cuda) == 2**40


def test_the_memory_of_a_machine_includes_its_swap(monkeypatch, tmp_path):
    monkeypatch.setattr(networks, "GROUP_LIMIT", tmp_path / "none")
    for kind, total in (("virtual_memory", 5), ("swap_memory", 7)):
        monkeypatch.setattr(networks.psutil, kind, lambda n=total: SimpleNamespace(total=n))
    assert networks.memory_bytes(CPU) == 12


def test_the_optimizer_is_fused_and_knows_its_first_rates():
    backbone, method = built("tfn", "ms_mix", rules={"learning_rate": 0.25, "weight_decay": 0.125})
    optimizer = make_optimizer(backbone, method)
    defaults = optimizer.defaults
    assert (defaults["fused"], defaults["lr"], defaults["weight_decay"]) == (True, 0.25, 0.125)
    assert all(group["initial_lr"] == group["lr"] for group in optimizer.param_groups)


WIDTH = 8


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """The folder of a random BERT."""
    folder = tmp_path_factory.mktemp("bert")
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(**sizes)).save_pretrained(folder)
    return folder


@over_backbones
def test_text_encoders_replace_the_text_features(backbone_name, bert):
    plain, layers = small_cell(backbone_name, "none"), BACKBONES[backbone_name].text_layers
    split = DATASET.splits["train"]
    states = np.zeros((6, SIZES.steps["text"], layers * WIDTH), np.float32)
    wide = dataclasses.replace(split, features={**split.features, "text": states})
    stacked = Dataset(dict.fromkeys(DATASET.splits, wide), 3.0)
    for finetune, dataset, kind in ((True, DATASET, TextEncoder), (False, stacked, FrozenText)):
        text = dataclasses.replace(plain.text, encoder="bert", finetune=finetune)
        cell = dataclasses.replace(plain, text=text)
        backbone, _ = build(cell, dataset, CPU, bert)
        assert backbone.sizes.widths == {**SIZES.widths, "text": WIDTH}
        encoder = backbone.text_encoder
        assert isinstance(encoder, kind)
        assert encoder.n_layers == layers
        if finetune:
            weights = load_model(bert).state_dict()
            assert same_bits(dict(encoder.model.state_dict()), dict(weights))
        else:
            assert (encoder.folder, encoder.device) == (bert, CPU)
        with pytest.raises(AssertionError) as caught:
            build(cell, dataset, CPU)
        assert str(caught.value).split("\n")[0] == "text=bert needs the folder of its model"
    backbone, _ = build(plain, DATASET, CPU)
    assert (backbone.text_encoder, backbone.sizes.widths) == (None, SIZES.widths)


def test_a_training_is_built_with_its_text_model_and_compiled_if_asked(monkeypatch):
    calls, plain = [], loop.build
    monkeypatch.setattr(loop, "build", lambda *given: calls.append(given[1:]) or plain(*given[:3]))
    monkeypatch.setattr(loop, "compile_steps", lambda backbone: calls.append("compiled"))
    cell, folder = small_cell("tfn", "none", rules={"max_epochs": 1}), Path("model")
    loop.start_or_resume(cell, DATASET, CPU, None, folder)
    loop.train(dataclasses.replace(cell, compile=True), DATASET, CPU, text_model=folder)

    class Bad(Checkpoint):
        def load(self):
            return {}

    loop.start_or_resume(cell, DATASET, CPU, Bad(folder, None, {}), folder)
    given = (DATASET, CPU, folder)
    assert calls == [given, given, "compiled", given, given]


def test_a_fine_tuned_encoder_is_trained_at_its_own_rate(bert, tmp_path):
    asked = [f"var_dir={tmp_path}", "datasets=[synthetic_mosi]", "dataset.synthetic_mosi.clips=12"]
    asked += ["backbones=[lmf]", "methods=[ms_mix]", "seeds=[1]", "text=bert", f"bert.model={bert}"]
    plan = make_plan(load_benchmark([*asked, "bert.learning_rate=0.0625"]))
    [cell], stored = plan.cells, load_dataset(plan.datasets["synthetic_mosi"].folder)
    training = loop.start_or_resume(cell, with_text(stored, cell.text, None), CPU, None, bert)
    encoder = {id(p) for p in training.backbone.text_encoder.parameters()}
    groups = training.optimizer.param_groups
    own = [group for group in groups if encoder & {id(p) for p in group["params"]}]
    assert [id(p) in encoder for group in own for p in group["params"]] == [True] * len(encoder)
    assert {(group["lr"], group["weight_decay"]) for group in own} == {(0.0625, 0)}
    assert all(group["lr"] != 0.0625 for group in groups if group not in own)

"""Precision and compiled steps: part of the identity, set anew for each cell, never compared silently."""

import dataclasses
import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import harness.checks
from backbones import BACKBONES, cpu
from backbones.text import TextEncoder, load_model
from harness.config.compose import load_benchmark, load_sweep
from harness.data.synthetic import SyntheticSettings, generate
from harness.errors import UserError
from harness.matrix import Cell
from harness.plan import make_plan
from harness.tracking.tags import cell_tags
from harness.train.arithmetic import (
    PRECISIONS,
    autocast,
    check_compiler,
    compile_steps,
    plain_steps,
    set_arithmetic,
)
from harness.train.diagnostics import Diagnostics
from harness.train.evaluate import predict
from harness.train.loop import train
from harness.train.networks import build
from harness.train.splits import load_splits
from harness.train.step import step_losses
from methods import METHODS
from methods.base import interpolate
from reports.runs.frame import environment
from tests.perf.gpu_cells import random_bert
from tests.support.builders import PAIRS, make_batch, make_sizes, small_backbone, small_cell

CPU = torch.device("cpu")
TAGS = {"device": "NVIDIA H100", "torch": "2.13.0"}


@pytest.fixture(scope="module")
def dataset():
    return generate(SyntheticSettings("synthetic_mosi", clips=60))[0]


@pytest.fixture
def flags():
    """Restore the flags that cells on CUDA set."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    benchmark = torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.backends.cuda.enable_mem_efficient_sdp(before[1])
    torch.utils.deterministic.fill_uninitialized_memory = fill
    torch.backends.cudnn.benchmark = benchmark


def make_cell(method="ms_mix", **fields) -> Cell:
    return small_cell("tfn", method, rules={"max_epochs": 2}, **fields)


def test_a_request_makes_cells_of_its_precision(tmp_path, monkeypatch):
    monkeypatch.setattr(harness.checks, "resolve_device", lambda name: "cuda")
    asked = [f"var_dir={tmp_path}", "dataset.synthetic_mosi.clips=12", "backbones=[tfn]", "seeds=[1]"]
    more = ["", "precision=tf32", "precision=bf16 compile=true"]
    plans = [make_plan(load_benchmark([*asked, "methods=[none]", *text.split()])) for text in more]
    cells = [plan.cells[0] for plan in plans]
    found = [(cell.precision, cell.compile) for cell in cells]
    assert found == [("fp32", False), ("tf32", False), ("bf16", True)]
    assert len({cell.cell_id for cell in cells}) == 3
    sweep = load_sweep(["param=delta", "precision=bf16", "compile=true"])
    assert (sweep.precision, sweep.compile) == ("bf16", True)


def test_different_arithmetic_is_another_environment():
    kinds = itertools.product(PRECISIONS, (False, True))
    cells = [small_cell(precision=precision, compile=on, results_version=1) for precision, on in kinds]
    assert len({cell.cell_id for cell in cells}) == len({cell.configuration for cell in cells}) == 6
    tags = [cell_tags(cell) for cell in cells]
    found = [environment({**TAGS, **cell}) for cell in tags]
    assert len(set(found)) == 6
    assert found[0] == "NVIDIA H100, torch 2.13.0, results version 1"
    assert found[-1] == "NVIDIA H100, torch 2.13.0, results version 1, bf16, compiled"
    old = {k: v for k, v in tags[0].items() if k not in ("precision", "compile")}
    assert environment({**TAGS, **old}) == found[0], "runs from before there was a choice"


def test_every_cell_sets_all_flags():
    owners = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [owner.allow_tf32 for owner in owners]
    try:
        for precision in ("tf32", "bf16", "tf32", "fp32"):
            set_arithmetic(precision, True, CPU)
            assert [owner.allow_tf32 for owner in owners] == [precision == "tf32"] * 2
    finally:
        for owner, flag in zip(owners, before, strict=True):
            owner.allow_tf32 = flag


def test_on_cuda_deterministic_means_fused_attention_too(flags):
    """PyTorch's fused attention takes deterministic algorithms only if others raise an error."""
    for deterministic in (True, False, True):
        set_arithmetic("fp32", deterministic, torch.device("cuda:0"))
        assert torch.are_deterministic_algorithms_enabled() is deterministic
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.backends.cuda.mem_efficient_sdp_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory


# Operations that raise an error on CUDA under deterministic algorithms, by their names in ATen (from the list
# at `torch.use_deterministic_algorithms`). NLLLoss raises one for images only, `nll_loss2d`.
FORBIDDEN = (
    *("avg_pool3d_backward", "_adaptive_avg_pool", "adaptive_max_pool2d_backward", "fractional_max_pool"),
    *("max_unpool", "upsample", "reflection_pad", "nll_loss2d", "_ctc_loss", "_embedding_bag", "put_", "put"),
    *("histc", "bincount", "kthvalue", "grid_sampler", "cumsum", "resize_", "replication_pad"),
)


class Operations(TorchDispatchMode):
    """Collect the names of all operations, of the backward pass too."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(f"{func.overloadpacket.__name__}.{func._overloadname}")
        return func(*args, **(kwargs or {}))


def forbidden(names):
    bad = {name for name in names if name.partition(".")[0].startswith(FORBIDDEN)}
    # With a dimension, the median also returns indices; a product cannot be scattered in a fixed order.
    return bad | (names & {"median.dim", "scatter_reduce.two", "scatter_reduce_.two"})


@pytest.mark.parametrize(("method", "backbone"), PAIRS)
def test_no_operation_raises_under_deterministic_algorithms(method, backbone, monkeypatch):
    monkeypatch.setattr(cpu, "on_cpu", lambda x: False)
    sizes = make_sizes()
    network = small_backbone(backbone, sizes).train()
    mixing = METHODS[method](METHODS[method].Settings(), network.latent_widths, 3.0).train()
    batch, diagnostics = make_batch(sizes, 6), Diagnostics()
    draw = mixing.draw(np.random.default_rng(0), batch.labels.numpy())
    with Operations() as operations:
        step_losses(network, mixing, batch, draw, diagnostics.watch).total.backward()
        diagnostics.values()
    assert {"mm.default", "native_layer_norm_backward.default"} & operations.names
    assert not forbidden(operations.names)


def test_no_operation_of_a_fine_tuned_encoder_raises(tmp_path):
    encoder = TextEncoder(load_model(Path(random_bert(tmp_path / "bert"))), 2).train()
    tokens = torch.ones(3, 3, 7, dtype=torch.int64)
    with Operations() as operations:
        encoder(SimpleNamespace(tokens=tokens)).square().sum().backward()
    assert "embedding_dense_backward.default" in operations.names
    assert not forbidden(operations.names)


def test_forbidden_operations_are_noticed():
    x = torch.rand(3, 3, requires_grad=True)
    with Operations() as operations:
        x.cumsum(1).sum().backward()
        torch.histc(x.detach())
        x.median(1)
        x.median()
    assert forbidden(operations.names) == {"cumsum.default", "histc.default", "median.dim"}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_lstms_run_in_float32_under_bf16(backbone):
    """Autocast would run cuDNN's in float16, whatever its own type."""
    sizes = make_sizes()
    network = small_backbone(backbone, sizes).train()
    seen = []

    def watch(lstm, inputs, output):
        seen.extend((inputs[0].dtype, output[0].dtype, torch.is_autocast_enabled("cpu")))

    lstms = [module for module in network.modules() if isinstance(module, torch.nn.LSTM)]
    for lstm in lstms:
        lstm.register_forward_hook(watch)
    with autocast("bf16", CPU):
        network(make_batch(sizes, 6))
    assert len(seen) >= 3 * len(lstms)
    assert set(seen) <= {torch.float32, False}


@pytest.mark.parametrize(("method", "backbone"), PAIRS)
def test_losses_and_gradients_are_float32_under_bf16(method, backbone):
    sizes = make_sizes()
    network = small_backbone(backbone, sizes).train()
    mixing = METHODS[method](METHODS[method].Settings(), network.latent_widths, 3.0).train()
    batch, diagnostics = make_batch(sizes, 6), Diagnostics()
    draw = mixing.draw(np.random.default_rng(0), batch.labels.numpy())
    with autocast("bf16", CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
        losses = step_losses(network, mixing, batch, draw, diagnostics.watch)
    losses.total.backward()
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses)
    gradients = [p.grad for p in (*network.parameters(), *mixing.parameters()) if p.grad is not None]
    assert gradients
    assert all(gradient.dtype == torch.float32 and gradient.isfinite().all() for gradient in gradients)
    assert all(np.isfinite(value) for value in diagnostics.values().values())


@pytest.mark.parametrize("k", [2, 3, 6])
def test_mixed_labels_are_not_rounded_under_bf16(k):
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0.6, -1.8, 0.2, 2.4, -3.0, 1.0])
    indices = torch.stack([torch.randperm(6, generator=generator)[:k] for _ in range(6)])
    weights = torch.rand(6, k, generator=generator)
    weights = weights / weights.sum(1, keepdim=True)
    with autocast("bf16", CPU):
        found = interpolate(labels, indices, weights)
    assert torch.equal(found, interpolate(labels, indices, weights))
    torch.testing.assert_close(found, (weights * labels[indices]).sum(1), atol=1e-6, rtol=1e-6)


def test_a_training_in_bf16(dataset):
    precisions = ("fp32", "bf16", "bf16", "fp32")
    results = [train(make_cell(precision=precision), dataset, CPU) for precision in precisions]
    assert {result.predictions.values[0.0].dtype for result in results} == {np.dtype(np.float32)}
    first = [result.curves["train_task_loss"][0] for result in results]
    assert first[0] != first[1] == pytest.approx(first[0], rel=0.05), "the training too"
    exact, rough, again, after = (result.scores for result in results)
    assert exact["test"]["mae"] != rough["test"]["mae"]
    assert rough["test"]["mae"] == pytest.approx(exact["test"]["mae"], rel=0.05)
    assert (again, after) == (rough, exact), "nothing is left of it"
    assert not torch.is_autocast_enabled("cpu")


def test_predictions_in_bf16_are_float32(dataset):
    cell = make_cell(precision="bf16")
    backbone, _ = build(cell, dataset, CPU)
    predictions, labels = predict(cell, backbone, load_splits(cell, dataset, CPU), "valid")
    assert predictions.dtype == labels.dtype == torch.float32
    exact, _ = predict(make_cell(), backbone, load_splits(cell, dataset, CPU), "valid")
    assert not torch.equal(predictions, exact)
    torch.testing.assert_close(predictions, exact, atol=0.1, rtol=0.1)


def test_compiling_leaves_nothing_behind():
    backbone = small_backbone("tfn", make_sizes())
    compile_steps(backbone)
    assert {"encode", "fuse", "head"} <= set(vars(backbone))
    for _ in range(2):
        plain_steps(backbone)
        assert not {"encode", "fuse", "head"} & set(vars(backbone))


@pytest.mark.slow
def test_a_compiled_training(dataset):
    off = dict.fromkeys(("audio_dropout", "vision_dropout", "fusion_dropout"), 0.0)
    plain = small_cell("tfn", rules={"max_epochs": 2, **off})
    compiled = dataclasses.replace(plain, compile=True)
    first, second, exact = (train(cell, dataset, CPU) for cell in (compiled, compiled, plain))
    assert first.scores == second.scores, "the first leaves nothing to the second"
    for name, value in exact.scores["test"].items():
        assert first.scores["test"][name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


@pytest.mark.slow
def test_without_a_compiler():
    from torch._inductor import config

    check_compiler("cpu")
    torch.compiler.reset()
    # Not by monkeypatch, which would hide the setting from later tests when it restores it.
    refusal = r"^compile=true needs a C\+\+ compiler that PyTorch can use .*\.$"
    absent = {"cpp.cxx": ("/nonexistent/compiler",), "force_disable_caches": True}
    with config.patch(absent), pytest.raises(UserError, match=refusal):
        check_compiler("cpu")
    torch.compiler.reset()

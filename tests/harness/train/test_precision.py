"""Precision and compiled steps: part of the identity, set anew for each cell, never compared silently."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

import harness.checks
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
from reports.frame import environment
from tests.support.builders import PAIRS, make_batch, make_sizes, small_backbone, small_cell

CPU = torch.device("cpu")
TAGS = {"device": "NVIDIA H100", "torch": "2.13.0"}


@pytest.fixture(scope="module")
def dataset():
    return generate(SyntheticSettings("synthetic_mosi", clips=60))[0]


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

"""Precision and compiled steps: part of the identity, set anew for each cell, never compared silently."""

import contextlib
import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
import torch

import harness.checks
from backbones import BACKBONES
from backbones.base import resolve_settings
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
    check_precision,
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
from reports.stats.comparison import SCORES, paired
from tests.harness.test_matrix import CELL
from tests.support.builders import make_batch, make_sizes, quick_settings, small_backbone

CPU = torch.device("cpu")
TAGS = {"device": "NVIDIA H100", "torch": "2.13.0"}


@pytest.fixture(scope="module")
def dataset():
    return generate(SyntheticSettings("synthetic_mosi", clips=60))[0]


def make_cell(backbone="tfn", method="ms_mix", **options) -> Cell:
    """A cell with the quick profile's narrow layers."""
    kind = BACKBONES[backbone]
    narrow = {**quick_settings()[backbone], "max_epochs": 2}
    settings = resolve_settings(kind, kind.Settings(**narrow), "mosi")
    data = {"dataset": "synthetic_mosi", "metrics": "mosi", "label_scale": 3.0, "fingerprint": ""}
    networks = {"backbone_settings": settings, "method_settings": METHODS[method].Settings()}
    return Cell(**data, backbone=backbone, method=method, seed=1, **networks, **options)


# Requests


@pytest.mark.parametrize(
    ("precision", "device", "error"),
    [
        ("fp32", "cpu", None),
        *((name, "cuda", None) for name in PRECISIONS),
        *((name, "cpu", f"{name} needs device=cuda.*use precision=fp32") for name in ("tf32", "bf16")),
        ("fp23", "cuda", r"Unknown precision 'fp23'.*Did you mean 'fp32'\?"),
    ],
)
def test_precisions_and_devices(precision, device, error):
    with pytest.raises(UserError, match=error) if error else contextlib.nullcontext():
        check_precision(precision, device)


def test_a_request_makes_cells_of_its_precision(tmp_path, monkeypatch):
    monkeypatch.setattr(harness.checks, "resolve_device", lambda name: "cuda")
    asked = [f"var_dir={tmp_path}", "dataset.synthetic_mosi.clips=12", "backbones=[tfn]", "seeds=[1]"]
    asked.append("methods=[none]")
    more = [[], ["precision=tf32"], ["precision=bf16"], ["compile=true"], ["precision=bf16", "compile=true"]]
    cells = [make_plan(load_benchmark([*asked, *arguments])).cells[0] for arguments in more]
    found = [(cell.precision, cell.compile) for cell in cells]
    assert found == [("fp32", False), ("tf32", False), ("bf16", False), ("fp32", True), ("bf16", True)]
    assert len({cell.cell_id for cell in cells}) == len({cell.configuration for cell in cells}) == 5
    sweep = load_sweep(["param=delta", "precision=bf16", "compile=true"])
    assert (sweep.precision, sweep.compile) == ("bf16", True)


# Reports


def test_different_arithmetic_is_another_environment():
    kinds = itertools.product(PRECISIONS, (False, True))
    cells = [dataclasses.replace(CELL, precision=precision, compile=on) for precision, on in kinds]
    found = [environment({**TAGS, **cell_tags(cell)}) for cell in cells]
    assert len(set(found)) == 6
    assert found[0] == "NVIDIA H100, torch 2.13.0, results version 1"
    assert found[-1] == "NVIDIA H100, torch 2.13.0, results version 1, bf16, compiled"
    old = {k: v for k, v in cell_tags(CELL).items() if k not in ("precision", "compile")}
    assert environment({**TAGS, **old}) == found[0], "runs from before there was a choice"


def test_a_method_is_not_paired_with_a_baseline_of_another_precision():
    def row(method, precision, value):
        cell = dataclasses.replace(CELL, precision=precision)
        names = {"dataset": "mosi", "backbone": "tfn", "method": method, "seed": 1, "metric": "mae"}
        place = {"occlusion_protocol": "test", "occlusion_ratio": 0.0}
        return {**names, **place, "value": value, "environment": environment({**TAGS, **cell_tags(cell)})}

    rows = [row("none", "fp32", 1.0), row("ms_mix", "bf16", 0.9)]
    apart = paired(pd.DataFrame(rows, columns=list(SCORES)), "mae")
    assert apart.empty
    assert apart.attrs == {"unpaired": 1, "environments": 1}
    rows.append(row("none", "bf16", 1.1))
    assert len(paired(pd.DataFrame(rows, columns=list(SCORES)), "mae")) == 1


# Flags


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


# bfloat16: requests refuse it on the CPU, the loop does not.


@pytest.mark.parametrize(("backbone", "method"), list(itertools.product(BACKBONES, METHODS)))
def test_losses_and_gradients_are_float32_under_bf16(backbone, method):
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
    results = {}
    for precision in ("fp32", "bf16"):
        results[precision] = train(make_cell(precision=precision), dataset, CPU)
        assert results[precision].predictions.values[0.0].dtype == np.float32
    exact, rough = (results[precision].scores["test"]["mae"] for precision in ("fp32", "bf16"))
    assert exact != rough
    assert rough == pytest.approx(exact, rel=0.05)
    again = train(make_cell(precision="bf16"), dataset, CPU)
    assert again.scores == results["bf16"].scores
    assert not torch.is_autocast_enabled("cpu")
    assert train(make_cell(), dataset, CPU).scores == results["fp32"].scores, "nothing is left of it"


def test_predictions_in_bf16_are_float32(dataset):
    cell = make_cell(precision="bf16")
    backbone, _ = build(cell, dataset, CPU)
    predictions, labels = predict(cell, backbone, load_splits(cell, dataset, CPU), "valid")
    assert predictions.dtype == labels.dtype == torch.float32
    exact, _ = predict(make_cell(), backbone, load_splits(cell, dataset, CPU), "valid")
    assert not torch.equal(predictions, exact)
    torch.testing.assert_close(predictions, exact, atol=0.1, rtol=0.1)


# Compiled


def test_compiling_leaves_nothing_behind():
    backbone = small_backbone("tfn", make_sizes())
    compile_steps(backbone)
    assert {"encode", "fuse", "head"} <= set(vars(backbone))
    plain_steps(backbone)
    plain_steps(backbone)
    assert not {"encode", "fuse", "head"} & set(vars(backbone))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ms_mix", "manifold_mixup"])
def test_a_compiled_training(dataset, method):
    off = {name: 0.0 for name in ("audio_dropout", "vision_dropout", "fusion_dropout")}
    plain = make_cell(method=method)
    plain = dataclasses.replace(plain, backbone_settings=dataclasses.replace(plain.backbone_settings, **off))
    compiled = dataclasses.replace(plain, compile=True)
    first, second, exact = (train(cell, dataset, CPU) for cell in (compiled, compiled, plain))
    assert first.scores == second.scores, "the first leaves nothing to the second"
    for name, value in exact.scores["test"].items():
        assert first.scores["test"][name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


@pytest.mark.slow
def test_without_a_compiler(monkeypatch):
    from torch._inductor import config

    check_compiler("cpu")
    torch.compiler.reset()
    monkeypatch.setattr(config.cpp, "cxx", ("/nonexistent/compiler",))
    monkeypatch.setattr(config, "force_disable_caches", True)
    with pytest.raises(UserError, match=r"^compile=true needs a C\+\+ compiler that PyTorch can use .*\.$"):
        check_compiler("cpu")
    torch.compiler.reset()

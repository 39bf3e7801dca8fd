"""The GPU check, with the CPU in place of a GPU: what it measures, and which defects it must find."""

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from argparse import Namespace

import numpy as np
import pytest
import torch

from backbones import BACKBONES
from harness.data.store import save_dataset
from harness.data.synthetic import SyntheticSettings, generate
from harness.launchers.inline import InlineLauncher
from harness.train.loop import batches
from tests.perf import gpu, gpu_agreement, gpu_cells
from tests.perf.gpu_agreement import TOLERANCE, UPDATE_TOLERANCE, agreement, without_dropout
from tests.perf.steps import CPU, covered, make_cell, training
from tests.support.inline_child import InlineChild
from tests.support.paths import ROOT

each_backbone = pytest.mark.parametrize(
    "backbone", [b if b == "lmf" else pytest.param(b, marks=pytest.mark.slow) for b in BACKBONES]
)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Measure on one thread, and without further processes."""
    monkeypatch.setattr(gpu_agreement, "usable_cores", lambda: 1)
    monkeypatch.setattr(gpu, "Child", InlineChild)
    monkeypatch.setattr(gpu_cells, "open_pool", lambda device: InlineLauncher(gpu_cells.run_job))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("gpu") / "data"
    save_dataset(generate(SyntheticSettings("synthetic_mosi"))[0], path)
    return str(path)


@pytest.fixture
def options(data):
    parts = ("cells", "agreement", "speed")
    how = {"modes": ("fp32",), "steps": 2, "seconds": 0.0, "packed": (), "parts": parts}
    return Namespace(data=data, device="cpu", **how)


@pytest.mark.slow
def test_the_check_on_the_cpu_writes_and_prints_all_pairs(tmp_path, capsys):
    out = tmp_path / "gpu.json"
    asked = ["--backbones=lmf", "--methods=none,c_mixup,ms_mix", "--packed=2", f"--out={out}", "--size=quick"]
    asked += ["--device=cpu", "--steps=2", "--seconds=0", "--modes=fp32,bf16", "--kinds=fp32,bf16,occluded"]
    assert gpu.main(asked) == 0
    found = json.loads(out.read_text())
    methods = ["none", "c_mixup", "ms_mix"]
    assert [(pair["backbone"], pair["method"]) for pair in found["pairs"]] == [("lmf", m) for m in methods]
    for pair in found["pairs"]:
        assert pair["error"] is None
        assert pair["agreement"]["holds"]
        assert pair["agreement"]["difference"] < 1e-5, "it is the same device"
        timed, packed = pair["method"] in gpu.TIMED, pair.get("packed", {})
        assert set(pair["steps_per_s"]) == ({"fp32", "bf16"} if timed else {"fp32"})
        assert set(packed) == ({"1", "2"} if timed else set())
        numbers = [pair[name] for name in ("evaluated_clips_per_s", "kernel_ms", "peak_memory_mb")]
        numbers += [n for p in (pair["steps_per_s"], *packed.values()) for n in p.values()]
        assert min(numbers) > 0
    kinds = [(cell["method"], cell["kind"], cell["error"]) for cell in found["cells"]]
    plain = [(method, kind, None) for method in methods for kind in ("fp32", "bf16")]
    assert kinds == [*plain, ("ms_mix", "occluded", None)]
    assert (found["gpu"], found["device"], found["failures"]) == (None, "cpu", [])
    assert set(found["paper"]["hours"]) == {"1", "2"}
    assert found["memory"]["lmf"]["estimate_mb"] > 1024
    printed = capsys.readouterr().out
    assert out.with_suffix(".md").read_text() in printed
    assert printed.count("agrees") == 3
    assert "No failures." in printed
    assert "7 of 7 cells trained" in printed
    assert "- lmf: packing assumes" in printed
    assert "| lmf | ms_mix |" in printed


def test_without_a_gpu_nothing_is_checked(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    out = tmp_path / "gpu.json"
    assert gpu.main(["--out", str(out)]) == 3
    assert capsys.readouterr().err == "No CUDA device here; nothing was checked.\n"
    assert not out.exists()


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--methods=none, ms_mx", "Unknown method 'ms_mx'; allowed: .* Did you mean 'ms_mix'[?]"),
        ("--device=cude", "Unknown device 'cude'; allowed: .* Did you mean 'cuda'[?]"),
        ("--kinds=fp3", "Unknown kind 'fp3'; allowed: .* Did you mean 'fp32'[?]"),
        ("--step=3", "Unknown argument '--step'; .* Did you mean '--steps'[?]"),
        ("--steps=0", "A count must be a whole number of at least 1, got '0'[.]"),
        ("--packed=2,two", "A count must be a whole number of at least 1, got 'two'[.]"),
        ("--seconds=x", "Argument --seconds: invalid float value: 'x'[.]"),
        ("--out", "Argument --out: expected one argument[.]"),
    ],
)
def test_a_wrong_request_is_one_sentence(capsys, argument, sentence):
    with pytest.raises(SystemExit, match="2"):
        gpu.main([argument])
    assert re.fullmatch(f"Error: {sentence}\n", capsys.readouterr().err)


def test_it_needs_torch_and_numpy_only():
    blocked = ["mlflow", "hydra", "omegaconf", "optuna", "pandas", "sqlalchemy", "pyarrow", "scipy", "rich"]
    code = f"import sys\nfor name in {blocked}: sys.modules[name] = None\nimport tests.perf.gpu"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


# Agreement


@pytest.mark.parametrize(
    ("backbone", "method"),
    [
        pytest.param(b, method, marks=() if b == "lmf" else mark)
        for method, mark in (("ms_mix", pytest.mark.slow), ("advmixup", pytest.mark.soak))
        for b in BACKBONES
    ],
)
def test_a_rounding_error_stays_within_the_tolerance(options, backbone, method):
    def round_off(steps):
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in steps.backbone.parameters():
                weight.mul_(1 + 3e-7 * torch.randn(weight.shape, generator=generator))

    options.steps = 3
    found = agreement(without_dropout(make_cell(backbone, method)), options, round_off)
    assert 0 < found["difference"] <= TOLERANCE / 5
    assert 0 < found["update"] <= UPDATE_TOLERANCE / 2
    assert found["holds"]


def negate_gradients(steps):
    for weight in steps.backbone.parameters():
        if weight.requires_grad:
            weight.register_hook(lambda gradient: -gradient)


def learn_twice_as_fast(steps):
    for group in steps.optimizer.param_groups:
        group["lr"] *= 2


@pytest.mark.parametrize(
    "wrong",
    [
        learn_twice_as_fast,
        lambda steps: [p.data.mul_(1.05) for p in steps.backbone.parameters()],
        lambda steps: setattr(steps, "cell", dataclasses.replace(steps.cell, seed=2)),
        lambda steps: setattr(steps, "cell", dataclasses.replace(steps.cell, precision="bf16")),
        negate_gradients,
    ],
    ids=["learning rate", "weights", "order of the clips", "precision", "gradients"],
)
def test_a_wrong_training_disagrees(options, wrong):
    found = agreement(without_dropout(make_cell("lmf", "ms_mix")), options, wrong)
    assert found["difference"] > TOLERANCE or found["update"] > UPDATE_TOLERANCE
    assert not found["holds"]


def test_each_step_starts_from_the_cpus_state(options):
    """Each step starts from the CPU's state, so thresholds do not amplify a difference."""
    cell, found = without_dropout(make_cell("lmf", "ms_mix")), []

    def nudge(steps):
        found.append([w.clone() for w in steps.weights()])
        next(steps.backbone.parameters()).data.add_(0.1)

    options.steps = 3
    agreement(cell, options, nudge)
    with gpu_agreement.HostDraws():
        cpu = training(cell, options.data, "cpu")
        for group in cpu.optimizer.param_groups:
            group["eps"] = gpu_agreement.EPSILON
        for weights in found:
            assert all(torch.equal(a, b) for a, b in zip(weights, cpu.weights(), strict=True))
            cpu.first_of_epoch()


def test_differences_are_relative_to_the_total_loss():
    wanted = torch.tensor([[2.0, 1.0, 0.0, 0.0, 0.0], [4.0, 2.0, 0.0, 0.0, 0.0]]).double()
    found = wanted.clone()
    assert gpu_agreement.relative_difference(wanted, found) == 0
    found[1, 3] += 0.1
    assert gpu_agreement.relative_difference(wanted, found) == pytest.approx(0.025)
    assert gpu_agreement.relative_difference(wanted.flip(0), found.flip(0)) == pytest.approx(0.025)
    small = wanted * torch.tensor([[1.0], [1e-6]])
    assert gpu_agreement.relative_difference(small, small + 1e-6) == pytest.approx(5e-7), (
        "by the first step's"
    )
    found[0, 0] = math.nan
    assert gpu_agreement.relative_difference(wanted, found) == math.inf


@each_backbone
def test_without_dropout_and_with_host_draws_the_device_draws_nothing(data, backbone):
    cell = without_dropout(make_cell(backbone, "powmix"))
    with gpu_agreement.HostDraws():
        first, second = (training(cell, data, "cpu").run(1) for _ in range(2))
    assert torch.equal(first, second)
    if backbone != "glomo":  # its gates draw noise, here on the host
        network = training(cell, data, "cpu")
        torch.manual_seed(0)
        state = torch.get_rng_state()
        network.backbone.train()(network.splits.resident["train"].take(np.arange(4)))
        assert torch.equal(torch.get_rng_state(), state)


def test_host_draws_are_the_cpus():
    draws = [lambda: torch.randn(3, device=CPU), lambda: torch.rand((2, 2))]
    draws += [lambda: torch.randn_like(torch.zeros(4)), lambda: torch.ones(2)]
    torch.manual_seed(0)
    wanted = [draw() for draw in draws]
    torch.manual_seed(0)
    with gpu_agreement.HostDraws():
        assert all(torch.equal(draw(), tensor) for draw, tensor in zip(draws, wanted, strict=True))


def test_steps_continue_over_epochs(data):
    steps = training(make_cell("lmf", "none"), data, "cpu")
    per_epoch = len(batches(np.arange(200), steps.cell.backbone_settings.batch_size))
    assert steps.run(2 * per_epoch + 1).shape == (2 * per_epoch + 1, 5)
    assert steps.epoch == 3


def test_a_failure_is_an_error_in_the_table(options, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmore")

    monkeypatch.setattr(gpu, "agreement", full)
    found = gpu.check_pair("lmf", "none", options, {})
    assert found["error"] == "OutOfMemoryError: CUDA out of memory. Tried to allocate"
    [sentence] = gpu.pair_failures([found], "cuda")
    assert sentence == (
        "lmf with none: OutOfMemoryError: CUDA out of memory. Tried to allocate. Repeat it with `python -m "
        "tests.perf.gpu --device=cuda --backbones=lmf --methods=none --parts=agreement,speed`."
    )
    paper = {"trainings": 0, "hours": {}, "assumptions": []}
    report = {
        "gpu": None,
        "torch": "2",
        "data": "d",
        "pairs": [found],
        "cells": [],
        "memory": {},
        "paper": paper,
    }
    shown = list(gpu.table({**report, "failures": [sentence]}))
    assert f"- {sentence}" in shown


def test_a_disagreement_is_a_failure():
    agreed = {"difference": 2e-3, "update": 0.5, "holds": False}
    pair = {"backbone": "b", "method": "m", "error": None, "agreement": agreed}
    [sentence] = gpu.pair_failures([pair], "cuda")
    assert sentence.startswith(
        "b with m disagrees with the CPU: losses differ by 2.0e-03, weights by 5.0e-01 of"
    )


def test_all_modes_are_different_cells():
    cells = [dataclasses.replace(make_cell("tfn", "none"), **changes) for changes in gpu.MODES.values()]
    assert len({cell.cell_id for cell in cells}) == len(gpu.MODES)


def test_the_union_of_intervals():
    assert covered([]) == 0
    assert covered([(3, 4), (0, 2), (1, 2.5), (1, 2), (4, 5)]) == 4.5


def test_processes_that_failed_are_replaced(options):
    crew = []
    with pytest.raises(RuntimeError, match="one of 2 processes failed: KeyError: 'no_such_method'"):
        gpu.together(crew, 2, options, backbone="lmf", method="no_such_method")
    assert crew == []
    for size in (2, 1):
        assert gpu.together(crew, size, options, backbone="lmf", method="none") > 0
    assert len(crew) == 2


def test_mps_is_used_where_it_is_installed(tmp_path, monkeypatch):
    control, calls = tmp_path / "nvidia-cuda-mps-control", tmp_path / "calls"
    control.write_text(f'#!/bin/sh\necho "$CUDA_MPS_PIPE_DIRECTORY $*" >> {calls}\n')
    control.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with gpu.mps() as found, gpu.variables(found):
        assert os.environ["CUDA_MPS_PIPE_DIRECTORY"] == found["CUDA_MPS_PIPE_DIRECTORY"]
    assert "CUDA_MPS_PIPE_DIRECTORY" not in os.environ
    pipe = found["CUDA_MPS_PIPE_DIRECTORY"]
    assert calls.read_text() == f"{pipe} -d\n{pipe} \n"
    control.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    with gpu.mps() as found:
        assert found is None

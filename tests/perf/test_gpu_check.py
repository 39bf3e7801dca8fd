"""The GPU check, with the CPU in place of a GPU: what it measures, and which defects it must find."""

import dataclasses
import json
import math
import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import harness.conf
from backbones import BACKBONES
from harness.data.store import save_dataset
from harness.data.synthetic import SyntheticSettings, generate
from harness.train.loop import batches
from methods import METHODS
from tests.perf import gpu, hours
from tests.perf.gpu import FIRST_TOLERANCE, TOLERANCE, agreement, without_dropout
from tests.perf.hours import EPOCHS, estimated_hours
from tests.perf.steps import CPU, Steps, covered, make_cell, training
from tests.support.inline_child import InlineChild
from tests.support.paths import ROOT

each_backbone = pytest.mark.parametrize(
    "backbone", [b if b == "lmf" else pytest.param(b, marks=pytest.mark.slow) for b in BACKBONES]
)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Measure on one thread, and without further processes."""
    monkeypatch.setattr(gpu, "usable_cores", lambda: 1)
    monkeypatch.setattr(gpu, "Child", InlineChild)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("gpu") / "data"
    save_dataset(generate(SyntheticSettings("synthetic_mosi"))[0], path)
    return str(path)


@pytest.fixture
def options(data):
    return Namespace(data=data, device="cpu", modes=("fp32",), steps=2, seconds=0.0, packed=())


def test_the_check_on_the_cpu_writes_and_prints_all_pairs(tmp_path, capsys):
    out = tmp_path / "gpu.json"
    asked = ["--backbones=lmf", "--methods=none,ms_mix", "--packed=2", f"--out={out}", "--size=quick"]
    assert gpu.main([*asked, "--device=cpu", "--steps=2", "--seconds=0", "--modes=fp32,bf16"]) == 0
    found = json.loads(out.read_text())
    assert [(pair["backbone"], pair["method"]) for pair in found["pairs"]] == [
        ("lmf", "none"),
        ("lmf", "ms_mix"),
    ]
    for pair in found["pairs"]:
        assert (pair["error"], pair["agreement"]["holds"], pair["deterministic"]) == (None, True, True)
        assert pair["agreement"]["first"] <= pair["agreement"]["difference"] < 1e-5, "it is the same device"
        assert (set(pair["steps_per_s"]), set(pair["packed"])) == ({"fp32", "bf16"}, {"1", "2"})
        numbers = [pair[name] for name in ("evaluated_clips_per_s", "kernel_ms", "peak_memory_mb")]
        numbers += [n for p in (pair["steps_per_s"], *pair["packed"].values()) for n in p.values()]
        assert min(numbers) > 0
    assert (found["gpu"], found["device"]) == (None, "cpu")
    assert set(found["paper"]["hours"]) == {"1", "2"}
    printed = capsys.readouterr().out
    assert printed.count("agrees") == 2
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


@each_backbone
def test_a_rounding_error_stays_within_the_tolerance(options, backbone):
    def round_off(steps):
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in steps.backbone.parameters():
                weight.mul_(1 + 1e-7 * torch.randn(weight.shape, generator=generator))

    options.steps = 5
    found = agreement(without_dropout(make_cell(backbone, "ms_mix")), options, round_off)
    assert 0 < found["difference"] <= TOLERANCE / 5
    assert found["first"] <= FIRST_TOLERANCE / 5
    assert found["holds"]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda steps: steps.optimizer.param_groups[0].update(lr=2 * steps.optimizer.param_groups[0]["lr"]),
        lambda steps: [p.data.mul_(1.05) for p in steps.backbone.parameters()],
        lambda steps: setattr(steps, "cell", dataclasses.replace(steps.cell, seed=2)),
        lambda steps: setattr(steps, "cell", dataclasses.replace(steps.cell, precision="bf16")),
    ],
    ids=["learning rate", "weights", "order of the clips", "precision"],
)
def test_a_wrong_training_disagrees(options, wrong):
    options.steps = 5
    found = agreement(without_dropout(make_cell("lmf", "ms_mix")), options, wrong)
    assert found["first"] > FIRST_TOLERANCE or found["difference"] > TOLERANCE
    assert not found["holds"]


def test_differences_are_relative_to_the_total_loss():
    wanted = torch.tensor([[2.0, 1.0, 0.0, 0.0, 0.0], [4.0, 2.0, 0.0, 0.0, 0.0]]).double()
    found = wanted.clone()
    assert gpu.relative_difference(wanted, found) == 0
    found[1, 3] += 0.1
    assert gpu.relative_difference(wanted, found) == pytest.approx(0.025)
    assert gpu.relative_difference(wanted.flip(0), found.flip(0)) == pytest.approx(0.025)
    small = wanted * torch.tensor([[1.0], [1e-6]])
    assert gpu.relative_difference(small, small + 1e-6) == pytest.approx(5e-7), "by the first step's"
    found[0, 0] = math.nan
    assert gpu.relative_difference(wanted, found) == math.inf


@each_backbone
def test_without_dropout_and_with_host_draws_the_device_draws_nothing(data, backbone):
    cell = without_dropout(make_cell(backbone, "powmix"))
    with gpu.HostDraws():
        first, second = (training(cell, data, "cpu").run(1) for _ in range(2))
    assert torch.equal(first, second)
    if backbone != "glomo":  # whose gates draw noise, on the host here
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
    with gpu.HostDraws():
        assert all(torch.equal(draw(), tensor) for draw, tensor in zip(draws, wanted, strict=True))


def test_repeatable_means_the_same_bits(options, monkeypatch):
    cell = make_cell("lmf", "mixup")
    assert gpu.same_bits(cell, options)
    run, moved = Steps.run, iter([0.0, 1e-7])

    def another(steps, n):
        losses = run(steps, n)
        next(steps.backbone.parameters()).data.add_(next(moved))
        return losses

    monkeypatch.setattr(Steps, "run", another)
    assert not gpu.same_bits(cell, options)


def test_steps_continue_over_epochs(data):
    steps = training(make_cell("lmf", "none"), data, "cpu")
    per_epoch = len(batches(np.arange(200), steps.cell.backbone_settings.batch_size))
    assert steps.run(2 * per_epoch + 1).shape == (2 * per_epoch + 1, 5)
    assert steps.epoch == 3


def test_a_failure_is_an_error_in_the_table(options, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmore")

    monkeypatch.setattr(gpu, "agreement", full)
    found = gpu.check_pair("lmf", "none", options, [])
    assert found["error"] == "OutOfMemoryError: CUDA out of memory. Tried to allocate"
    assert not gpu.holds(found)
    paper = {"trainings": 0, "hours": {}, "assumptions": []}
    shown = list(gpu.table({"gpu": None, "torch": "2", "data": "d", "pairs": [found], "paper": paper}))
    assert any("out of memory" in line for line in shown)


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


# Hours


def measured():
    usual = {
        "error": None,
        "steps_per_s": {"fp32": 100.0},
        "evaluated_clips_per_s": 1000.0,
        "packed": {"1": {"steps_per_s": 90.0}, "2": {"steps_per_s": 135.0}},
    }
    return {
        "gpu": "G",
        "pairs": [{**usual, "backbone": b, "method": m} for b in EPOCHS for m in hours.METHODS],
    }


def test_hours_by_hand():
    one = {"gpu": "G", "pairs": measured()["pairs"][:1]}  # tfn, none
    found = estimated_hours(one, {"tfn": 10}, ["none"])
    seconds = 0.0
    for train, valid, test, size in ((1284, 229, 686, 32), (16326, 1871, 4659, 128), (1368, 456, 457, 32)):
        epoch = len(batches(np.arange(train), size)) * size / 32 / 100 + valid / 1000
        for ratios in (10, 1, 1, 1, 1):  # trained clean, or at one of four ratios
            seconds += 5 * (10 * epoch + (valid + ratios * test) / 1000)
    assert found["hours"] == pytest.approx({"1": seconds / 3600, "2": seconds / 3600 / 1.5})
    assert (found["trainings"], found["missing"]) == (3 * 5 * 5, [])
    assert "tfn 10" in found["assumptions"][0]


def test_the_hours_name_the_pairs_that_they_leave_out():
    found = measured()
    whole = estimated_hours(found)
    assert whole["trainings"] == 6 * 8 * 3 * 25
    assert sum(row["1"] for row in whole["backbones"].values()) == pytest.approx(whole["hours"]["1"])
    found["pairs"][0]["error"] = "OutOfMemoryError: no"
    del found["pairs"][-1]
    less = estimated_hours(found)
    assert less["missing"] == ["tfn/none", "glomo/ms_mix"]
    assert less["hours"]["1"] < whole["hours"]["1"]
    assert less["trainings"] == whole["trainings"] - 2 * 75


def test_the_matrix_is_the_paper_profiles():
    paper = OmegaConf.load(Path(harness.conf.__file__).parent / "profile" / "paper.yaml")
    assert (tuple(paper.methods), tuple(paper.datasets)) == (hours.METHODS, hours.DATASETS)
    assert set(hours.METHODS) <= set(METHODS)
    assert list(paper.backbones) == list(EPOCHS)
    counts = len(paper.seeds), len(paper.occlusion.ratios), len(paper.occlusion.train_ratios)
    assert counts == (hours.SEEDS, hours.TEST_RATIOS, hours.TRAIN_RATIOS)

"""The cells of the GPU check, run on the CPU: each failure is a sentence with its command."""

import dataclasses
from argparse import Namespace

import pytest

from harness.data.store import save_dataset
from harness.data.synthetic import SyntheticSettings, generate
from harness.launchers.inline import InlineLauncher
from tests.perf import gpu_cells


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    path = tmp_path_factory.mktemp("gpu") / "data"
    save_dataset(generate(SyntheticSettings("synthetic_mosi"))[0], path)
    return Namespace(data=str(path), device="cpu")


def fail_in_bf16(job):
    if job.cell.precision == "bf16":
        raise RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")
    return gpu_cells.run_job(job)


NUMBERS = iter(range(1000))


def differ(job):
    result = gpu_cells.run_job(job)
    return dataclasses.replace(result, curves={**result.curves, "valid_loss": [next(NUMBERS)]})


def asked(options, **changes):
    chosen = {"backbones": ("lmf",), "methods": ("none", "mixup"), "kinds": ("fp32", "bf16"), **changes}
    return Namespace(**{**vars(options), **chosen})


def test_a_cell_that_fails_is_a_sentence_with_its_command(options, monkeypatch):
    monkeypatch.setattr(gpu_cells, "open_pool", lambda device: InlineLauncher(fail_in_bf16))
    found = gpu_cells.check_cells(asked(options, methods=("mixup",)))
    [sentence] = gpu_cells.failures(found, {}, "cpu")
    assert sentence == (
        "lmf with mixup, bf16: 4 of 4 runs failed: RuntimeError: cuDNN error: CUDNN_STATUS_EXECUTION_FAILED. "
        "Repeat it with `python -m tests.perf.gpu --device=cpu --parts=cells --backbones=lmf --methods=mixup "
        "--kinds=bf16`."
    )


def test_other_bits_are_a_failure_where_the_order_is_fixed(options, monkeypatch):
    monkeypatch.setattr(gpu_cells, "open_pool", lambda device: InlineLauncher(differ))
    found = gpu_cells.check_cells(asked(options, methods=("none",), kinds=("fp32", "fp32_any_order")))
    assert [cell["error"] for cell in found] == ["4 runs give 4 different results", None]


def test_more_memory_than_packing_assumes_is_a_failure():
    memory = {"lmf": {"peak_mb": 3000.0, "estimate_mb": 2000.0}, "tfn": {"peak_mb": 1.0, "estimate_mb": 2.0}}
    [sentence] = gpu_cells.failures([], memory, "cuda")
    assert sentence.startswith("lmf needs 3000 MiB, but packing assumes 2000 MiB. Repeat it with `python -m")
    assert list(gpu_cells.failures([], memory, "cpu")) == []


@pytest.mark.slow
def test_all_kinds_of_cells_through_two_workers(tmp_path):
    """Run the cells of the GPU check on the CPU: two processes, occlusion, a text encoder."""
    save_dataset(generate(SyntheticSettings("synthetic_mosi"))[0], tmp_path / "data")
    chosen = {"backbones": ("lmf",), "methods": ("ms_mix",), "kinds": tuple(gpu_cells.KINDS)}
    found = gpu_cells.check_cells(Namespace(data=str(tmp_path / "data"), device="cpu", **chosen))
    assert [cell["error"] for cell in found] == [None] * len(gpu_cells.KINDS)

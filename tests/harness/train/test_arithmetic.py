"""Flags, devices and compiled steps, as far as a machine without a GPU can tell."""

import contextlib

import pytest
import torch

from harness.errors import UserError
from harness.train import arithmetic
from harness.train.arithmetic import (
    autocast,
    check_compiler,
    check_device,
    check_precision,
    compile_steps,
    plain_steps,
    resolve_device,
    set_arithmetic,
)
from tests.support.builders import make_sizes, small_backbone


@contextlib.contextmanager
def refused(sentence):
    with pytest.raises(UserError) as caught:
        yield
    assert str(caught.value) == sentence


def test_precisions_that_a_device_has():
    for precision, device in (("fp32", "cpu"), ("fp32", "cuda"), ("tf32", "cuda"), ("bf16", "cuda")):
        check_precision(precision, device)
    for precision in ("tf32", "bf16"):
        sentence = f"precision={precision} needs device=cuda, but cells would run on the CPU"
        with refused(f"{sentence}; use precision=fp32."):
            check_precision(precision, "cpu")
    with refused("Unknown precision 'bf32'; allowed: bf16, fp32, tf32. Did you mean 'tf32'?"):
        check_precision("bf32", "cuda")


def test_devices_by_name(monkeypatch):
    for name in ("auto", "cpu", "cuda"):
        check_device(name)
    mps = "device=mps is not supported: no test shows that its results repeat; use device=cpu."
    unknown = "Unknown device 'cudo'; allowed: auto, cpu, cuda. Did you mean 'cuda'?"
    for call in (check_device, resolve_device):
        with refused(mps):
            call("mps")
        with refused(unknown):
            call("cudo")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [resolve_device(name) for name in ("auto", "cpu")] == ["cpu", "cpu"]
    with refused("device=cuda needs a GPU, but PyTorch finds none here; use device=cpu or device=auto."):
        resolve_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [resolve_device(name) for name in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]


def flags():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
        torch.backends.cuda.mem_efficient_sdp_enabled(),
    )


def test_every_cell_sets_the_flags_of_cuda_and_none_of_them_on_the_cpu():
    before, tf32 = flags(), torch.backends.cuda.matmul.allow_tf32
    try:
        for deterministic in (True, False, True):
            torch.backends.cudnn.benchmark = True
            set_arithmetic("fp32", deterministic, torch.device("cuda"))
            assert flags() == (deterministic, False, False, before[3])
            torch.backends.cudnn.benchmark = True
            set_arithmetic("fp32", not deterministic, torch.device("cpu"))
            assert flags() == (deterministic, False, True, before[3])
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = before[2]
        torch.backends.cuda.enable_mem_efficient_sdp(before[3])
        torch.backends.cuda.matmul.allow_tf32 = tf32


def test_only_bf16_changes_what_products_are_computed_in(monkeypatch):
    made = []
    monkeypatch.setattr(torch, "autocast", lambda *given: made.append(given) or contextlib.nullcontext())
    for precision in ("fp32", "tf32", "bf16"):
        with autocast(precision, torch.device("cuda")):
            pass
    assert made == [("cuda", torch.bfloat16)]


@pytest.fixture
def threads():
    from torch._inductor import config

    before = config.compile_threads
    config.compile_threads = 3
    yield config
    config.compile_threads = before


def test_all_steps_are_compiled_for_all_sizes_in_this_process(monkeypatch, threads):
    calls, backbone = [], small_backbone("tfn", make_sizes())
    monkeypatch.setattr(torch.compiler, "reset", lambda: calls.append("reset"))
    monkeypatch.setattr(torch, "compile", lambda step, **options: calls.append((step, options)) or step)
    steps = [getattr(backbone, name) for name in ("encode", "fuse", "head")]
    compile_steps(backbone)
    assert calls == ["reset", *((step, {"dynamic": True}) for step in steps)]
    assert vars(backbone).keys() >= {"encode", "fuse", "head"}
    assert threads.compile_threads == 1
    plain_steps(backbone)
    assert not vars(backbone).keys() & {"encode", "fuse", "head"}


def test_a_compiler_is_tried_on_the_device_and_missed_by_name(monkeypatch, threads):
    seen = []

    def compiled(function, **options):
        assert options == {"dynamic": True}
        return lambda x: seen.append((x.device.type, x.shape, float(function(torch.zeros(2)))))

    monkeypatch.setattr(torch, "compile", compiled)
    check_compiler("meta")
    assert seen == [("meta", (8,), 2.0)]
    assert threads.compile_threads == 1

    def missing(*given, **options):
        raise RuntimeError("no such tool.\nmore")

    monkeypatch.setattr(torch, "compile", missing)
    monkeypatch.setattr(arithmetic.torch, "ones", lambda n, device: torch.zeros(n))
    for device, tool in (("cpu", "a C++ compiler"), ("cuda", "Triton")):
        with refused(f"compile=true needs {tool} that PyTorch can use (no such tool); use compile=false."):
            check_compiler(device)

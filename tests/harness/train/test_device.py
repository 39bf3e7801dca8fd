"""Calls of a cell to CUDA, and their order, with a fake `torch.cuda`; seeds."""

from types import SimpleNamespace

import pytest
import torch

from harness.launchers import job
from harness.launchers.base import Job
from harness.train import device as devices
from harness.train.networks import memory_bytes
from harness.train.result import Diverged
from harness.train.splits import _on_device
from tests.support.builders import small_cell

CPU, FIRST, SECOND = (torch.device(name) for name in ("cpu", "cuda:0", "cuda:1"))
GIB = 2**30


class FakeCuda:
    """Functions of `torch.cuda` that fail as PyTorch's do while CUDA is not initialised."""

    def __init__(self):
        self.calls, self.current, self.started = [], 0, False
        self.default_generators = tuple(torch.Generator() for _ in range(2))

    def init(self):
        self.calls.append("init")
        self.started = True

    def set_device(self, device):
        self.calls.append("set_device")
        self.current = torch.device(device).index

    def current_device(self):
        return self.current

    def reset_peak_memory_stats(self, device):
        if not self.started:
            raise RuntimeError(f"Invalid device argument {device.index}: did you call init?")
        self.calls.append("reset_peak_memory_stats")

    def max_memory_allocated(self, device):
        self.calls.append("max_memory_allocated")
        return 3 * 2**20

    def mem_get_info(self, device):
        return (10 * GIB, 80 * GIB) if self.started else (0, 0)

    def memory_reserved(self, device):
        return 30 * GIB

    def memory_allocated(self, device):
        return 2 * GIB

    def get_device_name(self, device):
        return "NVIDIA H200"

    def get_device_properties(self, device):
        return SimpleNamespace(multi_processor_count=132)


@pytest.fixture
def cuda(monkeypatch):
    fake = FakeCuda()
    for name in ("init", "set_device", "current_device", "reset_peak_memory_stats", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, getattr(fake, name))
    for name in ("mem_get_info", "memory_reserved", "memory_allocated", "get_device_name"):
        monkeypatch.setattr(torch.cuda, name, getattr(fake, name))
    for name in ("get_device_properties", "default_generators"):
        monkeypatch.setattr(torch.cuda, name, getattr(fake, name))
    return fake


def test_a_worker_starts_its_device_before_it_measures_there(cuda, monkeypatch):
    def diverge(*_):
        cuda.calls.append("load")
        raise Diverged("at once")

    monkeypatch.setattr(job, "load_dataset", diverge)
    monkeypatch.setattr(job, "set_arithmetic", lambda *_: None)
    result = job.run_job(Job(small_cell(), "nowhere", "cuda:1"))
    order = list(dict.fromkeys(cuda.calls))
    assert order == ["init", "set_device", "reset_peak_memory_stats", "load", "max_memory_allocated"]
    assert (result.status, result.cell["peak_memory_mb"], cuda.current) == ("diverged", 3.0, 1)


def test_a_device_without_a_number_stays_the_current_one(cuda):
    cuda.current = 1
    devices.start_device(torch.device("cuda"))
    assert (cuda.calls, cuda.current) == (["init"], 1)


def test_memory_is_asked_for_after_the_start(cuda):
    assert devices.total_bytes(SECOND) == memory_bytes(SECOND) == 80 * GIB
    cuda.started = False
    assert devices.free_bytes(SECOND) == 38 * GIB, "with what PyTorch's allocator holds but does not use"


def test_a_dataset_fits_after_a_large_cell_too(cuda):
    def split(gib):
        return SimpleNamespace(features={"text": SimpleNamespace(nbytes=gib * GIB)})

    assert _on_device(split(12), FIRST, "auto"), "a third of 38 GiB; CUDA alone would call 10 GiB free"
    assert not _on_device(split(13), FIRST, "auto")
    assert [_on_device(split(99), FIRST, "device"), _on_device(split(0), FIRST, "host")] == [True, False]


def test_the_name_of_a_device_tells_its_multiprocessors(cuda):
    assert devices.device_name(FIRST) == "NVIDIA H200 (132 multiprocessors)"
    assert devices.device_name(CPU) == "cpu"


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_a_seed_gives_the_streams_of_manual_seed(cuda, seed):
    torch.manual_seed(seed)
    wanted = torch.rand(5), torch.Generator().manual_seed(seed).get_state()
    devices.start_device(SECOND)
    before = cuda.default_generators[0].get_state()
    devices.set_seed(seed, SECOND)
    assert torch.equal(torch.rand(5), wanted[0])
    assert torch.equal(cuda.default_generators[1].get_state(), wanted[1])
    assert torch.equal(cuda.default_generators[0].get_state(), before), "that of another GPU"


def test_a_seed_formats_no_stack_traces(monkeypatch):
    def formatted():
        raise AssertionError("a stack trace was formatted")

    monkeypatch.setattr("traceback.format_stack", formatted)
    devices.set_seed(1, CPU)

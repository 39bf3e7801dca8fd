"""How many workers share a GPU, from made up memory and cores; the memory of a worker."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backbones import BACKBONES
from backbones.base import resolve_settings
from harness.data.store import save_dataset
from harness.data.synthetic import SyntheticSettings, generate
from harness.launchers import gpu_sharing
from harness.launchers.gpu_sharing import (
    CONTEXT_BYTES,
    TEXT_BYTES,
    Allocation,
    allocate,
    allocation_of,
    cell_bytes,
    dataset_bytes,
    worker_bytes,
)
from harness.matrix import Cell
from methods import METHODS

GIB = 2**30


@pytest.mark.parametrize(
    ("jobs", "per_gpu", "free", "need", "cores", "wanted"),
    [
        (None, None, [80 * GIB], 3 * GIB, 16, 16),  # the cores decide
        (None, None, [80 * GIB], 9 * GIB, 16, 8),  # the memory decides
        (None, None, [80 * GIB, 20 * GIB], 9 * GIB, 16, 4),  # that of the fullest GPU
        (None, None, [80 * GIB, 80 * GIB], 9 * GIB, 32, 16),
        (None, None, [2 * GIB], 9 * GIB, 16, 1),  # one is tried all the same
        (None, 3, [2 * GIB], 0, 2, 3),  # what was asked for
        (None, 3, [2 * GIB] * 4, 0, 2, 12),
        (5, 3, [2 * GIB] * 4, 0, 2, 5),
    ],
)
def test_the_number_of_workers(jobs, per_gpu, free, need, cores, wanted):
    found = allocate(jobs, per_gpu, free, need, cores)
    assert found.jobs == wanted
    assert found.devices == tuple(f"cuda:{k}" for k in range(min(len(free), wanted)))


@given(
    free=st.lists(st.integers(0, 200 * GIB), min_size=1, max_size=8),
    need=st.integers(0, 50 * GIB),
    cores=st.integers(0, 64),
)
def test_workers_fit_into_memory_and_cores(free, need, cores):
    jobs = allocate(None, None, free, need, cores).jobs
    assert jobs == 1 or (jobs <= cores and -(-jobs // len(free)) * need <= min(free))


def make_cell(backbone, dataset, method="mixup", **changes):
    kind = BACKBONES[backbone]
    settings = resolve_settings(kind, kind.Settings(**changes), "mosi")
    data = {"dataset": "a", "metrics": "mosi", "label_scale": dataset.label_scale, "fingerprint": ""}
    networks = {"backbone_settings": settings, "method_settings": METHODS[method].Settings()}
    return Cell(**data, backbone=backbone, method=method, seed=1, **networks)


@pytest.fixture(scope="module")
def dataset():
    return generate(SyntheticSettings("synthetic_mosi", clips=30))[0]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_what_a_worker_takes(backbone, dataset):
    small, large = (make_cell(backbone, dataset, batch_size=size) for size in (8, 32))
    plain = make_cell(backbone, dataset, "none", batch_size=16)
    state = torch.get_rng_state()
    found = cell_bytes(small, dataset)
    assert found == cell_bytes(small, dataset)
    assert found < cell_bytes(large, dataset)
    assert cell_bytes(plain, dataset) == found, "16 clean clips are as many as 8 with 8 mixed ones"
    torch.set_rng_state(state)


def test_attention_counts_as_on_cuda():
    """There its weights are kept, (B, heads, T, T) in float32, twice or more with dropout."""
    dataset = generate(SyntheticSettings("synthetic_mosi", size="full", clips=12))[0]
    cell = make_cell("glomo", dataset)
    s = cell.backbone_settings
    weights = sum(2 * s.batch_size * s.n_heads * steps**2 * 4 for steps in (375, 500)) * s.encoder_layers
    assert 1.5 * weights < cell_bytes(cell, dataset) < 8 * weights


def test_the_largest_cell_decides(dataset, tmp_path):
    save_dataset(dataset, tmp_path / "a")
    cells = [make_cell(name, dataset) for name in ("tfn", "lmf")]
    each = [worker_bytes([cell], {"a": tmp_path / "a"}, True) for cell in cells]
    assert worker_bytes(cells, {"a": tmp_path / "a"}, True) == max(each)
    host = worker_bytes(cells[:1], {"a": tmp_path / "a"}, False)
    assert each[0] - host == dataset_bytes(dataset)
    assert host > CONTEXT_BYTES
    assert worker_bytes([], {}, True) == CONTEXT_BYTES


def test_a_text_encoder_is_assumed(dataset):
    cell = SimpleNamespace(text=SimpleNamespace(encoder="bert", finetune=True))
    assert cell_bytes(cell, dataset) == TEXT_BYTES[True]


def test_requests(dataset, tmp_path, monkeypatch):
    save_dataset(dataset, tmp_path / "a")
    cells, folders = [make_cell("lmf", dataset)], {"a": tmp_path / "a"}

    def request(**given):
        config = {"jobs": None, "jobs_per_gpu": None, **given}
        data, cell = SimpleNamespace(resident="auto"), SimpleNamespace(threads=2)
        return SimpleNamespace(**config, data=data, cell=cell)

    assert allocation_of(request(), cells, folders, "cpu") == Allocation(None)
    assert allocation_of(request(jobs=3, jobs_per_gpu=9), cells, folders, "cpu") == Allocation(3)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda index: (80 * GIB, 80 * GIB))
    monkeypatch.setattr(gpu_sharing, "usable_cores", lambda: 12)
    gpus = ("cuda:0", "cuda:1")
    assert allocation_of(request(), cells, folders, "cuda") == Allocation(6, gpus), "two threads each"
    assert allocation_of(request(jobs_per_gpu=5), cells, folders, "cuda") == Allocation(10, gpus)
    assert allocation_of(request(jobs=1), cells, folders, "cuda") == Allocation(1, gpus[:1])

"""How many workers share a GPU, from made-up memory and cores; the memory of a worker."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from backbones import BACKBONES
from backbones.base import resolve_settings
from harness.data.store import save_dataset
from harness.data.synthetic import SyntheticSettings, generate
from harness.errors import UserError
from harness.launchers import gpu_sharing
from harness.launchers.gpu_sharing import Allocation, allocate, allocation_of, cell_bytes, worker_bytes
from tests.support.builders import small_cell

GIB = 2**30


@pytest.mark.parametrize(
    ("jobs", "per_gpu", "free", "need", "cores", "wanted"),
    [
        (None, None, [80 * GIB], 3 * GIB, 16, 16),  # the cores decide
        (None, None, [80 * GIB], 9 * GIB, 16, 8),  # the memory decides
        (None, None, [81 * GIB], 9 * GIB, 16, 8),  # not all of it
        (None, None, [80 * GIB, 20 * GIB], 9 * GIB, 16, 4),  # that of the fullest GPU
        (None, None, [80 * GIB, 80 * GIB], 9 * GIB, 32, 16),
        (None, None, [2 * GIB], 9 * GIB, 16, 1),  # one worker is tried anyway
        (None, 3, [2 * GIB], 0, 2, 3),  # as requested
        (None, 3, [2 * GIB] * 4, 0, 2, 12),
        (5, 3, [2 * GIB] * 4, 0, 2, 5),
    ],
)
def test_the_number_of_workers(jobs, per_gpu, free, need, cores, wanted):
    allocation = allocate(jobs, per_gpu, free, need, cores)
    assert allocation == (wanted, tuple(f"cuda:{k}" for k in range(min(len(free), wanted))))


@given(
    free=st.lists(st.integers(0, 200 * GIB), min_size=1, max_size=8),
    need=st.integers(0, 50 * GIB),
    cores=st.integers(0, 64),
)
def test_workers_fit_into_memory_and_cores(free, need, cores):
    jobs = allocate(None, None, free, need, cores).jobs
    assert jobs == 1 or (jobs <= cores and -(-jobs // len(free)) * need <= min(free))


@pytest.fixture(scope="module")
def dataset():
    return generate(SyntheticSettings("synthetic_mosi", clips=30))[0]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_what_a_worker_takes(backbone, dataset):
    small, large = (small_cell(backbone, "mixup", rules={"batch_size": size}) for size in (8, 32))
    plain = small_cell(backbone, "none", rules={"batch_size": 16})
    torch.manual_seed(0)
    need = cell_bytes(small, dataset)
    torch.manual_seed(1)
    assert need == cell_bytes(small, dataset)
    assert need < cell_bytes(large, dataset)
    assert cell_bytes(plain, dataset) == need, "16 clean clips are as many as 8 with 8 mixed ones"


@pytest.mark.parametrize(
    ("backbone", "weights"),
    [
        ("glomo", lambda s: (375**2 + 500**2) * s.encoder_layers),
        # Encoders from each modality to each other one, then three layers or more on each.
        ("mult", lambda s: 2 * (50 * 875 + 375 * 500) * s.n_layers + 3 * (50**2 + 375**2 + 500**2)),
    ],
)
def test_attention_counts_as_on_cuda(backbone, weights):
    """Fused kernels keep no attention weights, (B, heads, T, S), with dropout or without."""
    dataset = generate(SyntheticSettings("synthetic_mosi", size="full", clips=12))[0]
    kind = BACKBONES[backbone]
    cell = small_cell(backbone, rules=resolve_settings(kind, kind.Settings(), "mosi"))
    s = cell.backbone_settings
    width = s.model_dim if backbone == "glomo" else s.latent_dim
    clips = 2 * s.batch_size
    need = cell_bytes(cell, dataset)
    assert need < clips * s.n_heads * weights(s) * 4
    assert need > clips * (375 + 500) * width * 4 * 10, "ten sequences or more in each layer's backward pass"


def test_fused_attention_leaves_out_dropout_alone():
    q, k, v = torch.rand(3, 2, 4, 5, 8)
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    wanted = F.scaled_dot_product_attention(q, k, v, mask, scale=0.5)
    for arguments in ((mask, 0.9), (mask,)):
        with gpu_sharing.FusedAttention():
            found = F.scaled_dot_product_attention(q, k, v, *arguments, scale=0.5)
        assert torch.equal(found, wanted)
    with gpu_sharing.FusedAttention():
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=0.9, scale=0.5)
        assert torch.equal(found, wanted)
        assert torch.equal(torch.relu(q), q), "other functions are as they were"


def test_the_largest_cell_decides(dataset, tmp_path):
    save_dataset(dataset, tmp_path / "toy")
    cells, folders = [small_cell(name) for name in ("tfn", "lmf")], {"toy": tmp_path / "toy"}
    each = [worker_bytes([cell], folders, True) for cell in cells]
    assert worker_bytes(cells, folders, True) == max(each)
    host = worker_bytes(cells[:1], folders, False)
    features = [x for split in dataset.splits.values() for x in split.features.values()]
    assert each[0] - host == sum(x.nbytes for x in features)
    assert host > worker_bytes([], {}, True) == GIB


def test_a_text_encoder_is_assumed(dataset):
    for finetune, gib in ((True, 8), (False, 2)):
        cell = SimpleNamespace(text=SimpleNamespace(encoder="bert", finetune=finetune))
        assert cell_bytes(cell, dataset) == gib * GIB


def test_requests(dataset, tmp_path, monkeypatch):
    save_dataset(dataset, tmp_path / "toy")

    def requested(device, jobs=None, jobs_per_gpu=None):
        data, cell = SimpleNamespace(resident="auto"), SimpleNamespace(threads=2)
        config = SimpleNamespace(jobs=jobs, jobs_per_gpu=jobs_per_gpu, data=data, cell=cell)
        return allocation_of(config, [small_cell()], {"toy": tmp_path / "toy"}, device)

    assert requested("cpu") == Allocation(None)
    assert requested("cpu", 3, 9) == Allocation(3)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr(gpu_sharing, "free_memory", lambda: [80 * GIB, 80 * GIB])
    monkeypatch.setattr(gpu_sharing, "usable_cores", lambda: 12)
    gpus = ("cuda:0", "cuda:1")
    assert requested("cuda") == Allocation(6, gpus), "two threads each"
    assert requested("cuda", jobs_per_gpu=5) == Allocation(10, gpus)
    assert requested("cuda", jobs=1) == Allocation(1, gpus[:1])


def test_the_driver_asks_for_memory_in_another_process(monkeypatch):
    """A CUDA context of the driver would hold memory on every GPU."""
    monkeypatch.setattr("torch.cuda.init", lambda: pytest.fail("the driver started CUDA"))
    monkeypatch.setattr(gpu_sharing, "ASK", "print(3, 2**36)")
    assert gpu_sharing.free_memory() == [3, 2**36]
    monkeypatch.setattr(gpu_sharing, "ASK", "raise RuntimeError('no driver')")
    message = r"^The memory of the GPUs cannot be read [(]RuntimeError: no driver[)]; give jobs_per_gpu=N[.]$"
    with pytest.raises(UserError, match=message):
        gpu_sharing.free_memory()

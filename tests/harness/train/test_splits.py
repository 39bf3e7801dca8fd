"""Splits on their device, and the measured peak of memory, with a fake GPU."""

import dataclasses
import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from backbones.batch import MODALITIES
from harness.data.occlusion import occlude
from harness.train.device import peak_memory_mb, reset_peak_memory
from harness.train.splits import ResidentSplit, load_splits
from tests.support.builders import make_dataset, make_sizes, small_cell

CPU, CUDA, META = (torch.device(name) for name in ("cpu", "cuda", "meta"))
DATASET = make_dataset(make_sizes(), (5, 4, 3))
SPLIT = DATASET.splits["train"]


def tensors_of(batch):
    return [*batch.features.values(), *batch.lengths.values(), batch.labels, batch.tokens]


@pytest.mark.parametrize("resident", ["auto", "device", "host"])
def test_a_batch_has_the_clips_asked_for(resident):
    tokens = np.arange(5 * 3 * 2).reshape(5, 3, 2)
    split = dataclasses.replace(SPLIT, tokens=tokens)
    for given in (split, SPLIT):
        batch = ResidentSplit(given, CPU, resident).take(np.array([3, 0]))
        for m in MODALITIES:
            np.testing.assert_array_equal(batch.features[m], SPLIT.features[m][[3, 0]])
            np.testing.assert_array_equal(batch.lengths[m], SPLIT.lengths[m][[3, 0]])
        np.testing.assert_array_equal(batch.labels, SPLIT.labels[[3, 0]])
        assert (batch.tokens is None) == (given is SPLIT)
    assert ResidentSplit(split, CPU).take(np.array([3])).tokens.tolist() == tokens[[3]].tolist()


@pytest.mark.parametrize("resident", ["auto", "device", "host"])
def test_a_split_stays_where_it_should_and_batches_come_to_the_device(resident, monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: pinned.append(len(x)) or x)
    split = dataclasses.replace(SPLIT, tokens=np.zeros((5, 3, 2), np.int64))
    made = ResidentSplit(split, META, resident)
    home = "cpu" if resident == "host" else "meta"
    held = [*made.features.values(), *made.lengths.values(), made.labels, made.tokens]
    assert {x.device.type for x in held} == {home}
    batch = made.take(np.array([3, 0]))
    assert {(x.device.type, len(x)) for x in tensors_of(batch)} == {("meta", 2)}
    assert pinned == ([2] * 8 if resident == "host" else [])


def test_a_split_that_fills_less_than_a_third_of_the_gpu_goes_there(monkeypatch):
    size, asked = sum(x.nbytes for x in SPLIT.features.values()), []

    class Moved(Exception): ...

    def to(x, device, **options):
        raise Moved(device.type)

    monkeypatch.setattr(torch.Tensor, "to", to)
    for free, place in ((3 * size, "cpu"), (3 * size + 3, "cuda")):
        monkeypatch.setattr(
            "harness.train.splits.free_bytes", lambda device, n=free: asked.append(device) or n
        )
        with pytest.raises(Moved, match=place):
            ResidentSplit(SPLIT, CUDA)
        with pytest.raises(Moved, match=place):
            load_splits(small_cell(), DATASET, CUDA)
    assert asked == [CUDA] * 4
    for resident, place in (("device", "cuda"), ("host", "cpu")):
        with pytest.raises(Moved, match=place):
            ResidentSplit(SPLIT, CUDA, resident)
    assert len(asked) == 4


def test_all_splits_are_loaded_with_their_masks():
    cell = small_cell(mask_seed=3)
    splits = load_splits(cell, DATASET, META, "host")
    assert list(splits.resident) == list(splits.fields) == ["train", "valid", "test"]
    for name, split in splits.resident.items():
        assert (split.split, split.device) == (DATASET.splits[name], META)
        assert split.labels.device == CPU
        index = np.arange(len(split))
        batch, fields = ResidentSplit(split.split, CPU).take(index), []
        for seed in (3, 4):
            made = load_splits(dataclasses.replace(cell, mask_seed=seed), DATASET, CPU)
            fields.append(made.fields[name])
        same, again, other = (
            occlude(batch, 0.5, field.of(batch, index)).features["text"]
            for field in (splits.fields[name], *fields)
        )
        assert torch.equal(same, again)
        assert not torch.equal(same, other)


def test_the_peak_of_a_gpu_is_that_of_this_device(monkeypatch):
    reset = []
    monkeypatch.setattr("harness.train.device.start_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: {CUDA: 3 * 2**20}[device])
    monkeypatch.setattr(Path, "write_text", None)
    reset_peak_memory(CUDA)
    assert reset == [CUDA]
    assert peak_memory_mb(CUDA) == 3


def test_the_peak_of_the_cpu_is_that_since_the_reset(monkeypatch):
    written = []
    monkeypatch.setattr(Path, "write_text", lambda path, text: written.append((str(path), text)))
    reset_peak_memory(CPU)
    assert written == [("/proc/self/clear_refs", "5")]
    status = "Name:\tx\nVmPeak:\t 9 kB\nVmHWM:\t  2048 kB\nVmRSS:\t 1 kB\n"
    monkeypatch.setattr(Path, "read_text", lambda path: {"/proc/self/status": status}[str(path)])
    assert peak_memory_mb(CPU) == 2
    usage = {resource.RUSAGE_SELF: type("Usage", (), {"ru_maxrss": 5120})}
    monkeypatch.setattr(resource, "getrusage", usage.__getitem__)

    def absent(path, *given):
        raise FileNotFoundError(str(path))

    for read in (lambda path: "Name:\tx\n", absent):
        monkeypatch.setattr(Path, "read_text", read)
        assert peak_memory_mb(CPU) == 5
    monkeypatch.setattr(Path, "write_text", absent)
    reset_peak_memory(CPU)

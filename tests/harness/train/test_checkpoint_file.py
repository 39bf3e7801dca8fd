"""The checkpoint's file: states survive bit for bit, and a damaged file is no state."""

import dataclasses
import errno
import functools
import logging
import os
import signal

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.code import code_tags
from harness.files import remove_files_of
from harness.train import checkpoint as module
from harness.train.checkpoint import Checkpoint, identity_of, serialize
from tests.support.builders import same_bits, small_cell
from tests.support.forking import forked


def tensors():
    """One of each kind that a state may hold, NaN with a payload and negative zero among them."""
    floats = [0.0, -0.0, float("inf"), -1.5, 1e-40, 3.0]
    made = {str(t): torch.tensor(floats).to(t) for t in (torch.float16, torch.bfloat16, torch.float32)}
    made["double"] = torch.tensor(floats, dtype=torch.float64)
    made["nan"] = torch.tensor([0x7FC00001, 0x7F800001, -1], dtype=torch.int32).view(torch.float32)
    made["complex"] = torch.tensor([1 + 2j, -0.0j])
    for t in (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8):
        made[str(t)] = torch.tensor([0, 1, 100], dtype=t)
    made["bool"] = torch.tensor([[True, False], [False, True]])
    made["scalar"] = torch.tensor(7.25)
    made["bool scalar"] = torch.tensor(True)
    made["empty"] = torch.empty(0, 3)
    made["turned"] = torch.arange(6.0).reshape(2, 3).T
    made["part"] = torch.arange(12).reshape(3, 4)[:, ::2]
    return made


plain = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=4)
keys = st.text(max_size=4) | st.integers()
states = st.recursive(
    plain | st.sampled_from(list(tensors().values())),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(keys, inner, max_size=3),
    ),
    max_leaves=12,
)


def saved(path, state, **identity):
    checkpoint = Checkpoint(path, 0, identity)
    checkpoint.save(state)
    return checkpoint


def test_every_kind_of_tensor_survives_bit_for_bit(tmp_path):
    given = tensors()
    found = saved(tmp_path / "c.npz", given).load()
    assert same_bits(found, given)
    assert not same_bits(found | {"scalar": torch.tensor(7.5)}, given)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=states)
def test_states_survive_bit_for_bit(state, tmp_path):
    assert same_bits(saved(tmp_path / "c.npz", state).load(), state)


def test_what_is_neither_plain_nor_a_tensor_is_refused():
    for value in (object(), {1}, np.zeros(3), b"bytes"):
        with pytest.raises(TypeError, match="cannot hold"):
            serialize({"x": [value]}, {})


SMALL = {"w": torch.arange(5.0), "step": torch.tensor(3.0), "curves": {"loss": [0.1, 0.2]}}


@pytest.fixture(scope="module")
def small_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "c.npz"
    saved(path, SMALL)
    return path.read_bytes()


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_never_taken_for_a_state(small_file, tmp_path, data):
    damaged = bytearray(small_file)
    if data.draw(st.booleans()):
        damaged = damaged[: data.draw(st.integers(0, len(damaged) - 1))]
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "c.npz"
    path.write_bytes(damaged)
    logging.disable()
    try:
        found = Checkpoint(path, 0, {}).load()
    finally:
        logging.disable(logging.NOTSET)
    assert found is None or same_bits(found, SMALL)


@pytest.mark.parametrize("broken", ["fsync", "replace", "mkdir", "savez"])
def test_a_write_that_fails_leaves_the_file_before(broken, tmp_path, caplog, monkeypatch):
    path = tmp_path / "c.npz"
    checkpoint = saved(path, SMALL)

    def fail(*given, **more):
        raise OSError(errno.ENOSPC, "No space left on device")

    owner = {"fsync": os, "savez": np}.get(broken, type(path))
    with monkeypatch.context() as patched:
        patched.setattr(owner, broken, fail)
        for _ in range(3):
            checkpoint.save({"w": torch.zeros(2)})
    why = "[Errno 28] No space left on device"
    sentence = f"cannot write a checkpoint; training continues without one: {why}"
    assert [record.getMessage() for record in caplog.records] == [sentence]
    assert [p.name for p in tmp_path.iterdir()] == ["c.npz"]
    assert same_bits(checkpoint.load(), SMALL)
    checkpoint.save({"w": torch.zeros(2)})
    assert same_bits(checkpoint.load(), {"w": torch.zeros(2)})


def test_a_killed_write_leaves_the_file_before(tmp_path):
    """The process dies at any step of the write; the next write removes the temporary file."""
    checkpoint = saved(tmp_path / "c.npz", SMALL)

    def save_and_die(owner, step):
        setattr(owner, step, lambda *given: os.kill(os.getpid(), signal.SIGKILL))
        checkpoint.save({"w": torch.zeros(2)})

    for step in ((os, "fsync"), (type(tmp_path), "replace")):
        assert forked(functools.partial(save_and_die, *step)) == -signal.SIGKILL
        assert len(list(tmp_path.iterdir())) == 2
        assert same_bits(checkpoint.load(), SMALL)
    checkpoint.save(SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["c.npz"]


def test_it_is_due_when_the_time_has_passed_since_the_last_write(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    checkpoint, never = (Checkpoint(tmp_path / "c.npz", every_s, {}) for every_s in (10, None))
    assert not checkpoint.due()
    now = 110.0
    assert checkpoint.due()
    assert not never.due()
    checkpoint.save(SMALL)
    now = 119.0
    assert not checkpoint.due()
    now = 120.0
    assert checkpoint.due()


def test_discard_removes_all_of_a_cell_and_nothing_else(tmp_path):
    for name in ("a.npz", "a.123.tmp", "b.npz", "ab.npz"):
        (tmp_path / name).write_text("")
    remove_files_of({"a", "c"}, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ab.npz", "b.npz"]
    remove_files_of({"a"}, tmp_path / "nowhere")


def test_what_a_checkpoint_must_agree_with(monkeypatch):
    """A file of an earlier version has the same names."""
    cell = small_cell()
    monkeypatch.setattr(torch, "__version__", "1.2")
    monkeypatch.setattr(np, "__version__", "3.4")
    monkeypatch.setattr(module.platform, "machine", lambda: "x86")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX9")
    wanted = {"cell": cell.cell_id, "device": "x86 AVX9", "torch": "1.2", "numpy": "3.4", **code_tags(cell)}
    assert identity_of(cell, torch.device("cpu")) == wanted
    cuda = torch.device("cuda", 1)
    monkeypatch.setattr(module, "device_name", lambda device: {cuda: "H100"}[device])
    assert identity_of(cell, cuda) == wanted | {"device": "H100"}
    text = dataclasses.replace(cell, text=dataclasses.replace(cell.text, encoder="bert"))
    monkeypatch.setattr(module.metadata, "version", lambda name: {"transformers": "5.6"}[name])
    own = {"cell": text.cell_id, "transformers": "5.6"}
    assert identity_of(text, torch.device("cpu")) == wanted | own
    assert Checkpoint("c.npz", None, own).identity == {"format": "1", **own}


def rewritten(path, change):
    """The file with its text changed."""
    with np.load(path) as stored:
        arrays = dict(stored)
    text = arrays.pop("text").tobytes().decode()
    assert change(text) != text
    np.savez(path.open("wb"), text=np.frombuffer(change(text).encode(), np.uint8), **arrays)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text.replace('"cell": "a"', '"cell": "b"'), "its cell is 'b', not 'a'"),
        (lambda text: text.replace('"cell": "a"', '"sell": "a"'), "its cell is None, not 'a'"),
        (lambda text: text.replace('"format": "1"', '"format": "2"'), "its format is '2', not '1'"),
        (lambda text: text.replace('"float32", [5]', '"load", [5]'), "load is not a dtype"),
        (lambda text: text.replace('"float32", [5]', '"float32", [6]'),
         "the array tensor0 does not match the size of its tensor"),
        (lambda text: text.replace('"float32", [5]', '"float64", [5]'),
         "the array tensor0 does not match the size of its tensor"),
        (lambda text: text.replace('"float32", [5]', '"float16", [5, 3]'),
         "the array tensor0 does not match the size of its tensor"),
    ],
)  # fmt: skip
def test_why_a_file_is_ignored(tmp_path, caplog, change, reason):
    path = tmp_path / "c.npz"
    checkpoint = saved(path, SMALL, cell="a")
    rewritten(path, change)
    assert checkpoint.load() is None
    sentence = f"the checkpoint {path} is ignored, and the cell starts over: {reason}"
    assert [record.getMessage() for record in caplog.records] == [sentence]


def test_an_array_of_other_numbers_is_no_tensor(tmp_path, caplog):
    path = tmp_path / "c.npz"
    checkpoint = saved(path, {"w": torch.zeros(4, dtype=torch.uint8)})
    with np.load(path) as stored:
        arrays = dict(stored)
    np.savez(path.open("wb"), **(arrays | {"tensor0": np.zeros(4, np.int8)}))
    assert checkpoint.load() is None
    assert caplog.text.count("the array tensor0 does not match the size of its tensor") == 1


def test_a_missing_file_is_no_state_and_says_nothing_and_its_folder_is_made(tmp_path, caplog):
    path = tmp_path / "a" / "b" / "c.npz"
    assert Checkpoint(path, 0, {}).load() is None
    assert not caplog.records
    assert same_bits(saved(path, SMALL).load(), SMALL)
    assert not saved(path, SMALL).pauses(9)
    for epoch, pauses in ((1, False), (2, True), (3, True)):
        assert Checkpoint(path, 0, {}, pause_after=2).pauses(epoch) == pauses


def test_a_refused_value_is_named_by_its_type():
    with pytest.raises(TypeError, match=r"^a checkpoint cannot hold a ndarray$"):
        serialize({"x": [np.zeros(3)]}, {})

"""Checkpoints: a training cut off anywhere ends with the same bits, whatever file it finds."""

import dataclasses
import itertools
import json
import os
import random
import signal
import time

import numpy as np
import pytest
import torch

from backbones import BACKBONES
from harness.config.compose import load_benchmark
from harness.data.store import save_dataset
from harness.errors import UserError
from harness.launchers.base import Job
from harness.launchers.job import run_job
from harness.matrix import Cell
from harness.plan import make_plan
from harness.tracking.tracker import Tracker
from harness.train.checkpoint import Checkpoint, deserialize, identity_of, serialize
from harness.train.loop import start_or_resume, train
from harness.train.schedule import learning_rate
from tests.support.builders import MIXING, make_dataset, make_sizes, same_bits, small_cell
from tests.support.drivers.driving import assert_each_cell_once, finish, kill, run, start, workers_of

CPU = torch.device("cpu")
SIZES = make_sizes()
TIMINGS = {"train_s", "wall_s", "cpu_s", "peak_memory_mb", "epoch_s"}
EPOCHS = 2
no_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=no_cuda)])
def device(request):
    """Each device, with deterministic operations."""
    if request.param == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=True)
    yield torch.device(request.param)
    if request.param == "cuda":
        torch.use_deterministic_algorithms(False)


class KillsAfterEachWrite(Checkpoint):
    class Killed(Exception): ...

    def save(self, state):
        super().save(state)
        raise self.Killed


DATASET = make_dataset(SIZES, (13, 7, 6))


def make_cell(*names, rules=None, **options) -> Cell:
    return small_cell(*names, rules={"batch_size": 5, "max_epochs": EPOCHS} | (rules or {}), **options)


def checkpoint_of(cell, path, every_s=0.0, kind=Checkpoint, device=CPU):
    return kind(path, every_s, identity_of(cell, device))


def train_with_kills(cell, path, device=CPU):
    """Train, killed after every epoch; returns the result and the number of kills."""
    for kills in itertools.count():
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(kills + 99)  # a random state that differs from an undisturbed training's
        try:
            checkpoint = checkpoint_of(cell, path, kind=KillsAfterEachWrite, device=device)
            return train(cell, DATASET, device, checkpoint=checkpoint), kills
        except KillsAfterEachWrite.Killed:
            assert [p.name for p in path.parent.iterdir()] == [path.name]


def assert_same(mine, theirs):
    """The same bits, but for what the clock says and where it was resumed."""
    assert (mine.status, mine.reason, mine.undefined) == (theirs.status, theirs.reason, theirs.undefined)
    for part in ("scores", "curves", "cell"):
        numbers, wanted = getattr(mine, part), getattr(theirs, part)
        assert numbers.keys() == wanted.keys()
        for name in wanted.keys() - TIMINGS:
            np.testing.assert_equal(numbers[name], wanted[name])
    assert {n: len(c) for n, c in mine.curves.items()} == {n: len(c) for n, c in theirs.curves.items()}
    np.testing.assert_array_equal(mine.predictions.ids, theirs.predictions.ids)
    for ratio, values in theirs.predictions.values.items():
        assert mine.predictions.values[ratio].tobytes() == values.tobytes()


@pytest.fixture(scope="module")
def whole():
    """The small cell, trained undisturbed."""
    return train(make_cell(), DATASET, CPU)


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """The bytes of its checkpoint when it is killed after its first epoch."""
    path = tmp_path_factory.mktemp("left") / "c.npz"
    with pytest.raises(KillsAfterEachWrite.Killed):
        train(
            make_cell(), DATASET, CPU, checkpoint=checkpoint_of(make_cell(), path, kind=KillsAfterEachWrite)
        )
    return path.read_bytes()


@pytest.fixture
def checkpoint(left, tmp_path):
    """That checkpoint in a place of its own."""
    path = tmp_path / "c.npz"
    path.write_bytes(left)
    return checkpoint_of(make_cell(), path)


LONG = {"max_epochs": 8, "early_stop": 8}
COSINE = {"schedule": "warmup_cosine", "warmup": 0.4, "gradient_accumulation": 2}
STOPPED = {"max_epochs": 60}
QUICK = ("lmf", "tfn", "misa")  # the others have layers of attention, which are several times as slow


@pytest.mark.parametrize(
    ("rules", "options"),
    [
        *(
            pytest.param(
                {},
                {"backbone": backbone, "method": method, "ratios": (0.0, 0.5)},
                marks=() if backbone in QUICK else pytest.mark.slow,
            )
            for backbone, method in zip(BACKBONES, MIXING[-len(BACKBONES) :], strict=True)
        ),
        ({"optimizer": "adamw", "weight_decay": 0.1, "criterion": "mse"}, {"train_ratio": 0.4}),
        ({}, {"backbone": "tfn", "method": "manifold_mixup", "options": {"mode": "replace"}}),
        ({**STOPPED, "learning_rate": 0.3, "early_stop": 2}, {}),
        ({**STOPPED, "learning_rate": 0.0, "early_stop": 1}, {"method": "none"}),
        ({**LONG, "schedule": "plateau", "plateau_patience": 1, "learning_rate": 0.3}, {}),
        ({**LONG, **COSINE, "grad_clip": 0.1, "max_grad_norm": 0.2}, {}),
    ],
)
def test_killed_after_every_epoch_it_ends_with_the_same_bits(rules, options, device, tmp_path):
    """With occlusion, replaced losses, schedules, and early stopping, which goes back to older weights."""
    cell = make_cell(rules=rules, **options)
    whole = train(cell, DATASET, device)
    resumed, kills = train_with_kills(cell, tmp_path / "c.npz", device)
    losses, settings = whole.curves["valid_loss"], cell.backbone_settings
    stopped_early = len(losses) < settings.max_epochs
    assert stopped_early == (settings.early_stop <= 2)
    assert kills == len(losses) - stopped_early
    assert resumed.environment == {"resumed_after_epoch": str(kills)}
    assert whole.environment == {}
    assert_same(resumed, whole)
    rates = {learning_rate(settings, 1.0, losses[:epoch]) for epoch in range(len(losses))}
    assert len(rates) > 1 or "schedule" not in rules, "the rate changed, or this says little"


def test_a_state_is_taken_up_with_its_time_even_where_none_is_written_any_more(checkpoint, whole):
    cell, path = make_cell(), checkpoint.path
    state = checkpoint.load()
    assert 0 < state["train_s"] < 1000
    checkpoint.save(state | {"train_s": 1000.0})
    before = path.read_bytes()
    resumed = train(cell, DATASET, CPU, checkpoint=checkpoint_of(cell, path, every_s=None))
    assert resumed.environment == {"resumed_after_epoch": "1"}
    assert 1000 < resumed.cell["train_s"] < 2000
    assert path.read_bytes() == before
    assert_same(resumed, whole)


def test_a_training_pauses_after_an_epoch_and_ends_with_the_same_bits(tmp_path, whole):
    cell, path = make_cell(), tmp_path / "c.npz"
    paused = train(
        cell, DATASET, CPU, checkpoint=Checkpoint(path, None, identity_of(cell, CPU), pause_after=1)
    )
    assert (paused.status, paused.scores, paused.predictions) == ("paused", {}, None)
    for name, curve in whole.curves.items():
        assert name == "epoch_s" or paused.curves[name] == curve[:1]
    checkpoint = Checkpoint(path, None, identity_of(cell, CPU), pause_after=EPOCHS)
    resumed = train(cell, DATASET, CPU, checkpoint=checkpoint)
    assert resumed.environment == {"resumed_after_epoch": "1"}
    assert_same(resumed, whole)


def test_a_divergence_is_found_again(tmp_path):
    cell = make_cell(rules={"learning_rate": 1e30}, method="none")
    job = Job(cell, str(tmp_path / "data"), "cpu", checkpoint=str(tmp_path / "c.npz"), checkpoint_s=0)
    save_dataset(DATASET, tmp_path / "data")
    results = [run_job(job) for _ in range(2)]
    assert {r.status for r in results} == {"diverged"}
    assert results[0].reason == results[1].reason


def test_a_training_survives_with_its_optimizer_and_writing_changes_nothing(tmp_path, whole):
    cell, path = make_cell(), tmp_path / "c.npz"
    states = []

    class Remembers(Checkpoint):
        def save(self, state):
            arrays = {}
            states.append(deserialize(serialize(state, arrays), arrays))
            super().save(state)

    written = train(cell, DATASET, CPU, checkpoint=checkpoint_of(cell, path, kind=Remembers))
    assert_same(written, whole)
    restored = start_or_resume(cell, DATASET, CPU, checkpoint_of(cell, path)).state_dict()
    assert same_bits(dict(restored["optimizer"]), states[-1]["optimizer"])
    assert {name: list(curve) for name, curve in restored["curves"].items()} == states[-1]["curves"]
    for name in ("backbone", "method", "best_weights"):
        assert same_bits(dict(restored[name]), states[-1][name])
    steps = {float(entry["step"]) for entry in restored["optimizer"]["state"].values()}
    assert max(steps) == EPOCHS * 3
    assert restored["epoch"] == EPOCHS
    assert not same_bits(states[0]["optimizer"], states[-1]["optimizer"])


def test_other_cells_versions_and_devices_are_ignored(tmp_path, caplog, monkeypatch):
    cell, path = make_cell(), tmp_path / "c.npz"
    checkpoint_of(cell, path).save({"w": torch.zeros(2)})
    assert checkpoint_of(cell, path).load() is not None
    for name in ("cell", "device", "torch", "numpy", "format"):
        checkpoint = checkpoint_of(cell, path)
        checkpoint.identity[name] = "another"
        assert checkpoint.load() is None
        assert f"its {name} is" in caplog.text
    for other in (make_cell(seed=2), dataclasses.replace(cell, results_version=0)):
        assert checkpoint_of(other, path).load() is None
    monkeypatch.setattr(torch, "__version__", "0.0")
    assert checkpoint_of(cell, path).load() is None


def with_text(change):
    """A file that is whole, but whose text was changed."""

    def make(checkpoint, state):
        arrays = {}
        content = {"identity": checkpoint.identity, "state": serialize(state, arrays)}
        text = change(json.dumps(content)).encode()
        np.savez(checkpoint.path.open("wb"), text=np.frombuffer(text, np.uint8), **arrays)

    return make


def with_state(change):
    return lambda checkpoint, state: checkpoint.save(change(state))


def other_weights(state):
    """Weights that would load, before an optimizer state that would not."""
    weights = {name: torch.full_like(x, 7) for name, x in state["backbone"].items()}
    return state | {"backbone": weights, "optimizer": {"state": {}, "param_groups": []}}


BAD_FILES = {
    "a folder": lambda checkpoint, state: (checkpoint.path.unlink(), checkpoint.path.mkdir()),
    "no JSON": with_text(lambda text: text[:-1]),
    "no state": with_text(lambda text: "[]"),
    "deep": with_text(lambda text: '{"identity":' * 5000),
    "unknown dtype": with_text(lambda text: text.replace('"float32"', '"load"')),
    "wrong shape": with_text(lambda text: text.replace('"float32", [', '"float32", [2, ')),
    "no such array": with_text(lambda text: text.replace('"tensor0"', '"tensor999999"')),
    "half": with_state(lambda state: {"backbone": state["backbone"]}),
    "other layers": with_state(lambda state: state | {"backbone": {"new": torch.zeros(3)}}),
    "other optimizer": with_state(other_weights),
    "no numbers": with_state(lambda state: state | {"best_loss": "low"}),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_costs_only_the_time_it_would_have_saved(kind, checkpoint, whole, caplog):
    BAD_FILES[kind](checkpoint, checkpoint.load())
    caplog.clear()
    cell = make_cell()
    result = train(cell, DATASET, CPU, checkpoint=checkpoint_of(cell, checkpoint.path, every_s=None))
    assert caplog.text.count("is ignored") == 1
    assert result.environment == {}
    assert_same(result, whole)


def test_the_setting_changes_no_cell(tmp_path):
    asked = [f"var_dir={tmp_path}", "datasets=[synthetic_mosi]", "dataset.synthetic_mosi.clips=12"]
    plain = make_plan(load_benchmark(asked)).cells
    for value in ("0", "null"):
        assert make_plan(load_benchmark([*asked, f"cell.checkpoint_s={value}"])).cells == plain
    for value in ("-1", "nan"):
        with pytest.raises(UserError, match="checkpoint_s must be at least 0"):
            make_plan(load_benchmark([*asked, f"cell.checkpoint_s={value}"]))


ONE = ["methods=[ms_mix]", "backbones=[tfn]", "seeds=[1111]", "train.max_epochs=4", "report=false"]


def test_a_study_resumes_a_failed_cell_and_leaves_no_checkpoint(var_dir, train_study, monkeypatch):
    reference = train_study(*ONE)
    save, written = Checkpoint.save, []

    def save_and_fail(self, state):
        save(self, state)
        written.append(state["epoch"])
        if written == [1, 2]:
            raise MemoryError("worn out")

    monkeypatch.setattr(Checkpoint, "save", save_and_fail)
    assert run(var_dir, *ONE, "cell.checkpoint_s=0") == 1
    folder = Tracker(None, var_dir, "s", create=False).folder("checkpoints")
    [left] = folder.iterdir()
    assert run(var_dir, *ONE, "cell.checkpoint_s=0") == 0
    assert written == [1, 2, 3, 4]
    assert not list(folder.iterdir())
    # A driver that was killed between its last two steps leaves the file of a cell that is done.
    for name in (left.name, f"{left.stem}.77.tmp"):
        (folder / name).write_text("")
    assert run(var_dir, *ONE) == 0
    assert not list(folder.iterdir())
    [stored] = Tracker(None, var_dir, "s", create=False).complete().values()
    assert stored.tags["resumed_after_epoch"] == "2"
    assert_each_cell_once(var_dir, reference, cells=1)


@pytest.mark.slow
def test_killed_workers_and_drivers_cost_no_bit(var_dir, train_study):
    more = [*ONE, "train.max_epochs=120", "train.patience=120"]
    reference = train_study(*more)
    folder = var_dir / "checkpoints" / "s"
    for victim in ("worker", "driver"):
        driver = start(var_dir, "cells", *more, "cell.checkpoint_s=0", jobs=1)
        writes = set()
        while len(writes) < 5:
            assert driver.poll() is None, "the driver ended before"
            writes |= {path.stat().st_mtime_ns for path in folder.glob("*.npz")}
            time.sleep(0.01)
        if victim == "driver":
            kill(driver, "cells")
            continue
        os.kill(workers_of(driver.pid)[0], signal.SIGKILL)
        assert "worker died" in finish(driver, "cells", status=1)
    finish(start(var_dir, "cells", *more, "cell.checkpoint_s=0", jobs=1), "cells")
    assert not list(folder.iterdir())
    [stored] = Tracker(None, var_dir, "s", create=False).complete().values()
    assert int(stored.tags["resumed_after_epoch"]) >= 4
    assert_each_cell_once(var_dir, reference, cells=1)

"""What launcher=ray consists of, without a cluster: requests, places, parcels, checkpoints that travel."""

import os
import pickle
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.benchmark import main
from harness.data.store import save_dataset
from harness.errors import StoreError, UserError
from harness.launchers import ray_task
from harness.launchers.base import Job, Outcome
from harness.launchers.cluster import Cluster, connect, places
from harness.launchers.job import run_job
from harness.launchers.ray import RayLauncher
from harness.launchers.shipping import node_cache, read_parcel, write_parcel
from harness.launchers.worker import from_bytes, name_of, pack_job, to_bytes
from tests.harness.train.test_checkpoint import DATASET, assert_same, make_cell


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        *((text, "give HOST:PORT of") for text in ("ray://h:1", "head", "head:", ":6379", "a b:1", "a/b:1")),
        *((text, f"No Ray cluster answers at {text}: ") for text in ("127.0.0.1:1", "127.0.0.1:99999")),
    ],
)
def test_where_nobody_answers(address, sentence):
    with pytest.raises(UserError, match=sentence):
        RayLauncher(None, run_job, Cluster(address))


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    sentence = r"needs the package ray; install it with pip install 'msa-mixup-bench\[ray\]'"
    with pytest.raises(UserError, match=sentence):
        RayLauncher(1, run_job, Cluster())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("processes address=h:1", "address needs launcher=ray, got launcher=processes."),
        ("inline gpus_per_cell=1", "gpus_per_cell needs launcher=ray, got launcher=inline."),
        *((f"ray gpus_per_cell={x}", "must be above 0 and at most 1, or a whole number") for x in (0, 1.5)),
        ("ray gpus_per_cell=0.5 jobs_per_gpu=2", "exclude each other; give one of them"),
        ("ray max_retries=-1", "launcher.max_retries must be at least 0, got -1."),
        ("ray adress=h:1", "Did you mean 'launcher.address'?"),
        ("ray max_retries=1 device=gpu", "Unknown device 'gpu'"),
        ("ray address=nowhere", "launcher.address='nowhere' is not the address of a Ray cluster"),
    ],
)
def test_requests_that_make_no_sense(arguments, sentence, var_dir, capsys):
    small = ["datasets=[synthetic_mosi]", "dataset.synthetic_mosi.clips=30", f"var_dir={var_dir}", "study=s"]
    launcher, setting, *more = arguments.split()
    assert main([*small, f"launcher={launcher}", f"launcher.{setting}", *more]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("node", "cpus", "gpus", "expected"),
    [
        ({"CPU": 8.0}, 3, 0.0, 2),
        ({"CPU": 8.0}, 1, 1.0, 0),
        ({"CPU": 8.0, "GPU": 2.0}, 1, 0.4, 4),
        ({"CPU": 8.0, "GPU": 2.0}, 1, 0.1, 8),
        ({"CPU": 64.0, "GPU": 2.0}, 1, 0.1, 20),
        ({"CPU": 8.0, "GPU": 3.0}, 1, 2.0, 1),
        ({"GPU": 4.0}, 1, 1.0, 0),
        ({}, 1, 0.0, 0),
    ],
)
def test_places(node, cpus, gpus, expected):
    assert places(node, cpus, gpus) == expected


class NoRay:
    """A fake of what `RayLauncher` calls: nodes without room, tasks that end on command."""

    def __init__(self):
        self.room, self.sent, self.results, self.left = 1, [], {}, False

    def launcher(self, monkeypatch, device="cpu", **settings):
        monkeypatch.setattr("harness.launchers.ray.connect", lambda *_: self)
        monkeypatch.setattr("harness.launchers.ray.connection_error", lambda address: None)
        return RayLauncher(None, run_job, Cluster("h:1", device, **settings))

    def get_runtime_context(self):
        return SimpleNamespace(gcs_address="h:1")

    def cluster_resources(self):
        return {"CPU": float(self.room)}

    def nodes(self):
        return [{"Alive": True, "Resources": self.cluster_resources()}]

    def remote(self, **needs):
        return lambda task: self

    def wait(self, tasks, **how):
        return [task for task in tasks if task in self.results], []

    def get(self, task):
        return self.results[task](), None

    def put(self, parcel):
        return parcel

    def shutdown(self):
        self.left = True


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"cpus_per_cell": 2}, "which needs 2 CPU; set a smaller cell.threads"),
        ({"device": "cuda"}, "^device=cuda needs a GPU, but the Ray cluster has none;"),
    ],
)
def test_a_cluster_without_room_or_gpu_says_so_and_is_left(settings, reason, monkeypatch):
    ray = NoRay()
    with pytest.raises(UserError, match=reason):
        ray.launcher(monkeypatch, **settings)
    assert ray.left


def test_workers_on_the_drivers_disk_write_checkpoints_there(monkeypatch, tmp_path):
    """Workers need the checkpoints' folder, which nothing else creates in a new study."""
    ray = NoRay()
    launcher = ray.launcher(monkeypatch)
    launcher._task = SimpleNamespace(remote=lambda *given: ray.sent.append(given))
    file = tmp_path / "checkpoints" / "s" / "c.npz"
    launcher.submit(Job("cell", str(tmp_path), "cpu", checkpoint=str(file)))
    assert len(ray.sent) == 1
    assert file.parent.is_dir()


def test_a_cluster_that_has_lost_all_room_is_not_waited_for_for_ever(monkeypatch):
    ray, clock = NoRay(), SimpleNamespace(now=0.0, sleep=lambda duration_s: None)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr("harness.launchers.ray.time", clock)
    launcher = ray.launcher(monkeypatch)
    for clock.now, ray.room in ((5.0, 0), (300.0, 0), (305.0, 1), (310.0, 0), (610.0, 0), (614.9, 0)):
        assert launcher.wait(0) == []
    clock.now = 615.0
    with pytest.raises(StoreError, match="no node of the Ray cluster at h:1 has had room for a cell"):
        launcher.wait(0)


def test_an_interrupt_while_results_are_fetched_loses_none(monkeypatch):
    ray = NoRay()
    launcher = ray.launcher(monkeypatch)

    def fetched():
        signal.raise_signal(signal.SIGINT)
        return to_bytes(Outcome(None, 3))

    launcher._in_flight = {"a": Job("a", "", "cpu"), "b": Job("b", "", "cpu")}
    ray.results = {"a": fetched, "b": lambda: to_bytes(Outcome(None, 4))}
    with pytest.raises(KeyboardInterrupt):
        launcher.wait(0)
    assert sorted(outcome.result for outcome in launcher.wait(0)) == [3, 4]


def test_an_end_that_ray_decides_while_it_starts_is_an_interrupt(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=lambda **how: sys.exit(15)))
    with pytest.raises(KeyboardInterrupt):
        RayLauncher(1, run_job, Cluster())


def test_ray_sets_the_mode_of_its_token_where_it_was_imported_before(monkeypatch):
    """Ray reads the mode when it is imported, and would then reject its own processes."""
    seen = {}
    fake = SimpleNamespace(init=lambda **how: seen.update(os.environ))
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setitem(sys.modules, "ray", fake)
    connect(1, Cluster(), run_job)
    assert len(seen["RAY_AUTH_TOKEN"]) == 64
    assert "RAY_AUTH_MODE" not in seen


TEXTS = st.text("abé .", min_size=1, max_size=4).filter(lambda text: text.strip(" ."))
NAMES = st.lists(TEXTS, min_size=1, max_size=3).map(lambda parts: f"{'/'.join(parts)}.f")
FOLDERS = st.dictionaries(NAMES, st.binary(max_size=50), min_size=1, max_size=5)


def write(folder: Path, files):
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return folder


def ship(path: Path, cache: Path) -> Path:
    return write_parcel(pickle.loads(pickle.dumps(read_parcel(path))), cache)


@given(FOLDERS)
def test_a_folder_arrives_as_it_is(tmp_path_factory, files):
    base = tmp_path_factory.mktemp("parcel")
    there = ship(write(base / "folder", files), base / "cache")
    assert there.name == "folder"
    assert {str(p.relative_to(there)): p.read_bytes() for p in there.rglob("*") if p.is_file()} == files


def test_a_file_arrives_too_and_only_what_is_new_is_written(tmp_path):
    file, cache = tmp_path / "a.npz", tmp_path / "cache"
    file.write_bytes(b"one")
    first = ship(file, cache)
    assert (first.name, first.read_bytes()) == ("a.npz", b"one")
    stamp = first.stat().st_mtime_ns
    assert ship(file, cache) == first
    assert first.stat().st_mtime_ns == stamp
    file.write_bytes(b"two")
    second = ship(file, cache)
    assert second != first
    assert second.read_bytes() == b"two"
    assert cache.stat().st_mode & 0o077 == 0, "nobody else reads or writes there"


def test_keys_tell_names_and_contents_apart(tmp_path):
    contents = [{"a": b"bc"}, {"ab": b"c"}, {"a": b"b", "b": b"c"}, {"a": b"", "b": b"bc"}, {"a/b": b"bc"}]
    keys = [read_parcel(write(tmp_path / str(k), files)).key for k, files in enumerate(contents)]
    assert len(set(keys)) == len(contents)


def test_workers_of_a_node_that_begin_at_once_share_one_copy(tmp_path):
    parcel = read_parcel(write(tmp_path / "folder", {"x": bytes(10**6)}))
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write_parcel, [parcel] * 8, [tmp_path / "cache"] * 8))
    assert [p.name for p in (tmp_path / "cache").iterdir() if not p.name.startswith(".")] == [parcel.key]


def test_the_cache_of_a_node_is_in_its_home(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert node_cache() == Path.home() / ".cache" / "msa-mixup-bench"


@pytest.fixture
def worker(monkeypatch):
    """Reset the worker's state, and replace its exit."""
    left = []
    monkeypatch.setattr(ray_task, "_READY", [])
    monkeypatch.setattr(ray_task, "_BROKEN", [])
    monkeypatch.setattr(ray_task, "_VISIBLE", [])
    monkeypatch.setattr(ray_task, "LEAVE_S", 0.0)
    monkeypatch.setattr(os, "_exit", left.append)
    return left


def do(work, job, checkpoint=None, **parcels):
    """The outcome of a task, as the driver reads it, and the checkpoint that comes with it."""
    task = (name_of(work), pack_job(job), checkpoint, tuple(parcels), *parcels.values())
    answer, left = ray_task.run(*task)
    return answer if answer == ray_task.REFUSED else from_bytes(answer, job), left


def fail_on_device(job):
    raise RuntimeError("CUDA error: out of memory")


def test_a_worker_with_a_broken_device_refuses_jobs_and_leaves(worker):
    outcome, _ = do(fail_on_device, Job("x", "", "cpu"))
    assert outcome.error == "RuntimeError: CUDA error: out of memory"
    assert do(fail_on_device, Job("x", "", "cpu")) == (ray_task.REFUSED, None)
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join()
    assert worker == [1]


def visible_gpus(job):
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def test_a_worker_stays_with_the_gpus_of_its_first_job(worker, monkeypatch):
    """CUDA binds a process to its first GPUs; for other GPUs the driver sends the job to another worker."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert do(visible_gpus, Job("x", "", "cuda"))[0].result is None
    monkeypatch.setattr(ray_task, "_VISIBLE", [])
    for _ in range(2):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        assert do(visible_gpus, Job("x", "", "cuda"))[0].result == "0"
    assert worker == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert do(visible_gpus, Job("x", "", "cuda")) == (ray_task.REFUSED, None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert do(visible_gpus, Job("x", "", "cuda")) == (ray_task.REFUSED, None), "it leaves"
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join()
    assert worker == [1]


def test_an_idle_worker_holds_no_unused_gpu_memory(worker, monkeypatch):
    emptied = []
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: emptied.append(True))
    do(visible_gpus, Job("x", "", "cpu"))
    assert emptied == [], "CUDA has not started"
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    do(visible_gpus, Job("x", "", "cuda"))
    assert emptied == [True]


def data_of(job):
    return job.data, Path(job.data, "x").read_bytes(), job.truth


def test_a_job_reads_what_was_shipped(worker, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "node"))
    parcel = read_parcel(write(tmp_path / "folder", {"x": b"here"}))
    outcome, checkpoint = do(data_of, Job("x", "/only/at/the/driver", "cpu", truth="/t"), data=parcel)
    place, content, truth = outcome.result
    assert place.startswith(str(tmp_path / "node" / "msa-mixup-bench"))
    assert (content, truth, checkpoint) == (b"here", "/t", None)


def test_a_paused_training_goes_on_from_its_checkpoint_on_another_node(worker, tmp_path):
    """If a node cannot reach the driver's disk, the checkpoint travels with the answer and the next job."""
    save_dataset(DATASET, tmp_path / "data")
    far = tmp_path / "not" / "here" / "cell.npz"
    job = Job(make_cell(), str(tmp_path / "data"), "cpu", checkpoint=str(far))
    whole = run_job(replace(job, checkpoint=None))
    outcome, checkpoint = do(run_job, replace(job, pause_after=1))
    assert outcome.result.status == "paused"
    assert not far.parent.exists()
    assert isinstance(checkpoint, bytes)
    resumed, left = do(run_job, job, checkpoint)
    assert left is None
    assert_same(resumed.result, whole)
    again, _ = do(run_job, job, b"no checkpoint at all")
    assert_same(again.result, whole)  # a damaged checkpoint costs only time
    near = tmp_path / "cell.npz"
    outcome, checkpoint = do(run_job, replace(job, checkpoint=str(near), pause_after=1))
    assert (outcome.result.status, checkpoint) == ("paused", None)
    assert near.exists(), "where the driver looks for it"

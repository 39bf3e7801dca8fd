"""Studies and sweeps on real Ray clusters of two nodes, which lose workers, nodes and drivers."""

import ipaddress
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import test_launchers
from clusters import Cluster, loopback_only
from driving import CELLS, assert_each_cell_once, finish, kill, run, start, wait_for_cells
from postgres import Server
from sweeping import assert_each_trial_once, sweep
from test_launchers import ERRORS, JOBS, by_cell, job, outcomes_of
from test_sweeps_slow import SLOWER, begin, wait_for_trials

from harness import launchers
from harness.errors import UserError
from harness.launchers import Job, make_launcher
from harness.tracking import Tracker

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]
LONGER = ["train.max_epochs=20", "train.patience=20"]  # to be met in mid-training


@pytest.fixture(scope="module", autouse=True)
def network():
    """Ray advertises itself on the loopback, and there is nothing else."""
    with loopback_only() as alone:
        yield alone


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, store_template):
    """The matrix as it ends when nothing disturbs it: inline."""
    var = tmp_path_factory.mktemp("undisturbed") / "var"
    var.mkdir()
    shutil.copy(store_template, var / "mlflow.db")
    assert run(var, *LONGER) == 0
    return var


@pytest.fixture
def cluster(request, tmp_path):
    """Two nodes with a core each."""
    made = Cluster(f"cluster-{os.getpid()}-{request.node.name[:40]}", tmp_path)
    yield made
    made.close()


def begin_study(var, mark, cluster, *more, **environment):
    place = ["launcher=ray", f"launcher.address={cluster.address}"]
    return start(var, mark, *place, *LONGER, *more, jobs="null", **environment)


def eventually(find, limit_s=30.0):
    deadline = time.monotonic() + limit_s
    while not (found := find()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
    return found


# Studies


def test_a_worker_is_killed_and_a_node_is_lost_in_mid_matrix(var_dir, undisturbed, cluster):
    driver = begin_study(var_dir, "lost", cluster)
    head, other = cluster.nodes
    wait_for_cells(driver, 2)
    os.kill(eventually(lambda: cluster.workers(head))[0], signal.SIGKILL)
    wait_for_cells(driver, 5)
    eventually(lambda: cluster.workers(other))
    cluster.lose(other)
    wait_for_cells(driver, 8)
    third = cluster.add_node()
    eventually(lambda: cluster.workers(third))
    said = finish(driver, "lost")
    assert "failed" not in said
    assert_each_cell_once(var_dir, undisturbed)
    assert not cluster.workers(head), "no task is left"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_driver_ends_and_another_one_resumes(var_dir, undisturbed, cluster, number):
    driver = begin_study(var_dir, "gone", cluster)
    wait_for_cells(driver, 4)
    trained = {r.tags["cell_id"]: r.run_id for r in Tracker(None, var_dir, "s", create=False).runs()}
    assert 4 <= len(trained) < CELLS
    if number == signal.SIGKILL:
        kill(driver, "gone")
    else:
        os.killpg(driver.pid, number)
        assert "Stopped; the same command resumes" in finish(driver, "gone", status=130)
    eventually(lambda: not any(cluster.workers(node) for node in cluster.nodes))
    finish(begin_study(var_dir, "gone", cluster), "gone")
    assert_each_cell_once(var_dir, undisturbed)
    complete = Tracker(None, var_dir, "s", create=False).complete()
    assert all(complete[cell_id].run_id == run_id for cell_id, run_id in trained.items())


def test_a_local_cluster_ends_with_its_driver_and_listens_on_the_loopback_alone(
    var_dir, undisturbed, tmp_path, network
):
    if not network:
        pytest.skip("no right to make a network namespace")
    home = {"HOME": str(tmp_path)}
    driver = start(var_dir, "local", "launcher=ray", *LONGER, **home)
    wait_for_cells(driver, 2)
    sockets = subprocess.run(["ss", "-Htunlp"], capture_output=True, text=True, check=True).stdout
    listening = [line.split()[4].rpartition(":")[0].strip("[]").removeprefix("::ffff:") for line in sockets.splitlines()]
    assert listening, "Ray's own processes"
    assert all(ipaddress.ip_address(address).is_loopback for address in listening), sockets
    kill(driver, "local")
    finish(start(var_dir, "local", "launcher=ray", *LONGER, **home), "local")
    assert_each_cell_once(var_dir, undisturbed)
    assert not (tmp_path / ".ray").exists(), "its token is of one run"


def test_only_who_has_the_token_may_use_a_cluster(var_dir, undisturbed, tmp_path):
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64}
    cluster = Cluster(f"cluster-{os.getpid()}-token", tmp_path, nodes=1, **token)
    try:
        for wrong in ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "b" * 64}, {"HOME": str(tmp_path)}):
            driver = begin_study(var_dir, "wrong", cluster, **wrong)
            said = finish(driver, "wrong", status=2)
            assert f"Error: Cannot join the Ray cluster at '{cluster.address}': " in said
            assert "token" in said
        assert "a" * 64 not in said
        finish(begin_study(var_dir, "right", cluster, **token), "right")
        assert_each_cell_once(var_dir, undisturbed)
    finally:
        cluster.close()


def test_a_sweep_with_everything_in_postgres_and_its_driver_killed(var_dir, tmp_path, store_template, cluster):
    """Optuna, ledger and MLflow; the server is in the same network."""
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    shutil.copy(store_template, undisturbed / "mlflow.db")
    assert sweep(undisturbed, *SLOWER, "report=false") == 0
    server = Server()
    try:
        uri = server.create()
        place = ["launcher=ray", f"launcher.address={cluster.address}", *(f"{k}={uri}" for k in STORES)]
        driver = begin(var_dir, "sweep", *place, jobs="null")
        said = wait_for_trials(driver, 3)
        kill(driver, "sweep")
        said += finish(begin(var_dir, "sweep", *place, jobs="null"), "sweep")
        assert_each_trial_once(var_dir, undisturbed, uri=uri, storage=uri)
        assert "s3cret" not in said
    finally:
        server.close()


STORES = ("tracking.uri", "ledger.uri", "sweep.storage")


# The launcher


@pytest.fixture(scope="module")
def local(network):
    """A launcher on a cluster that it started, for `test_launchers.run`."""
    launcher = make_launcher("ray", 2, test_launchers.run, cluster=launchers.Cluster(max_retries=1))
    yield launcher
    launcher.close()


def test_the_same_outcomes_as_inline(local):
    inline = outcomes_of(make_launcher("inline", 1, test_launchers.run), JOBS)
    outcomes = outcomes_of(local, JOBS)
    assert by_cell(outcomes) == by_cell(inline)
    assert {o.job.cell: o.error for o in outcomes if o.error} == ERRORS
    assert all(any(o.job is j for j in JOBS) for o in outcomes), "the driver sees its own jobs"
    assert all("Traceback" in o.traceback for o in outcomes if o.error)


def test_large_results_and_what_cannot_be_sent(local):
    jobs = [
        job("large", 20_000_000),
        Job(lambda: None, "", "cpu"),
        job("unpicklable"),
        job("treacherous"),
        Job(test_launchers.Treacherous(), "", "cpu"),
    ]
    found = {jobs.index(o.job): o for o in outcomes_of(local, jobs)}
    assert len(found[0].result) == 20_000_000
    assert found[1].error.startswith("the job cannot be sent to a worker: ")
    assert found[2].error.startswith("the result cannot be sent to the driver: ")
    assert found[3].error == found[4].error == "ValueError: cannot be read"


def test_a_worker_that_always_dies_costs_only_its_cell(local):
    jobs = [job("die", signal.SIGKILL), *(job("square", x) for x in range(4))]
    outcomes = outcomes_of(local, jobs)
    died = [o for o in outcomes if o.error]
    assert [o.job for o in died] == jobs[:1]
    assert re.match(r"worker died \(\w+", died[0].error)
    assert sorted(o.result for o in outcomes if not o.error) == [0, 1, 4, 9]


def test_after_an_error_on_the_device_the_worker_is_replaced(local):
    broken = outcomes_of(local, [job("fail", "CUDA error: an illegal memory access")] * 4)
    assert {o.error for o in broken} == {"ValueError: CUDA error: an illegal memory access"}
    assert [o.error for o in outcomes_of(local, [job("square", 2)] * 4)] == [None] * 4


def test_workers_have_one_thread_and_prepare_once(local):
    found = [o.result for o in outcomes_of(local, [job("surroundings")] * 4)]
    assert {threads for _, *threads in found for threads in [tuple(threads)]} == {("1", "1")}
    prepared = [o.result for o in outcomes_of(local, [job("preparations")] * 6)]
    assert all(pids == [pid] for pid, pids in prepared)


def test_what_waiting_and_slots_say(local):
    assert local.wait(0.01) == []
    assert local.slots == 4, "two run and two wait"
    assert local.device == "cpu"


def test_no_statistics_are_sent(local):
    from ray._private.usage import usage_lib

    assert not usage_lib.usage_stats_enabled()


def test_signals_stay_ours(local):
    assert signal.getsignal(signal.SIGTERM) in (signal.SIG_DFL, signal.default_int_handler)


def read(job):
    """What a job finds where its paths lead."""
    return job.data, Path(job.data, "deep/file").read_bytes(), Path(job.truth).read_bytes(), job.text_model


def test_what_a_job_reads_goes_to_each_node_once(cluster, tmp_path, monkeypatch):
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "folder" / "deep" / "file").write_bytes(b"content")
    (tmp_path / "truth.npz").write_bytes(b"truth")
    paths = {"data": str(tmp_path / "folder"), "truth": str(tmp_path / "truth.npz")}
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_ray
test_ray.drive_reads({cluster.address!r}, {paths!r})
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    places, puts = eval(done.stdout.splitlines()[-1])  # noqa: S307
    assert puts == 2, "a folder and a file, for twenty jobs"
    assert {Path(place).relative_to(cluster.cache(node)) for node in cluster.nodes for place in places
            if place.startswith(str(cluster.cache(node)))}
    assert {sum(place.startswith(str(cluster.cache(node))) for place in places) for node in cluster.nodes} == {1}


def drive_reads(address, paths):
    """Run twenty jobs that read; prints where they found their data, and how often the driver packed."""
    import ray

    puts, put = [], ray.put
    ray.put = lambda value: puts.append(value) or put(value)
    launcher = make_launcher("ray", None, read, cluster=launchers.Cluster(address))
    jobs = [Job(k, device="cpu", **paths) for k in range(20)]
    outcomes = outcomes_of(launcher, jobs)
    launcher.close()
    assert all(o.result[1:] == (b"content", b"truth", None) for o in outcomes), outcomes
    print((sorted({o.result[0] for o in outcomes}), len(puts)))


def test_a_cluster_without_room_says_so(cluster):
    from harness.launchers import Cluster as Asked

    def refused(**asked):
        script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_ray
test_ray.say_refusal({cluster.address!r}, {asked!r})
"""
        return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120).stdout

    assert Asked
    assert "which takes 2 CPU; ask for less with cell.threads=N" in refused(cpus_per_cell=2)
    assert "device=cuda was asked for, but the Ray cluster has no GPU" in refused(device="cuda")


def say_refusal(address, asked):
    """Print why there is no launcher."""
    try:
        make_launcher("ray", None, read, cluster=launchers.Cluster(address, **asked))
    except UserError as error:
        print(error)

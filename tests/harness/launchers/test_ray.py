"""Studies and sweeps on real Ray clusters of two nodes, which lose workers, nodes and drivers."""

import contextlib
import ipaddress
import os
import re
import shlex
import signal
import string
import subprocess
import sys
from pathlib import Path

import pytest

from harness.launchers import cluster as ray_cluster
from harness.launchers.ray import RayLauncher
from harness.tracking.tracker import Tracker
from tests.support.drivers.cluster_work import in_a_process
from tests.support.drivers.clusters import Cluster, kill_marked, loopback_only, names_of
from tests.support.drivers.driving import (
    assert_each_cell_once,
    environment_of,
    finish,
    kill,
    run,
    start,
    wait_for_cells,
)
from tests.support.drivers.jobs import (
    assert_outcomes,
    assert_unsent,
    eventually,
    job,
    outcomes_of,
    results_of,
)
from tests.support.drivers.jobs import run as run_job
from tests.support.drivers.postgres import Server
from tests.support.drivers.sweeping import SMALL, assert_each_trial_once, sweep
from tests.support.paths import ROOT
from tests.sweeps.test_sweeps_slow import SLOWER, begin, wait_for_trials

pytestmark = pytest.mark.slow
# Eight cells, long enough for faults to strike in mid-training.
LONGER = ["methods=[none,ms_mix]", "train.max_epochs=15", "train.patience=15"]
CELLS = 8
SERVING = ("raylet", "gcs_server", "ray::run", "ray::IDLE")


@pytest.fixture(scope="module", autouse=True)
def network():
    """Ray advertises only loopback addresses."""
    with loopback_only() as alone:
        yield alone


@pytest.fixture(scope="module")
def undisturbed(train_study):
    """The matrix as it ends when nothing disturbs it: inline."""
    return train_study(*LONGER)


def new_cluster(name, folder, **options):
    return contextlib.closing(Cluster(f"cluster-{os.getpid()}-{name}", folder, **options))


@pytest.fixture
def cluster(request, tmp_path):
    """Two nodes with a core each."""
    with new_cluster(request.node.name[:40], tmp_path) as made:
        yield made


def begin_study(var, mark, cluster, *more, **environment):
    place = ["launcher=ray", f"launcher.address={cluster.address}"]
    return start(var, mark, *place, *LONGER, *more, jobs="null", **environment)


def assert_once(var):
    """Every cell of the small matrix is complete exactly once."""
    cells = [r.tags["cell_id"] for r in Tracker(None, var, "s", create=False).runs()]
    assert len(cells) == len(set(cells)) == CELLS


def listening():
    """Addresses at which anything listens in this network."""
    lines = subprocess.run(["ss", "-Htunl"], capture_output=True, text=True, check=True).stdout.splitlines()
    hosts = [line.split()[4].rpartition(":")[0].strip("[]").removeprefix("::ffff:") for line in lines]
    return [ipaddress.ip_address(host) for host in hosts]


def test_a_worker_is_killed_and_a_node_is_lost_in_mid_matrix(var_dir, undisturbed, cluster):
    driver = begin_study(var_dir, "lost", cluster)
    head, other = cluster.nodes
    wait_for_cells(driver, 1, CELLS)
    os.kill(eventually(lambda: cluster.workers(head))[0], signal.SIGKILL)
    wait_for_cells(driver, 3, CELLS)
    eventually(lambda: cluster.workers(other))
    cluster.lose(other)
    said = finish(driver, "lost")
    assert "have no result" not in said
    assert_each_cell_once(var_dir, undisturbed, CELLS)
    assert not cluster.workers(head), "no task is left"


def test_the_head_is_lost(var_dir, undisturbed, cluster):
    """The driver reports the lost head before Ray would end it after a minute."""
    driver = begin_study(var_dir, "head", cluster)
    wait_for_cells(driver, 2, CELLS)
    cluster.close()
    said = finish(driver, "head", status=1)
    assert f"Error: the head of the Ray cluster, {cluster.address}, no longer answers; run the same" in said
    assert run(var_dir, *LONGER) == 0
    assert_each_cell_once(var_dir, undisturbed, CELLS)


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.soak)])
def test_a_driver_ends_and_another_one_resumes(var_dir, undisturbed, cluster, number):
    driver = begin_study(var_dir, "gone", cluster)
    wait_for_cells(driver, 3, CELLS)
    trained = {r.tags["cell_id"]: r.run_id for r in Tracker(None, var_dir, "s", create=False).runs()}
    assert 3 <= len(trained) < CELLS
    if number == signal.SIGKILL:
        kill(driver, "gone")
    else:
        os.killpg(driver.pid, number)
        assert "Stopped; run the same command to resume" in finish(driver, "gone", status=130)
    eventually(lambda: not any(cluster.workers(node) for node in cluster.nodes))
    finish(begin_study(var_dir, "gone", cluster), "gone")
    assert_each_cell_once(var_dir, undisturbed, CELLS)
    complete = Tracker(None, var_dir, "s", create=False).complete()
    assert all(complete[cell_id].run_id == run_id for cell_id, run_id in trained.items())


def test_a_local_cluster_ends_with_its_driver_and_listens_on_the_loopback_alone(var_dir, tmp_path, network):
    if not network:
        pytest.skip("no right to make a network namespace")
    home = {"HOME": str(tmp_path)}
    driver = start(var_dir, "first", "launcher=ray", *LONGER, **home)
    wait_for_cells(driver, 2, CELLS)
    found = listening()
    assert found, "Ray's own processes"
    assert all(address.is_loopback for address in found)
    driver.kill()
    driver.wait()
    driver.stdout.close()
    try:
        eventually(lambda: not any(n.startswith(SERVING) for n in names_of("first").values()))
    finally:
        kill_marked("first")  # Idle agents of Ray may stay.
    finish(start(var_dir, "second", "launcher=ray", *LONGER, **home), "second")
    assert_once(var_dir)
    assert not (tmp_path / ".ray").exists(), "its token is of one run"


def test_only_who_has_the_token_may_use_a_cluster(var_dir, tmp_path):
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64}
    with new_cluster("token", tmp_path, nodes=1, **token) as cluster:
        for wrong in ({"RAY_AUTH_TOKEN": "b" * 64}, {"HOME": str(tmp_path)}):
            driver = begin_study(var_dir, "wrong", cluster, RAY_AUTH_MODE="token", **wrong)
            said = finish(driver, "wrong", status=2)
            assert f"Error: Cannot join the Ray cluster at '{cluster.address}': " in said
            assert "RAY_AUTH_TOKEN" in said
            assert "b" * 64 not in said
        assert "a" * 64 not in finish(begin_study(var_dir, "right", cluster, **token), "right")
    assert_once(var_dir)


@pytest.mark.soak
def test_a_sweep_with_everything_in_postgres_and_its_driver_killed(var_dir, tmp_path, new_var, cluster):
    """Optuna, ledger and MLflow; the server is in the same network."""
    undisturbed = new_var(tmp_path / "undisturbed")
    assert sweep(undisturbed, *SLOWER, "report=false") == 0
    with contextlib.closing(Server()) as server:
        uri = server.create()
        stores = [f"{name}={uri}" for name in ("tracking.uri", "ledger.uri", "sweep.storage")]
        place = ["launcher=ray", f"launcher.address={cluster.address}", *stores]
        driver = begin(var_dir, "sweep", *place, jobs="null")
        said = wait_for_trials(driver, 3)
        kill(driver, "sweep")
        said += finish(begin(var_dir, "sweep", *place, jobs="null"), "sweep")
        assert_each_trial_once(var_dir, undisturbed, uri=uri, storage=uri)
        assert "s3cret" not in said


def test_the_readmes_way_to_a_cluster(var_dir, tmp_path, network):
    if not network:
        pytest.skip("no right to make a network namespace")
    server, mark = Server(), f"readme-{os.getpid()}"
    places = {"HEAD": "127.0.0.1", "HERE": "127.0.0.1", "STORE": server.create(), "HOME": str(tmp_path)}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = environment_of(mark, **places, PATH=path)
    small = [*SMALL, "backbones=[lmf]", "train.max_epochs=1", "report=false", f"var_dir={var_dir}"]
    try:
        mark_of_blocks = "<!-- run by tests/harness/launchers/test_ray.py -->\n```sh\n(.*?)```"
        blocks = re.findall(
            mark_of_blocks, (ROOT / "harness" / "launchers" / "README.md").read_text(), re.DOTALL
        )
        commands = "".join(blocks).splitlines()
        assert len(commands) == 7
        for line in commands:
            program, *arguments = shlex.split(string.Template(line).substitute(environment))
            if program == "export":
                environment |= dict(argument.split("=", 1) for argument in arguments)
                continue
            if arguments[1] in ("harness.benchmark", "sweeps.run"):
                arguments += small
            elif program == "ray" and arguments[0] == "start":
                arguments.append("--num-cpus=1")  # a worker per core imports PyTorch
            elif arguments[0] == "-m":
                arguments.append(f"var_dir={var_dir}")
            log = (tmp_path / "log").open("w+")  # not a pipe, which child processes would hold open
            done = subprocess.run([program, *arguments], env=environment, stdout=log, stderr=log, timeout=200)
            log.seek(0)
            assert done.returncode == 0, log.read()
        assert (tmp_path / ".ray" / "auth_token").exists()
        assert len(Tracker(places["STORE"], var_dir, "big", create=False).trials()) == 10
        assert (var_dir / "reports" / "big" / "index.html").exists()
        assert all(address.is_loopback for address in listening())
    finally:
        kill_marked(mark)
        server.close()


@pytest.fixture(scope="module")
def local(network):
    """A launcher on a cluster that it started, for the jobs of `tests.support.drivers.jobs`."""
    launcher = RayLauncher(2, run_job, ray_cluster.Cluster(max_retries=1))
    yield launcher
    launcher.close()


def test_the_same_outcomes_as_inline(local):
    assert_outcomes(local)
    assert_unsent(local)
    assert len(results_of(local, job("large", 20_000_000))[0]) == 20_000_000


def test_a_worker_that_always_dies_and_an_error_on_the_device_cost_only_their_cells(local):
    jobs = [job("die", signal.SIGKILL), *(job("square", x) for x in range(4))]
    outcomes = outcomes_of(local, jobs)
    [dead] = [o for o in outcomes if o.error]
    assert dead.job is jobs[0]
    assert re.match(r"worker died \(\w+", dead.error)
    assert sorted(o.result for o in outcomes if not o.error) == [0, 1, 4, 9]
    broken = outcomes_of(local, [job("fail", "CUDA error: an illegal memory access")] * 4)
    assert {o.error for o in broken} == {"ValueError: CUDA error: an illegal memory access"}
    assert [o.error for o in outcomes_of(local, [job("square", 2)] * 4)] == [None] * 4


def test_what_a_local_cluster_says_and_leaves_alone(local):
    from ray._common.usage import usage_lib

    for pid, threads, preloaded in results_of(local, *[job("surroundings")] * 6):
        assert (threads, preloaded) == (("1", "1"), [pid])
    assert local.wait(0.01) == []
    assert local.slots == 4, "two run and two wait"
    assert local.device == "cpu"
    assert not usage_lib.usage_stats_enabled()
    assert not getattr(signal.getsignal(signal.SIGTERM), "__module__", "").startswith("ray")


def test_what_a_job_reads_and_the_code_go_to_each_node_once(cluster, tmp_path):
    paths = {"data": str(tmp_path / "folder"), "truth": str(tmp_path / "truth.npz")}
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "folder" / "deep" / "file").write_text("content")
    (tmp_path / "truth.npz").write_text("truth")
    results, _, puts = in_a_process("drive", cluster.address, "read", 20, **paths)
    assert puts == 2, "a folder and a file, for twenty jobs"
    assert all(found == ["content", "truth", None] for _, found, _ in results)
    places = {place for place, _, _ in results}
    assert [sum(p.startswith(str(cluster.cache(n))) for p in places) for n in cluster.nodes] == [1, 1]
    assert not {c for _, _, c in results if "runtime_resources" not in c}, "what the driver runs"


def test_cells_share_gpus(tmp_path):
    """Ray believes the number that a node is started with; nothing is computed on them."""
    with new_cluster("gpus", tmp_path, nodes=1, cpus=8, gpus=2) as cluster:
        results, slots, _ = in_a_process("drive", cluster.address, "see_gpus", 16, gpus_per_cell=0.5)
    assert slots == 2 * 4, "two run on each GPU, and as many wait"
    assert {device for device, *_ in results} == {"cuda"}
    assert {gpu for _, gpu, *_ in results} == {"0", "1"}
    spans = [(gpu, start, end) for _, gpu, _, start, end in results]
    together = [sum(g == gpu and s <= start < e for g, s, e in spans) for gpu, start, _ in spans]
    assert max(together) == 2, "two at once on each GPU, never more"
    # Ray may start further workers while those that it has are slow; none has two jobs if it ends after one.
    assert len({pid for _, _, pid, *_ in results}) < len(results), "workers live over many jobs on GPUs too"

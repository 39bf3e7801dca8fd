"""Faults around whole drivers, run as processes: kills, signals, locks, servers, disks and clocks."""

import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import closing, contextmanager, suppress

import pytest

from harness.tracking.tracker import Tracker
from tests.support.drivers.driving import (
    CELLS,
    assert_each_cell_once,
    finish,
    kill,
    run,
    start,
    wait_for,
    wait_for_cells,
)

pytestmark = pytest.mark.slow


# Signals


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.soak)])
def test_stopped_at_random_moments(var_dir, finished_study, number):
    """Ctrl-C as from a terminal, where it reaches the workers too, or SIGTERM to the driver; some twice."""

    def press():
        if number == signal.SIGINT:
            os.killpg(driver.pid, number)
        else:
            driver.send_signal(number)

    generator, mark = random.Random(int(number)), f"signal{int(number)}"
    stopped = 0
    for attempt in range(4):
        driver = start(var_dir, mark)
        wait_for(driver, lambda line: line.startswith("synthetic_mosi"))
        time.sleep(generator.uniform(0, 5))
        for _ in range(1 + attempt % 2):
            press()
            time.sleep(0.1)
        try:
            driver.wait(20)
        except subprocess.TimeoutExpired:
            press()  # Python drops an interrupt in a destructor
        output = finish(driver, mark, status=driver.wait(60), seconds=60)
        # Python ends itself with SIGINT, for the shell 130 too, where the first signal met an exec of text,
        # such as a named tuple being made by an import, although it was handled.
        assert driver.returncode in (0, 130, -signal.SIGINT), output
        if driver.returncode:
            assert output.strip().splitlines()[-1] == "Stopped; run the same command to resume."
            stopped += 1
    assert stopped
    assert run(var_dir) == 0
    assert_each_cell_once(var_dir, finished_study)


# Databases


@contextmanager
def locked(path):
    """Hold the write lock of an SQLite file in another process."""
    code = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); "
    code += "c.execute('BEGIN EXCLUSIVE'); print('locked', flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "locked\n"
    try:
        yield
    finally:
        holder.communicate("")


@pytest.mark.parametrize("name", ["mlflow.db", pytest.param("ledger.db", marks=pytest.mark.soak)])
def test_a_locked_database_is_waited_for(var_dir, finished_study, name):
    """The lock outlasts the timeouts of SQLite and its clients (20 and 30 s)."""
    # A mark of its own: both run at once where tests are spread over processes.
    driver = start(var_dir, f"lock-{name}", jobs=1)
    wait_for_cells(driver, 3)
    with locked(var_dir / name):
        said = wait_for(driver, lambda line: line.startswith("Retrying"))
    assert "database is locked; all trained results are saved." in said
    assert str(var_dir / name) in said
    finish(driver, f"lock-{name}")
    assert_each_cell_once(var_dir, finished_study)


def test_a_database_overwritten_in_mid_matrix(var_dir, finished_study):
    """The driver stops at once and says which file; with a copy in its place the next start goes on."""
    driver = start(var_dir, "damage", jobs=1)
    wait_for_cells(driver, 5)
    driver.send_signal(signal.SIGSTOP)
    source, copy = (sqlite3.connect(var_dir / name) for name in ("mlflow.db", "copy.db"))
    with closing(source), closing(copy):
        source.backup(copy)
    for ending in ("", "-wal"):
        path = var_dir / f"mlflow.db{ending}"
        path.write_bytes(random.Random(1).randbytes(path.stat().st_size))
    driver.send_signal(signal.SIGCONT)
    output = finish(driver, "damage", status=1)
    last = output.strip().splitlines()[-1]
    assert str(var_dir / "mlflow.db") in last
    assert "restore it from a backup, or move it away" in last
    assert "all trained results are saved" in last
    assert run(var_dir) == 2
    for ending in ("", "-wal", "-shm"):
        (var_dir / f"mlflow.db{ending}").unlink(missing_ok=True)
    (var_dir / "copy.db").rename(var_dir / "mlflow.db")
    assert run(var_dir) == 0
    assert_each_cell_once(var_dir, finished_study)


class Server:
    """An MLflow server on a loopback port, which can be killed and started again."""

    def __init__(self, folder, log):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
        self.folder, self.log, self.process = folder, log.open("w"), None
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self):
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        options += ["--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}"]
        options += ["--artifacts-destination", str(self.folder / "server_artifacts")]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *options],
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
                return
            except OSError:
                time.sleep(0.2)
        raise AssertionError("the MLflow server does not start")

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def server(tmp_path, store_template):
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copy(store_template, folder / "server.db")
    server = Server(folder, tmp_path / "server.log")
    server.start()
    yield server
    server.kill()
    server.log.close()


def test_a_server_that_goes_away_and_comes_back(var_dir, finished_study, server):
    (var_dir / "mlflow.db").unlink()
    tracking = [f"tracking.uri={server.uri}"]
    driver = start(var_dir, "server", *tracking, jobs=1)
    wait_for_cells(driver, 3)
    server.kill()
    said = wait_for(driver, lambda line: line.startswith("Retrying"))
    assert f"the tracking store {server.uri} failed" in said
    server.start()
    finish(driver, "server")
    assert_each_cell_once(var_dir, finished_study, more=tracking)


# The disk


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 24 MB; needs the right to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder):
    """Fill the disk; return the file that fills it."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65536, 512):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))
    return filler


def test_a_full_disk_is_waited_for(small_disk, finished_study, new_var):
    var = new_var(small_disk / "var")
    driver = start(var, "full", jobs=1)
    wait_for_cells(driver, 4)
    filler = fill(small_disk)
    said = wait_for(driver, lambda line: line.startswith("Retrying"))
    # Both lie on the full disk, and either may be asked first.
    stores = ("the tracking store", "mlflow.db"), ("the ledger", "ledger.db")
    assert any(f"{kind} sqlite:///{var / file} failed" in said for kind, file in stores)
    filler.unlink()
    finish(driver, "full")
    assert_each_cell_once(var, finished_study)


def test_a_read_only_disk(small_disk, finished_study):
    """Test an empty folder, and one with a finished study."""
    var = small_disk / "var"
    for reason in ("Read-only file system", ""):
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        said = finish(start(var, "readonly", "launcher=inline"), "readonly", status=2)
        last = said.strip().splitlines()[-1]
        assert last.startswith("Error: ")
        assert str(var) in last
        assert reason in last
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
        finish(start(var, "readonly", "launcher=inline"), "readonly")
    assert_each_cell_once(var, finished_study)


# The clock


JUMPS = """
import time
plain, plain_ns = time.time, time.time_ns
def jump():
    return (int(time.monotonic()) % 3 - 1) * 86400
time.time = lambda: plain() + jump()
time.time_ns = lambda: plain_ns() + jump() * 10**9
"""


@pytest.mark.soak
def test_a_clock_that_jumps(var_dir, finished_study, tmp_path):
    """Every second it is a day later or earlier, in the driver and in its workers; a kill on top."""
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(JUMPS)
    clock = {"PYTHONPATH": os.pathsep.join([str(tmp_path / "clock"), os.environ.get("PYTHONPATH", "")])}
    driver = start(var_dir, "clock", **clock)
    wait_for_cells(driver, 6)
    kill(driver, "clock")
    finish(start(var_dir, "clock", **clock), "clock")
    assert_each_cell_once(var_dir, finished_study)
    tracker = Tracker(None, var_dir, "s", create=False)
    starts = [tracker.client.get_run(r.run_id).info.start_time for r in tracker.complete().values()]
    assert max(starts) - min(starts) > 86_000_000, "the clock jumped"
    assert len(starts) == CELLS

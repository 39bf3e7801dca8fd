"""A study whose artifacts this machine cannot write is refused before anything is trained."""

import contextlib
import os
import socket
import subprocess
import sys
import time

import pytest
from mlflow import MlflowClient

from harness.databases import sqlite_uri
from harness.errors import UserError
from harness.tracking.artifact_root import check_artifact_root
from harness.tracking.tracker import Tracker
from tests.support.drivers.driving import run

SERVER, LOOPBACK = "http://user:secret@tracking:5000", "http://127.0.0.1:5000"


@pytest.fixture
def blocked(tmp_path):
    """A folder that nobody can create, root included."""
    (tmp_path / "a file").touch()
    return tmp_path / "a file" / "root" / "1"


def test_a_study_of_a_folder_that_cannot_be_written_is_refused(blocked, var_dir, monkeypatch, capsys):
    MlflowClient(sqlite_uri(var_dir / "mlflow.db")).create_experiment("s", artifact_location=blocked.as_uri())
    monkeypatch.setattr("harness.launchers.job.train", None)
    assert run(var_dir, "methods=[none]", "seeds=[1]") == 2
    sentence = capsys.readouterr().err
    assert f"belong in {str(blocked)!r}" in sentence
    assert "(Not a directory); make it writable, or give another study=NAME" in sentence
    Tracker(None, var_dir, "s", create=False)  # a report needs no artifacts
    Tracker(None, var_dir, "other")


def test_a_server_must_name_a_folder_of_this_machine(blocked, tmp_path):
    """A loopback address may be that of a new server on this machine, or of a tunnel to another one."""
    here, away = (tmp_path / "x y" / "1").as_uri(), str(tmp_path / "of its machine" / "root" / "1")
    for server, location in ((SERVER, str(blocked)), (SERVER, here), (SERVER, away), (LOOPBACK, away)):
        with pytest.raises(UserError, match="restart the server with --serve-artifacts, or") as error:
            check_artifact_root(location, server)
        assert "secret" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a file"]
    check_artifact_root(here, LOOPBACK)
    check_artifact_root((tmp_path / "x y" / "2").as_uri(), SERVER)
    assert sorted(path.name for path in (tmp_path / "x y").iterdir()) == ["1", "2"]
    assert not list((tmp_path / "x y").glob("*/*"))


@pytest.mark.parametrize("location", ["mlflow-artifacts:/1", "s3://bucket/1", "dbfs:/1"])
def test_what_is_no_local_folder_is_left_to_its_own_errors(location):
    check_artifact_root(location, SERVER)


@contextlib.contextmanager
def serving(folder, *options):
    """The address of an MLflow server on the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    store = f"--backend-store-uri={sqlite_uri(folder / 'mlflow.db')}"
    command = [sys.executable, "-m", "mlflow", "server", store, f"--port={port}", "--workers=1", *options]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    quiet = dict(stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    server = subprocess.Popen(command, cwd=folder, env=environment, **quiet)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and socket.socket().connect_ex(("127.0.0.1", port)):
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


@pytest.mark.slow
def test_the_advised_restart_helps(var_dir, tmp_path, blocked):
    options = "--no-serve-artifacts", f"--default-artifact-root={blocked.parent}"
    refusal = pytest.raises(
        UserError, match=r"cannot be written .*; restart the server with --serve-artifacts"
    )
    with serving(var_dir, *options) as uri, refusal:
        Tracker(uri, tmp_path / "client", "s")
    with serving(var_dir, "--serve-artifacts") as uri:
        Tracker(uri, tmp_path / "client", "another").announce({"a.txt": "a"}, None)

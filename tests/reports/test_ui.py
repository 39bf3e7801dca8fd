"""`make ui`: the port, the link, and that the store's address stays hidden."""

import os
import socket
import subprocess
import sys

import pytest

from harness.errors import UserError
from reports import ui


def test_the_ui_prints_the_link_and_hides_the_address(stored, capsys, monkeypatch):
    called = []
    monkeypatch.setattr(ui.os, "execv", lambda *given: called.append(given))
    monkeypatch.setattr(ui.os, "environ", {"MLFLOW_WORKERS": "3"})
    monkeypatch.setattr(ui.os, "fork", lambda: 1)
    monkeypatch.setattr(ui.os, "wait", lambda: None)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setattr("reports.mlflow_links.LOCAL", f"http://127.0.0.1:{port}")
        assert ui.main([f"var_dir={stored}", "study=s", f"port={port}"]) == 2
        assert f"port={port} cannot be used; another program may listen" in capsys.readouterr().err
        ui.main([f"var_dir={stored}", "study=s"])
    [(_, command)] = called
    assert command[-4:-1] == ["--host", "127.0.0.1", "--port"]
    assert port < int(command[-1]) < port + 100
    said = f"The UI listens on port {command[-1]}; links in reports lead to port {port}."
    assert said in capsys.readouterr().out
    assert not any("sqlite" in part for part in command)
    assert ui.os.environ["MLFLOW_BACKEND_STORE_URI"].endswith("mlflow.db")
    assert ui.os.environ["MLFLOW_WORKERS"] == "3", "a user's own setting stays"
    assert ui.os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"


def test_it_waits_until_a_port_answers_or_its_process_has_ended():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert ui.answers("127.0.0.1", port, os.getpid())
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert not ui.answers("127.0.0.1", port, gone.pid)


@pytest.mark.parametrize("port", [0, 65536])
def test_a_port_out_of_range_is_refused(port):
    with pytest.raises(UserError, match=rf"^port must be between 1 and 65535, got {port}\.$"):
        ui.free_port("127.0.0.1", 5000, port)

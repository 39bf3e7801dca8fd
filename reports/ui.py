"""``python -m reports.ui study=NAME``: serve the MLflow UI and print the link to the study once it answers.

The UI listens on 127.0.0.1, so other machines cannot reach it.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Sequence

from harness.cli import asks_for_help, importing, leave

HELP = """\
usage: python -m reports.ui study=NAME [KEY=VALUE ...]

Serves the MLflow UI on 127.0.0.1 until Ctrl-C, and prints the link that opens the study.

  study=NAME                        name of the study, as passed to the benchmark
  port=N                            port of the UI (default: 5000, or the next one that is free)
  var_dir=DIR tracking.uri=URI      location of its results (default: var)"""

MAX_PORT = 65535
# By default MLflow starts four servers and eight runners of background jobs, which no study needs: 2 GB.
SMALL = {"MLFLOW_WORKERS": "1", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the link and replace this process by MLflow's UI; return the exit status if no UI is needed."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if asks_for_help(arguments):
        print(HELP)
        return 0
    from harness.config.compose import load_report, path_of
    from harness.databases import redact
    from harness.errors import UserError

    try:
        config = load_report(arguments)
        with importing():
            from harness.tracking.tracker import Tracker
            from reports.mlflow_links import LOCAL, Links

        tracker = Tracker(config.tracking.uri, path_of(config.var_dir), str(config.study), create=False)
        served = not tracker.uri.startswith(("http://", "https://"))
        host, default = LOCAL.removeprefix("http://").split(":")
        port = free_port(host, int(default), config.port) if served else 0
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    if not served:
        print(f"Open {Links(redact(tracker.uri).rstrip('/'), tracker.experiment_id).study()}")
        return 0
    if port != int(default):
        print(f"The UI listens on port {port}; links in reports lead to port {default}.", flush=True)
    address = f"http://{host}:{port}"
    # This process becomes the UI, so that a signal to it ends the UI. It waits here for its only child.
    server = os.getpid()
    if os.fork() == 0:
        try:
            if os.fork() == 0 and answers(host, port, server):
                print(f"Open {Links(address, tracker.experiment_id).study()}\nStop with Ctrl-C.", flush=True)
        finally:
            os._exit(0)
    os.wait()
    # Passed in the environment, because other users can read the arguments of a process.
    os.environ["MLFLOW_BACKEND_STORE_URI"] = tracker.uri
    for name, value in SMALL.items():
        os.environ.setdefault(name, value)
    command = [sys.executable, "-m", "mlflow", "ui", "--host", host, "--port", str(port)]
    os.execv(sys.executable, command)


def free_port(host: str, first: int, wanted: int | None) -> int:
    """Return the wanted port, or else the first free one of a hundred; raises UserError if there is none."""
    from harness.errors import UserError

    if wanted is not None and not 1 <= wanted <= MAX_PORT:
        raise UserError(f"port must be between 1 and {MAX_PORT}, got {wanted}.")
    for port in range(first, first + 100) if wanted is None else [wanted]:
        try:
            with socket.socket() as probe:
                # Servers set this option too: it allows a port that was closed a moment ago.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
                return port
        except OSError:
            continue
    if wanted is None:
        raise UserError(f"The ports {first} to {first + 99} are all in use; give another one with port=N.")
    raise UserError(f"port={wanted} cannot be used; another program may listen on it. Give another port.")


def answers(host: str, port: int, server: int) -> bool:
    """Wait until a process listens on a port; return False if it ends before."""
    import psutil

    while psutil.pid_exists(server):
        try:
            # A plain connection: an HTTP client would ask a proxy that the environment names.
            with socket.create_connection((host, port), timeout=5):
                return True
        except OSError:
            time.sleep(0.2)
    return False


if __name__ == "__main__":
    leave(main())

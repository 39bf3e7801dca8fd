"""``python -m reports.ui study=NAME``: serve the MLflow UI and print the link to the study.

The UI listens on 127.0.0.1, port 5000, so other machines cannot reach it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from harness.cli import asks_for_help, importing, leave

HELP = """\
usage: python -m reports.ui study=NAME [KEY=VALUE ...]

Serves the MLflow UI on 127.0.0.1:5000 until Ctrl-C, and prints the link that opens the study.

  study=NAME                        name of the study, as passed to the benchmark
  var_dir=DIR tracking.uri=URI      location of its results (default: var)"""


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
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    if tracker.uri.startswith(("http://", "https://")):
        print(f"Open {Links(redact(tracker.uri).rstrip('/'), tracker.experiment_id).study()}")
        return 0
    print(f"Open {Links(LOCAL, tracker.experiment_id).study()}\nStop with Ctrl-C.", flush=True)
    # Passed in the environment, because other users can read the arguments of a process.
    os.environ["MLFLOW_BACKEND_STORE_URI"] = tracker.uri
    host, port = LOCAL.removeprefix("http://").split(":")
    command = [sys.executable, "-m", "mlflow", "ui", "--host", host, "--port", port]
    os.execv(sys.executable, command)


if __name__ == "__main__":
    leave(main())

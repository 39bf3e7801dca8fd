"""``python -m reports.ui study=NAME``: the MLflow UI on this machine, and the link that opens the study.

Nothing but this machine can reach it: it listens on 127.0.0.1, port 5000.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from reports.links import LOCAL, Links

HOST, PORT = LOCAL.removeprefix("http://").split(":")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the link, then become the UI until Ctrl-C; returns the exit status where there is none."""
    from harness.config import load_report, path_of
    from harness.errors import UserError
    from harness.tracking import Tracker

    try:
        config = load_report(sys.argv[1:] if arguments is None else arguments)
        tracker = Tracker(config.tracking.uri, path_of(config.var_dir), str(config.study), create=False)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    if tracker.uri.startswith(("http://", "https://")):
        print(f"Open {Links(tracker.uri.rstrip('/'), tracker.experiment_id).study()}")
        return 0
    print(f"Open {Links(LOCAL, tracker.experiment_id).study()}\nStop with Ctrl-C.", flush=True)
    os.environ["MLFLOW_BACKEND_STORE_URI"] = tracker.uri  # not an argument: everybody may read those
    command = [sys.executable, "-m", "mlflow", "ui", "--host", HOST, "--port", PORT]
    os.execv(sys.executable, command)


if __name__ == "__main__":
    sys.exit(main())

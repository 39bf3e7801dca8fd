"""How long a command takes and how much memory it needs.

Linux counts to a new process what the one that started it had in memory. So a small one stands in between.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence

from tests.support.paths import ROOT


def timed(command: Sequence[str]) -> tuple[float, float]:
    """Wall seconds and peak memory in MB of a command that ends well, run from the top of the project."""
    between = [sys.executable, "-SP", __file__, *command]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(between, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    seconds, peak_mb = json.loads(done.stdout)
    return seconds, peak_mb


def main(command: Sequence[str]) -> int:
    """Run a command, its output unseen, and print seconds and MB; returns 1 where it ends badly."""
    started = time.perf_counter()
    silent = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    child = os.posix_spawn(command[0], list(command), os.environ, file_actions=silent)
    _, status, used = os.wait4(child, 0)
    sys.stdout.write(json.dumps([time.perf_counter() - started, used.ru_maxrss / 1024]))
    return int(status != 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

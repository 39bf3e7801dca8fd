"""``make soak``: two drivers at once, killed over and over with their workers, and then everything counted.

Rounds of small studies share one store. Two drivers are kept at work on the current round; a random process,
a driver or one of its workers, is killed with SIGKILL every few seconds. Once the time is up, the drivers
end in peace. Then every cell must have exactly one complete run, the numbers must be those of a study that
nothing disturbed, and no process may be left.
"""

import contextlib
import json
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import pandas as pd

from harness.config.compose import load_benchmark
from harness.plan import make_plan
from harness.tracking.tracker import Tracker
from tests.support.drivers.driving import (
    MATRIX,
    comparable,
    exported,
    run,
    start,
    wait_until_gone,
    workers_of,
)

SEED = 20261121
SEEDS_PER_ROUND = 4
PAUSE_S = (0.3, 3.0)
DRIVER_SHARE = 0.3
END_S = 600
SUMMARY = Path(__file__).with_name("soak_summary.json")
PACKAGES = ("torch", "mlflow", "sqlalchemy")


class Lane:
    """One of the two drivers, restarted whenever it ends."""

    def __init__(self, var, name):
        self.var, self.name = var, name
        self.round = 0
        self.log = (var.parent / f"{name}.log").open("a")
        self.driver = None
        self.begin(0)

    def begin(self, number):
        self.round = number
        settings = round_settings(number)
        self.driver = start(self.var, self.name, *settings, "report=false", jobs=1, output=self.log)

    def kill_driver(self):
        self.driver.send_signal(signal.SIGKILL)
        self.driver.wait()
        assert not wait_until_gone(self.name), "a worker outlived its driver"

    def kill_worker(self, generator):
        workers = workers_of(self.driver.pid)
        with contextlib.suppress(IndexError, ProcessLookupError):
            os.kill(generator.choice(workers), signal.SIGKILL)
            return True
        return False


def round_settings(number):
    seeds = [1 + number * SEEDS_PER_ROUND + i for i in range(SEEDS_PER_ROUND)]
    return [f"study=round{number}", f"seeds={seeds}"]


def soak(var, minutes):
    """Kill for some minutes, then let the drivers end; returns the counts of what happened."""
    counts = {"drivers": 0, "workers": 0, "exits": {}}
    lanes = [Lane(var, "soak-a"), Lane(var, "soak-b")]
    try:
        current = strike(lanes, random.Random(SEED), time.monotonic() + 60 * minutes, counts)
        deadline = time.monotonic() + END_S
        while any(lane.driver is not None for lane in lanes):
            assert time.monotonic() < deadline, "a driver does not end"
            time.sleep(1)
            for lane in lanes:
                if lane.driver is not None:
                    attend(lane, current, counts, last=True)
    finally:
        for lane in lanes:
            if lane.driver is not None:
                lane.kill_driver()
            lane.log.close()
    return counts | {"rounds": current + 1}


def strike(lanes, generator, until, counts):
    """Kill a driver or a worker every few seconds; returns the number of the last round that was begun."""
    current = 0
    while time.monotonic() < until:
        time.sleep(generator.uniform(*PAUSE_S))
        for lane in lanes:
            current = attend(lane, current, counts)
        lane = generator.choice(lanes)
        if generator.random() < DRIVER_SHARE:
            counts["drivers"] += lane.driver.poll() is None
            lane.kill_driver()
            lane.begin(lane.round)
        else:
            counts["workers"] += lane.kill_worker(generator)
    return current


def attend(lane, current, counts, last=False):
    """Restart a driver in the same round if cells failed, else in the next; return the round."""
    status = lane.driver.poll()
    if status is None:
        return current
    counts["exits"][str(status)] = counts["exits"].get(str(status), 0) + 1
    if status != 0:
        lane.begin(lane.round)
    elif last and lane.round == current:
        lane.driver = None
    else:
        current = max(current, lane.round + 1)
        lane.begin(current)
    return current


def count_cells(var, rounds):
    """Return the contents of the store at the end."""
    found = {"cells": 0, "duplicates": 0, "missing": 0, "unfinished": 0, "spooled": 0}
    for number in range(rounds):
        settings = round_settings(number)
        plan = make_plan(load_benchmark([f"var_dir={var}", *MATRIX, *settings]))
        tracker = Tracker(None, var, f"round{number}", create=False)
        complete = [stored.tags["cell_id"] for stored in tracker.runs()]
        found["cells"] += len(set(complete))
        found["duplicates"] += len(complete) - len(set(complete))
        found["missing"] += len({cell.cell_id for cell in plan.cells} - set(complete))
        found["unfinished"] += len(list(tracker.runs("attributes.status = 'RUNNING'")))
        found["spooled"] += len(list(tracker.folder("spool").glob("*")))
    return found


def equals_reference(var, reference, number):
    """Whether a round's numbers and predictions are those of a study that nothing disturbed."""
    study = f"round{number}"
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        assert run(reference, *round_settings(number), "report=false", study=study) == 0
        (mine, my_clips), (theirs, their_clips) = exported(var, study), exported(reference, study)
    pd.testing.assert_frame_equal(comparable(mine), comparable(theirs), check_exact=True)
    pd.testing.assert_frame_equal(my_clips, their_clips, check_exact=True)
    return len(theirs["cell_id"].unique())


def main(minutes):
    """Soak, and write the summary if all is well; returns the exit status."""
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    counts = soak(folder / "var", minutes)
    found = count_cells(folder / "var", counts["rounds"])
    compared = sum(
        equals_reference(folder / "var", folder / "reference", number)
        for number in sorted({0, counts["rounds"] - 1})
    )
    left = len(wait_until_gone("soak-a")) + len(wait_until_gone("soak-b"))
    summary = {
        "minutes": minutes,
        "seed": SEED,
        "drivers_at_once": 2,
        "driver_kills": counts["drivers"],
        "worker_kills": counts["workers"],
        "exits_of_drivers_not_killed": dict(sorted(counts["exits"].items())),
        "rounds": counts["rounds"],
        **found,
        "cells_equal_to_undisturbed_reference": compared,
        "processes_left": left,
        "versions": {"python": platform.python_version()} | {n: metadata.version(n) for n in PACKAGES},
    }
    print(json.dumps(summary, indent=1))
    nothing = ("duplicates", "missing", "unfinished", "spooled", "processes_left")
    whole = not any(summary[name] for name in nothing) and set(counts["exits"]) <= {"0", "1"}
    enough = counts["drivers"] + counts["workers"] >= min(100, 6 * minutes)
    if whole and enough:
        SUMMARY.write_text(json.dumps(summary, indent=1) + "\n")
        shutil.rmtree(folder)
        return 0
    print(f"FAILED; what is left stands in {folder}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(float(os.environ.get("MINUTES") or 15)))

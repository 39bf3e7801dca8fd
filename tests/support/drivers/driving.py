"""Code shared by tests of whole studies: a small matrix, drivers as processes, checks of the store."""

import functools
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pandas as pd
import psutil

from harness.benchmark import main
from harness.tracking.tracker import Tracker
from reports import export

TIMINGS = {"epoch_s", "train_s", "peak_memory_mb"}
MATRIX = [
    "datasets=[synthetic_mosi]",
    "dataset.synthetic_mosi.clips=60",
    "backbones=[tfn,lmf]",
    "methods=[none,ms_mix,'ms_mix{delta:0.4,sal:false}']",
    "seeds=[1111,1112]",
    "occlusion.ratios=[0,0.5,1]",
    "train.max_epochs=2",
    "backbone.tfn.text_out=4",
    "backbone.tfn.audio_hidden=4",
    "backbone.tfn.vision_hidden=4",
    "backbone.tfn.text_hidden=8",
    "report=false",  # drawing takes longer than training here; tests of reports ask for one
]
CELLS = 12
MARK = f"MSA_TEST_MARK_{os.getpid()}"  # parallel test processes have other marks
PROGRAM = ("-m", "harness.benchmark")


def run(var, *more, study="s", launcher="inline"):
    """Run the matrix in this process; returns the exit status."""
    return main([f"var_dir={var}", f"study={study}", f"launcher={launcher}", *MATRIX, *more])


def exported(var, study="s", *more):
    """All numbers and all predictions of a study."""
    out, predictions = var / f"{study}.csv", var / f"{study}.parquet"
    given = [f"var_dir={var}", f"study={study}", f"out={out}", f"predictions={predictions}", *more]
    assert export.main(given) == 0
    return pd.read_csv(out), pd.read_parquet(predictions)


@functools.cache
def _reference(var):
    """`exported` of a study that does not change any more."""
    return exported(var)


def copy_study(var, to):
    """Copy a study, its databases in one file each."""
    shutil.copytree(var, to)
    for name in ("mlflow.db", "ledger.db"):
        with closing(sqlite3.connect(to / name)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return to


def comparable(frame):
    """Return an export without columns that may differ between two runs of the same cells."""
    return frame[~frame["metric"].isin(TIMINGS)].drop(columns=["study", "run_id"]).reset_index(drop=True)


def comparable_bytes(path):
    """An export's CSV without what may differ between two runs of the same cells."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    lines = zip(path.read_bytes().splitlines()[1:], table["metric"], table["run_id"], strict=True)
    return [line.replace(run.encode(), b"") for line, metric, run in lines if metric not in TIMINGS]


def environment_of(mark, **more):
    """Return a process's environment: with its mark, without the token of this process's Ray cluster."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
    return {**own, MARK: mark, **more}


def start(var, mark, *more, jobs=2, program=PROGRAM, matrix=MATRIX, output=subprocess.PIPE, **environment):
    """Start a driver in a process group of its own; it and its children carry the mark in their environment.

    matrix: its settings, before ``more``.
    """

    return subprocess.Popen(
        [sys.executable, *program, f"var_dir={var}", "study=s", f"jobs={jobs}", *matrix, *more],
        env=environment_of(mark, **environment),
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # A shell's background job ignores Ctrl-C, and so would everything that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def marked_processes(mark):
    """Processes that carry the mark in their environment."""
    processes = psutil.process_iter(["environ"])
    return [process.pid for process in processes if (process.info["environ"] or {}).get(MARK) == mark]


def workers_of(pid):
    """The worker processes of a driver."""
    processes = psutil.process_iter(["ppid", "cmdline"])
    children = [process for process in processes if process.info["ppid"] == pid]
    return [child.pid for child in children if "spawn_main" in " ".join(child.info["cmdline"] or ())]


def wait_until_gone(mark, seconds=60.0):
    """Return the marked processes that still run after some time."""
    deadline = time.monotonic() + seconds
    while (left := marked_processes(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def assert_each_cell_once(var, reference, cells=CELLS, more=()):
    """One complete run per cell, none unfinished, every number equal to the reference's."""
    uri = next((m.partition("=")[2] for m in more if m.startswith("tracking.uri=")), None)
    tracker = Tracker(uri, var, "s", create=False)
    complete = [r.tags["cell_id"] for r in tracker.runs()]
    assert len(complete) == len(set(complete)) == cells
    assert not list(tracker.runs("attributes.status = 'RUNNING'"))
    assert not list(tracker.folder("spool").glob("*"))
    (mine, my_clips), (theirs, their_clips) = exported(var, "s", *more), _reference(reference)
    pd.testing.assert_frame_equal(comparable(mine), comparable(theirs), check_exact=True)
    pd.testing.assert_frame_equal(my_clips, their_clips, check_exact=True)


def wait_for(driver, found):
    """Read the driver's output up to the first line for which ``found`` is true; returns all of it."""
    lines = []
    for line in driver.stdout:
        lines.append(line)
        if found(line):
            return "".join(lines)
    raise AssertionError(f"the driver ended before: {''.join(lines)}")


def wait_for_cells(driver, count, cells=CELLS):
    """Read the driver's output until it has shown that many cells as done."""
    return wait_for(driver, lambda line: line.startswith(f"{count}/{cells} "))


def kill(driver, mark):
    """SIGKILL; its workers must follow."""
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    driver.stdout.close()
    assert not wait_until_gone(mark), "a worker outlived its driver"


def finish(driver, mark, status=0, seconds=300):
    """Wait for a driver's end; return its output."""
    output, _ = driver.communicate(timeout=seconds)
    assert driver.returncode == status, output
    assert "Traceback" not in output, output
    assert not wait_until_gone(mark)
    return output

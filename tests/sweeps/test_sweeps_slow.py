"""Sweeps whose driver or worker is killed, two drivers on one sweep, and a kill on a real PostgreSQL."""

import os
import signal
import time

import pytest

from harness.tracking.tracker import Tracker
from tests.support.drivers.driving import finish, kill, start, wait_for, workers_of
from tests.support.drivers.sweeping import (
    PROGRAM,
    SMALL,
    assert_each_trial_once,
    optuna_study,
    sweep,
    trials_of,
)

pytestmark = pytest.mark.slow
SLOWER = ["train.max_epochs=12"]  # long enough to be killed in mid-training
DELTA = ["param=delta", "report=false", *SLOWER]


@pytest.fixture(scope="module")
def reference(new_var):
    """The sweep as it ends when nothing disturbs it: inline."""
    var = new_var()
    assert sweep(var, *SLOWER, "report=false") == 0
    return var


def begin(var, mark, *more, jobs=2):
    return start(var, mark, *DELTA, *more, jobs=jobs, program=PROGRAM, matrix=SMALL)


def wait_for_trials(driver, count):
    return wait_for(driver, lambda line: line.startswith(f"{count}/10 "))


@pytest.mark.parametrize("stores", ["files", pytest.param("postgres", marks=pytest.mark.soak)])
def test_a_killed_driver_repeats_and_loses_nothing(var_dir, reference, postgres, stores):
    """With Optuna, ledger and MLflow in files, and in one database."""
    uri = postgres() if stores == "postgres" else None
    keys = ("tracking.uri", "ledger.uri", "sweep.storage")
    addresses = [f"{key}={uri}" for key in keys] if uri else []
    driver = begin(var_dir, stores, *addresses)
    said = wait_for_trials(driver, 4)
    kill(driver, stores)
    tracker = Tracker(uri, var_dir, "s", create=False)
    trained = {r.tags["cell_id"]: r.run_id for r in tracker.runs()}
    said += finish(begin(var_dir, stores, *addresses), stores)
    assert_each_trial_once(var_dir, reference, uri=uri, storage=uri)
    complete = tracker.complete()
    assert all(complete[cell_id].run_id == run_id for cell_id, run_id in trained.items())
    assert "s3cret" not in said + str(tracker.trials())


def test_a_killed_worker_costs_its_trial_a_retry_within_the_run(var_dir, reference):
    driver = begin(var_dir, "worker")
    wait_for_trials(driver, 2)
    time.sleep(0.5)  # into a training
    os.kill(workers_of(driver.pid)[0], signal.SIGKILL)
    finish(driver, "worker")
    assert_each_trial_once(var_dir, reference)
    assert len(optuna_study(var_dir).trials) == 10, "no trial was begun twice"


@pytest.mark.soak
def test_tpe_with_pruning_survives_kills(var_dir):
    """The budget is spent exactly, whichever process dies."""
    asked = ["param=all", "sweep.trials=12", "report=false", *SLOWER]
    options = {"program": PROGRAM, "matrix": SMALL}
    for after in (3, 7):
        driver = start(var_dir, "tpe", *asked, **options)
        wait_for(driver, lambda line, after=after: line.startswith(f"{after}/12 "))
        kill(driver, "tpe")
    finish(start(var_dir, "tpe", *asked, **options), "tpe")
    assert len(trials_of(var_dir)) == 12
    states = [t.state.name for t in optuna_study(var_dir, "all").trials if t.user_attrs.get("why") != "lost"]
    assert len(states) == 12
    assert set(states) <= {"COMPLETE", "PRUNED"}

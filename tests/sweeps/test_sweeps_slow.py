"""Sweeps whose driver or worker is killed, two drivers on one sweep, and all of it on a real PostgreSQL."""

import os
import signal
import time

import optuna
import pytest

from harness.tracking.tracker import Tracker
from tests.support.driving import finish, kill, start, wait_for, workers_of
from tests.support.sweeping import PROGRAM, SMALL, assert_each_trial_once, optuna_study, sweep, trials_of

pytestmark = pytest.mark.slow
SLOWER = ["train.max_epochs=12"]  # long enough to be met in mid-training
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


@pytest.mark.parametrize("after", [4, *(pytest.param(n, marks=pytest.mark.soak) for n in (1, 8))])
def test_a_killed_driver_repeats_and_loses_nothing(var_dir, reference, after):
    driver = begin(var_dir, f"driver{after}")
    wait_for_trials(driver, after)
    kill(driver, f"driver{after}")
    trained = {r.tags["cell_id"]: r.run_id for r in Tracker(None, var_dir, "s", create=False).runs()}
    finish(begin(var_dir, f"driver{after}"), f"driver{after}")
    assert_each_trial_once(var_dir, reference)
    complete = Tracker(None, var_dir, "s", create=False).complete()
    assert all(complete[cell_id].run_id == run_id for cell_id, run_id in trained.items())


def test_a_killed_worker_costs_its_trial_a_retry_within_the_run(var_dir, reference):
    driver = begin(var_dir, "worker")
    wait_for_trials(driver, 2)
    time.sleep(0.5)
    os.kill(workers_of(driver.pid)[0], signal.SIGKILL)
    finish(driver, "worker")
    assert_each_trial_once(var_dir, reference)
    assert len(optuna_study(var_dir).trials) == 10, "no trial was begun twice"


@pytest.mark.soak
def test_a_worker_that_always_dies_fails_its_trials_with_the_reason(var_dir):
    """With no retries left; the next call tries them again."""
    driver = begin(var_dir, "dying", "sweep.retries=0")
    wait_for_trials(driver, 2)
    time.sleep(0.5)
    os.kill(workers_of(driver.pid)[0], signal.SIGKILL)
    output = finish(driver, "dying", status=1)
    assert "worker died (signal 9: killed; often out of memory)" in output
    failed = trials_of(var_dir).query("state == 'failed'")
    assert len(failed) == 1
    finish(begin(var_dir, "dying", "sweep.retries=0"), "dying")
    done = trials_of(var_dir).query("state == 'complete'")
    assert sorted(done["params"]) == sorted(set(done["params"]))
    assert len(done) == 10


@pytest.mark.soak
def test_two_drivers_share_a_sweep(var_dir, reference):
    first, second = begin(var_dir, "one", jobs=1), begin(var_dir, "two", jobs=1)
    finish(first, "one")
    finish(second, "two")
    assert_each_trial_once(var_dir, reference)
    assert len(optuna_study(var_dir).trials) == 10


def test_a_sweep_on_postgres_with_two_workers_its_driver_killed(var_dir, reference, postgres):
    """Optuna, ledger and MLflow in one database."""
    uri = postgres()
    addresses = [f"tracking.uri={uri}", f"ledger.uri={uri}", f"sweep.storage={uri}"]
    driver = begin(var_dir, "postgres", *addresses)
    said = wait_for_trials(driver, 3)
    kill(driver, "postgres")
    said += finish(begin(var_dir, "postgres", *addresses), "postgres")
    assert_each_trial_once(var_dir, reference, uri=uri, storage=uri)
    assert "s3cret" not in said
    for run in Tracker(uri, var_dir, "s", create=False).trials():
        assert "s3cret" not in str(run)


@pytest.mark.soak
def test_tpe_with_pruning_survives_kills(var_dir):
    """A budget is spent exactly, whoever dies."""
    asked = ["param=all", "sweep.trials=12", "report=false", *SLOWER]

    def begin_all():
        return start(var_dir, "tpe", *asked, program=PROGRAM, matrix=SMALL)

    for after in (3, 7):
        driver = begin_all()
        wait_for(driver, lambda line, after=after: line.startswith(f"{after}/12 "))
        kill(driver, "tpe")
    finish(begin_all(), "tpe")
    trials = trials_of(var_dir)
    assert len(trials) == 12
    study = optuna_study(var_dir, "s/all/tfn/synthetic_mosi", "all")
    ended = [t for t in study.trials if t.user_attrs.get("why") != "lost"]
    assert len(ended) == 12
    assert all(t.state in (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED) for t in ended)

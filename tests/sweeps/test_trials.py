"""Searches with stores in memory: no trial is lost or repeated, whenever a driver dies."""

import contextlib
import dataclasses
import itertools
from collections import Counter

import numpy as np
import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from backbones import BACKBONES
from backbones.base import resolve_settings
from harness.errors import StoreError, UserError
from harness.launchers.base import Job
from harness.matrix import Cell
from harness.study.driver import Driver
from harness.train.result import Result
from methods import METHODS
from sweeps.search import Search, SearchBudget
from sweeps.space import Range, Space
from sweeps.trials import Trials
from tests.support.drivers.fakes import FakeLauncher, Killed, Memory, Silent, fake_clock, make_writer

LMF = resolve_settings(BACKBONES["lmf"], BACKBONES["lmf"].Settings(max_epochs=8), "mosi")
BASES = [
    Cell("d", "mosi", 3.0, "f", "lmf", LMF, "ms_mix", METHODS["ms_mix"].Settings(), seed) for seed in (1, 2)
]
DELTAS = (0.0, 0.2, 0.4, 0.6)
GRID = Space("delta", "ms_mix", "grid", {"delta": DELTAS}, {})
TPE = Space("all", "ms_mix", "tpe", {"delta": Range(0.0, 0.9), "heads": (1, 2, 4, 8)}, {})
BUDGET, FEW = SearchBudget(6, (1, 2)), SearchBudget(3, (1, 2))
NAMES = ("param", "state_values", "intermediate_value", "user_attr", "system_attr")
WRITES = ("create_new_study", "set_study_user_attr", "create_new_trial", *(f"set_trial_{n}" for n in NAMES))


def storage_in(memory):
    """Optuna's own storage in memory, where any write may be the last thing that its driver does."""
    storage = InMemoryStorage()
    for name in WRITES:
        write = getattr(storage, name)
        setattr(storage, name, lambda *a, n=name, w=write, **k: memory.call(n, lambda: w(*a, **k)))
    return storage


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    monkeypatch.setattr("harness.study.unlogged.sync", lambda path: None)  # no machine fails here
    return fake_clock(monkeypatch)


def loss_of(cell):
    """The validation loss of a setting, least at delta 0.4; seeds differ by a constant."""
    return (cell.method_settings.delta - 0.4) ** 2 + 0.01 * cell.seed


def loss_at(space, values):
    """The mean of a setting's losses over the seeds."""
    return np.mean([loss_of(space.apply(base, values)) for base in BASES])


def train(job):
    """A training of 8 epochs, whose validation loss comes down to its cell's; it pauses where it is told."""
    loss, epochs = loss_of(job.cell), job.cell.backbone_settings.max_epochs
    curve = [loss + (epochs - epoch) / epochs for epoch in range(1, epochs + 1)]
    if job.pause_after is not None:
        return Result("paused", curves={"valid_loss": curve[: job.pause_after]})
    return Result("complete", {"valid": {"loss": loss}, "test": {"mae": 10 * loss}})


class Sweep:
    """A sweep whose stores outlive its drivers."""

    def __init__(self, folder, space=GRID, budget=BUDGET, results=train):
        self.memory, self.folder = Memory(), folder
        self.storage = storage_in(self.memory)
        self.space, self.budget, self.results, self.bases = space, budget, results, BASES
        self.checkpoints, self.tags = folder / "checkpoints", {"sweep": "delta"}

    def drive(self, owner="me", retry_diverged=False, slots=2, one_by_one=None, **changes):
        self.supply = self.begin(owner, retry_diverged, **changes)
        launcher = FakeLauncher(self.memory, self.results)
        launcher.slots, launcher.one_by_one = slots, one_by_one
        writer, job_of = self.supply.writer, lambda cell: Job(cell, "", "cpu")
        summary = Driver(self.supply, writer, launcher, Silent(), job_of, retry_diverged).run()
        self.memory.alive.discard(owner)
        return summary

    def begin(self, owner="me", retry_diverged=False, **changes):
        """Return a driver's queue, begun."""
        tags = self.tags
        places = {"checkpoints": self.checkpoints, "labels": lambda cell: tags}
        writer = make_writer(self.memory, self.folder, owner, **places)
        space, budget = changes.pop("space", self.space), changes.pop("budget", self.budget)
        search = Search(
            "s/delta", self.storage, "memory", writer.ledger, space, self.bases, budget, **changes
        )
        supply = Trials([search], writer, Silent(), "delta", retries=2)
        supply.begin(retry_diverged)
        return supply

    @property
    def trials(self):
        study = optuna.load_study(study_name="s/delta", storage=self.storage)
        return study.get_trials(deepcopy=False)

    def ended(self):
        """Return settings and values of the trials that were not retried."""
        return [(t.params, t.value) for t in self.supply.searches[0].ended()]


def assert_whole_grid(sweep):
    deltas = sweep.space.settings["delta"]
    values = {params["delta"]: value for params, value in sweep.ended()}
    assert len(sweep.ended()) == len(deltas)
    assert values == {delta: loss_at(GRID, {"delta": delta}) for delta in deltas}
    assert {t.values["delta"] for t in sweep.memory.trials} == set(deltas)
    assert len({t.number for t in sweep.memory.trials}) == len(deltas)
    assert not [t for t in sweep.trials if t.state in (TrialState.RUNNING, TrialState.WAITING)]
    cell_ids = [run["cell_id"] for run in sweep.memory.complete()]
    assert len(cell_ids) == len(set(cell_ids)) == 2 * len(deltas)


@pytest.mark.parametrize("slots", [1, 2, 7])
def test_a_grid_is_exhausted_in_its_order_and_never_pruned(tmp_path, slots):
    sweep = Sweep(tmp_path, budget=SearchBudget(4, (1, 2), prune_at=(0.25, 0.5)))
    summary = sweep.drive(slots=slots)
    assert_whole_grid(sweep)
    assert [t.params["delta"] for t in sweep.trials] == list(DELTAS)
    assert not any(t.intermediate_values for t in sweep.trials)
    assert (summary.trained, summary.complete) == (8, True)
    assert all(r["tags"] == {"sweep": "delta"} for r in sweep.memory.complete())
    assert [t.default for t in sweep.memory.trials] == [False, True, False, False]
    best = min(sweep.memory.trials, key=lambda t: t.value)
    assert (best.values, best.metrics["test/mae"]) == ({"delta": 0.4}, pytest.approx(0.15))
    again = sweep.drive("next")
    assert (again.trained, again.total) == (0, 0)
    assert len(sweep.memory.trials) == len(DELTAS)


THREE = Space("delta", "ms_mix", "grid", {"delta": DELTAS[:3]}, {})


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def failing_sweeps(folder, space, when, error_of, step):
    """Sweeps of which one store call each fails, before or after it did its work, with a list for its name.

    It is every ``step``th call; the slow tests take each.

    In the end every setting ended once, the one without the sweep among them, and no cell was trained twice.
    """
    for place in itertools.count(1, step):
        sweep, calls, names = Sweep(folder / str(place), space, FEW), itertools.count(1), []

        def strike(name, place=place, calls=calls, names=names):
            if next(calls) == place:
                names.append(name)
                raise error_of(name)

        setattr(sweep.memory, when, strike)
        yield sweep, names
        if space is THREE:
            assert_whole_grid(sweep)
        else:
            assert len(sweep.ended()) == len({t.number for t in sweep.memory.trials}) == FEW.trials
            assert [params for params, _ in sweep.ended()].count({"delta": 0.2, "heads": 4}) == 1
        assert set(sweep.memory.handed_out.values()) == {1}
        if not names:
            return


@pytest.mark.parametrize(
    ("space", "when", "step"),
    [(THREE, "after_call", 3), slow(THREE, "after_call", 1), slow(TPE, "before_call", 1)],
)
def test_killed_at_every_store_call(tmp_path, space, when, step):
    """Every setting of a grid ends exactly once, a budget is spent exactly, and no cell is trained twice."""
    kills = 0
    for sweep, names in failing_sweeps(tmp_path, space, when, lambda name: Killed, step):
        with contextlib.suppress(Killed):
            sweep.drive("first")
        kills += len(names)
        sweep.memory.alive.clear()
        setattr(sweep.memory, when, lambda name: None)
        sweep.drive("second")
    assert kills > 50 / step


def test_killed_over_and_over(tmp_path):
    for seed in range(15):
        generator, sweep = np.random.default_rng(seed), Sweep(tmp_path / str(seed))

        def strike(name, generator=generator):
            if generator.random() < 0.03:
                raise Killed

        for number in range(60):
            sweep.memory.before_call = strike if number < 59 else lambda name: None
            try:
                sweep.drive(f"driver{number}")
                break
            except Killed:
                sweep.memory.alive.clear()
        assert_whole_grid(sweep)


def test_a_cell_that_failed_is_tried_again_and_its_trial_with_it(tmp_path):
    deaths = {(0.4, 1): 2, (0.6, 2): 3}

    def results(job):
        key = job.cell.method_settings.delta, job.cell.seed
        if deaths.get(key, 0):
            deaths[key] -= 1
            return "worker died (signal 9: killed)"
        return train(job)

    sweep = Sweep(tmp_path, results=results)
    summary = sweep.drive()
    failed = [t for t in sweep.memory.trials if t.state == "failed"]
    assert [(t.values, t.reason) for t in failed] == [({"delta": 0.6}, "worker died (signal 9: killed)")]
    assert len(summary.failed) == 1
    assert len(sweep.ended()) == 4
    # The next call retries the trial like a failed cell, although it died three times.
    sweep.drive("next")
    assert sorted(params["delta"] for params, value in sweep.ended() if value is not None) == list(DELTAS)
    assert len(sweep.memory.complete()) == 8


def test_a_diverged_trial_fails_with_its_reason_and_the_sweep_goes_on(tmp_path):
    def results(job):
        bad = job.cell.method_settings.delta == 0.2 and job.cell.seed == 2
        return Result("diverged", reason="a loss is not finite at epoch 1, step 2") if bad else train(job)

    sweep = Sweep(tmp_path, results=results)
    sweep.drive()
    assert [t.state for t in sweep.memory.trials] == ["complete", "failed", "complete", "complete"]
    assert sweep.memory.trials[1].reason == "diverged: a loss is not finite at epoch 1, step 2"
    sweep.results = train
    sweep.drive("next")
    assert sweep.memory.trained[sweep.memory.trials[1].cells[2]] == 1, "a divergence is final"
    assert len(sweep.trials) == 4
    sweep.drive("third", retry_diverged=True)
    deltas = {params["delta"] for params, value in sweep.ended() if value is not None}
    assert deltas == set(DELTAS)


def test_an_undefined_objective_fails_its_trial(tmp_path):
    def results(job):
        loss = float("nan") if job.cell.method_settings.delta == 0.6 else loss_of(job.cell)
        return Result("complete", {"valid": {"loss": 0.0, "corr": loss}})

    sweep = Sweep(tmp_path, budget=SearchBudget(4, (1, 2), "corr"), results=results)
    sweep.drive()
    assert sweep.memory.trials[3].state == "failed"
    assert "undefined" in sweep.memory.trials[3].reason
    study = optuna.load_study(study_name="s/delta", storage=sweep.storage)
    assert (study.direction.name, study.best_params) == ("MAXIMIZE", {"delta": 0.0})


def test_the_hopeless_are_pruned_and_what_goes_on_ends_as_it_would_have(tmp_path):
    """Nor do trials that ended early leave checkpoints."""
    folder, calls = tmp_path / "checkpoints", []
    folder.mkdir()

    def results(job):
        calls.append((job.cell, job.pause_after))
        (folder / f"{job.cell.cell_id}.npz").write_bytes(b"state")
        bad = job.cell.method_settings.heads == 8 and job.cell.seed == 2 and job.pause_after is None
        return Result("diverged", reason="a loss is not finite") if bad else train(job)

    sweep = Sweep(tmp_path, TPE, SearchBudget(30, (1, 2), prune_at=(0.25, 0.5)), results)
    sweep.drive()
    states = Counter(t.state for t in sweep.memory.trials)
    assert (states.keys(), states.total()) == ({"complete", "pruned", "failed"}, 30)
    assert states["pruned"] > 5
    pruned = [t for t in sweep.trials if t.state == TrialState.PRUNED]
    complete = [t for t in sweep.trials if t.state == TrialState.COMPLETE]
    assert np.mean([t.value for t in complete]) < np.mean([t.value for t in pruned])
    for trial in complete:
        assert sorted(trial.intermediate_values) == [2, 4]
        assert trial.value == pytest.approx(loss_at(TPE, trial.params))
        assert trial.intermediate_values[4] == pytest.approx(trial.value + 0.5)
        first = TPE.apply(BASES[0], trial.params)
        assert [pause for cell, pause in calls if cell == first] == [2, 4, None]
    hopeless = [TPE.apply(BASES[0], trial.params) for trial in pruned]
    assert not [cell for cell in hopeless if (cell, None) in calls]
    assert not list(folder.iterdir())
    left = folder / f"{hopeless[0].cell_id}.npz"
    left.write_bytes(b"of a driver that was killed before it removed it")
    sweep.drive("next")
    assert not left.exists()


def test_trials_use_the_cells_of_others_and_of_the_matrix(tmp_path):
    sweep = Sweep(tmp_path, Space("x", "ms_mix", "tpe", {"heads": (4,)}, {}))
    sweep.drive(slots=6)
    assert list(sweep.memory.trained.values()) == [1, 1]
    assert [value for _, value in sweep.ended()] == [loss_at(TPE, {})] * BUDGET.trials
    # A cell of the matrix keeps its place.
    sweep = Sweep(tmp_path, Space("delta", "ms_mix", "grid", {"delta": (0.2,)}, {}))
    sweep.tags = {}
    sweep.drive("benchmark")
    sweep.storage, sweep.space, sweep.tags = storage_in(sweep.memory), GRID, {"sweep": "delta"}
    sweep.drive("sweep")
    assert set(sweep.memory.trained.values()) == {1}
    tags = [r["tags"] for r in sweep.memory.complete()]
    assert (tags.count({}), tags.count({"sweep": "delta"})) == (2, 6)
    # A trial with a cell that was done is not compared at an epoch.
    sweep = Sweep(tmp_path, TPE, SearchBudget(1, (1, 2), prune_at=(0.25, 0.5)))
    sweep.bases = BASES[:1]
    sweep.drive("one seed", budget=SearchBudget(1, (1,)))
    sweep.storage, sweep.bases = storage_in(sweep.memory), BASES
    sweep.drive("both")
    [trial] = sweep.trials
    assert not trial.intermediate_values
    assert trial.value == pytest.approx(loss_at(TPE, {}))


@pytest.mark.parametrize(
    ("changes", "of_cells", "words"),
    [
        ({"space": Space("delta", "ms_mix", "grid", {"delta": (0.0, 0.2)}, {})}, {}, "space"),
        ({"budget": SearchBudget(6, (1, 3))}, {}, "seeds=[1, 2] (now [1, 3])"),
        ({"budget": SearchBudget(6, (1, 2), "mae")}, {}, "sweep.objective=loss (now mae)"),
        ({"store": "1-200"}, {}, "in another tracking store"),
        ({}, {"fingerprint": "g"}, "cell.fingerprint=f (now g)"),
        ({}, {"results_version": 99}, "(now 99)"),
        ({}, {"backbone_settings": dataclasses.replace(LMF, max_epochs=9)}, "train.max_epochs=8 (now 9)"),
    ],
)
def test_another_request_is_refused_with_what_differs(tmp_path, changes, of_cells, words):
    sweep = Sweep(tmp_path)
    sweep.drive(store="1-100")
    sweep.bases = [dataclasses.replace(base, **of_cells) for base in BASES]
    with pytest.raises(UserError, match=r"sweep\.name=NAME") as caught:
        sweep.drive("next", **{"store": "1-100", **changes})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_drivers_share_a_search(tmp_path):
    """While the first is in the middle of a trial, the second takes the others, and waits for that one."""
    sweep = Sweep(tmp_path)
    drivers, asked = iter(["second"]), itertools.count()

    def results(job):
        for owner in drivers:
            sweep.drive(owner)  # comes and goes while the first one's launcher is at work
        return train(job)

    def kill_both(name):
        if len(sweep.memory.trials) == len(DELTAS) - 1 and next(asked) > 200:
            raise Killed

    sweep.results, sweep.memory.before_call = results, kill_both
    with pytest.raises(Killed):
        sweep.drive("first")
    assert len(sweep.memory.complete()) == 2 * (len(DELTAS) - 1)
    sweep.results, sweep.memory.before_call = train, lambda name: None
    sweep.memory.alive.clear()
    sweep.drive("third")
    assert_whole_grid(sweep)
    # Drivers that begin together propose different settings.
    sweep = Sweep(tmp_path, TPE, SearchBudget(12, (1, 2)))
    supplies = [sweep.begin(owner) for owner in ("one", "two", "three")]
    asked = [supply.searches[0].next().params for _ in range(3) for supply in supplies]
    assert len({tuple(sorted(params.items())) for params in asked}) == 9


@pytest.mark.parametrize(
    ("space", "when", "step"),
    [slow(THREE, "before_call", 1), (TPE, "after_call", 3), slow(TPE, "after_call", 1)],
)
def test_an_error_at_any_call_is_waited_out(tmp_path, space, when, step):
    names, gone = set(), {name: optuna.exceptions.StorageInternalError for name in WRITES}
    errors = failing_sweeps(tmp_path, space, when, lambda name: gone.get(name, StoreError)("gone"), step)
    for sweep, failed in errors:
        sweep.drive()
        names.update(failed)
    assert {*WRITES[2:5], "claim", "release", "log_trial", "create_run"} <= names


@pytest.mark.parametrize("seed", range(4))
def test_pruned_trials_may_share_cells_with_others_in_flight(tmp_path, seed):
    """Cells end one by one in any order, and pause where another trial's order said so."""
    space = Space("x", "ms_mix", "tpe", {"heads": (1, 4), "delta": (0.0, 0.4)}, {})
    sweep = Sweep(tmp_path, space, SearchBudget(30, (1, 2), prune_at=(0.25, 0.5)))
    sweep.drive(slots=5, one_by_one=np.random.default_rng(seed))
    states = [t.state for t in sweep.memory.trials]
    assert (len(states), states.count("failed")) == (30, 0)
    for trial in sweep.trials:
        loss = loss_at(space, trial.params)
        at_epochs = {epoch: loss + (8 - epoch) / 8 for epoch in trial.intermediate_values}
        assert trial.intermediate_values == pytest.approx(at_epochs), "values of their own epochs"


def test_cells_that_were_deleted_are_trained_again(tmp_path):
    sweep = Sweep(tmp_path)
    sweep.drive()
    gone = sweep.memory.trials[1].cells[2]
    for run in sweep.memory.runs.values():
        run["status"] = "KILLED" if run["cell_id"] == gone else run["status"]
    sweep.memory.claims.clear()
    sweep.drive("next")
    assert sweep.memory.trained[gone] == 2
    assert sorted(params["delta"] for params, _ in sweep.ended()) == list(DELTAS)
    assert [t.state for t in sweep.memory.trials] == ["complete"] * 5


def test_a_driver_that_stood_still_ends_nothing_that_another_took(tmp_path):
    sweep = Sweep(tmp_path, TPE, SearchBudget(3, (1, 2), prune_at=(0.5,)))
    slow = sweep.begin("slow")
    trial = slow.searches[0].next()
    sweep.memory.alive.discard("slow")  # its claim falls
    quick = sweep.begin("quick").searches[0]
    assert quick.next() is not None
    assert slow.searches[0].report(trial, 1.0, 4)
    assert not slow.searches[0].tell(trial.number, TrialState.COMPLETE, 1.0, ("", ""))
    assert sweep.trials[trial.number].user_attrs["why"] == "lost"


def test_the_setting_without_the_sweep_is_never_pruned(tmp_path):
    def results(job):
        result = train(job)
        if job.pause_after is not None and job.cell.method_settings.delta == 0.2:
            return Result("paused", curves={"valid_loss": [9.0] * job.pause_after})
        return result

    sweep = Sweep(tmp_path, TPE, SearchBudget(30, (1, 2), prune_at=(0.25,)), results)
    assert sweep.begin("dead").searches[0].next().params["delta"] == 0.2
    sweep.memory.alive.discard("dead")  # so it is the last in the queue
    sweep.drive()
    default = next(t for t in sweep.memory.trials if t.default)
    assert default.state == "complete"
    assert "pruned" in [t.state for t in sweep.memory.trials]

"""A search: an Optuna study of a search space on one backbone and one dataset.

A search enqueues all its trials when it begins: the points of a grid in order, or as many empty trials as the
budget allows, whose parameters the sampler suggests when a driver takes them. Drivers that share a search
therefore neither repeat nor exceed it. A trial stores its driver's name, and each driver claims its own name
in the ledger; a running trial whose driver holds no claim fails, and its parameters are enqueued again.

NOTE[DIFF] no ``GridSampler``: under ask and tell it raises after its last point, gives the last points to
two drivers that ask at once, and never repeats a point whose driver was killed while it asked.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from harness.claims.ledger import Ledger
from harness.code import code_tags
from harness.errors import UserError
from harness.matrix import Cell
from harness.metrics import DIRECTION
from harness.retry import Call, retried
from harness.tracking.tags import flatten
from harness.train.seeds import seed_for
from sweeps.space import Choices, Range, Space
from sweeps.storage import answers

# Why a trial failed: its driver ended, a cell failed too often or diverged, or the objective is undefined.
LOST, FAILED, DIVERGED, UNDEFINED = "lost", "failed", "diverged", "undefined"
MAX_DIFFERENCES = 3  # named in an error message
# Key of the stored request -> setting of the command line.
SETTING_OF = {
    "budget.seeds": "seeds",
    "budget.trials": "sweep.trials",
    "budget.objective": "sweep.objective",
    "budget.prune_at": "sweep.prune_at",
    "budget.epochs": "train.max_epochs",
}
STARTUP_TRIALS = 5  # number of trials that must end before any is pruned


@dataclass(frozen=True)
class SearchBudget:
    """Budget and objective of a search.

    trials: number of settings, unless the sampler is a grid. seeds: seeds of each trial. objective: "loss" or
    a metric, on the validation split. prune_at: fractions of the epochs after which trials may be pruned.
    """

    trials: int
    seeds: tuple[int, ...]
    objective: str = "loss"
    prune_at: tuple[float, ...] = ()

    @property
    def maximised(self) -> bool:
        """Whether a higher objective is better."""
        return DIRECTION[self.objective] > 0


@dataclass
class Search:
    """One driver's view of a search. All calls are idempotent and can be retried.

    Args:
        name: name of the Optuna study. address: address of its storage, for messages. bases: the cells with
            default settings, one per seed. store: identity of the tracking store that holds the cells.
            device: kind of device that trains them. mine: numbers of this driver's running trials.
            open: whether more trials may come.

    Raises (all methods that use the storage):
        StoreError: the storage or the ledger still fails after the ledger's retries.
    """

    name: str
    storage: optuna.storages.BaseStorage
    address: str
    ledger: Ledger
    space: Space
    bases: Sequence[Cell]
    budget: SearchBudget
    store: str = ""
    device: str = "cpu"
    mine: set[int] = field(default_factory=set)
    open: bool = True

    @property
    def retry(self) -> Call:
        """The ledger's retry policy, which also applies to calls of the storage."""
        return self.ledger.retry

    @retried
    def begin(self, retry_diverged: bool = False) -> None:
        """Begin or resume the search.

        Raises UserError if it was begun with another request, or if its cells are in another store.
        """
        self.ledger.claim(owner_claim(self.ledger.owner))
        with self._alone(), answers(self.address):
            self.study = optuna.create_study(
                storage=self.storage,
                study_name=self.name,
                load_if_exists=True,
                direction="maximize" if self.budget.maximised else "minimize",
                pruner=optuna.pruners.MedianPruner(STARTUP_TRIALS, 0, n_min_trials=STARTUP_TRIALS),
            )
            self._check_request()
            self._enqueue(self._trials(), retry_diverged)

    @property
    def total(self) -> int:
        """Number of settings that the search tries."""
        return len(self.space.points()) if self.space.sampler == "grid" else self.budget.trials

    @retried
    def next(self) -> optuna.Trial | None:
        """Return the next trial, or None; ``open`` is then true if another driver's trial may come back."""
        with self._alone(), answers(self.address):
            self._recover()
            trials = self._trials()
            waiting = [t.number for t in trials if t.state == TrialState.WAITING]
            if not waiting:
                running = sum(t.state == TrialState.RUNNING for t in trials)
                self.open = running > len(self.mine)
                return None
            # One seed per trial: samplers with equal seeds would propose equal settings.
            seed = seed_for(waiting[0], f"sampler {self.name}") % 2**32
            self.study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
            trial = self.study.ask(distributions(self.space))
            trial.set_user_attr("owner", self.ledger.owner)
        # Add it last: if an error loses the trial above, `_recover` must enqueue it again.
        self.mine.add(trial.number)
        return trial

    @retried
    def report(self, trial: optuna.Trial, loss: float, epoch: int) -> bool:
        """Report a trial's validation loss; return True if the pruner or another driver ended the trial."""
        try:
            with answers(self.address):
                trial.report(-loss if self.budget.maximised else loss, epoch)
                return trial.should_prune()
        except UpdateFinishedTrialError:
            return True

    @retried
    def tell(self, number: int, state: TrialState, value: float | None, why: tuple[str, str]) -> bool:
        """End a trial; return False if another driver has already failed it as lost.

        why: one of the kinds above and a description, or two empty strings.
        """
        with answers(self.address):
            self._end(number, state, value, why)
            mine = self._trials()[number].state == state
        self.mine.discard(number)
        return mine

    @retried
    def enqueue_again(self, numbers: Collection[int]) -> None:
        """Enqueue again the trials with these numbers, whose results are gone."""
        with self._alone(), answers(self.address):
            trials = self._trials()
            for number in set(numbers) - _retried(trials):
                self._enqueue_again(trials[number])

    @retried
    def ended(self) -> list[FrozenTrial]:
        """Return the trials that ended, except those that lost their driver or were retried."""
        with answers(self.address):
            trials = self._trials()
        retried_numbers = _retried(trials)
        finished = [t for t in trials if t.state.is_finished() and t.number not in retried_numbers]
        return [t for t in finished if t.user_attrs.get("why") != LOST]

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _check_request(self) -> None:
        """Store the request of a new search; raise UserError if that of an existing one differs."""
        request = json.loads(json.dumps(self._request()))
        stored = self.study.user_attrs.get("request")
        if self.study.user_attrs.get("store", self.store) != self.store:
            raise UserError(
                f"The cells of the sweep {self.name!r} are in another tracking store than this one; "
                "set tracking.uri and ledger.uri to that store, or choose a new name with sweep.name=NAME."
            )
        base, code = self.bases[0], code_tags(self.bases[0])
        if self.study.user_attrs.get("code", code) != code:
            raise UserError(
                f"The code of {base.method} or {base.backbone} changed since sweep {self.name!r} was begun; "
                "start another with sweep.name=NAME, which trains all its settings with the new code."
            )
        self.study.set_user_attr("code", code)
        if stored is None:
            self.study.set_user_attr("store", self.store)
            self.study.set_user_attr("objective", f"valid/{self.budget.objective}")
            self.study.set_user_attr("request", request)
            return
        old, new = flatten(stored), flatten(request)
        changes = [
            f"{SETTING_OF.get(key, key)}={old.get(key)} (now {new.get(key)})"
            for key in dict.fromkeys([*old, *new])
            if old.get(key) != new.get(key)
        ]
        if changes:
            rest = len(changes) - MAX_DIFFERENCES
            more = f" and {rest} more" if rest > 0 else ""
            raise UserError(
                f"The sweep {self.name!r} was begun with {', '.join(changes[:MAX_DIFFERENCES])}{more}; "
                "repeat these settings, or choose a new name with sweep.name=NAME (trained cells are reused)."
            )

    def _request(self) -> dict[str, Any]:
        counted = self.bases[0].identity()
        cell = {k: v for k, v in asdict(self.bases[0]).items() if k != "seed" and k in counted}
        epochs = self.bases[0].backbone_settings.max_epochs
        budget = {**asdict(self.budget), "trials": self.total, "epochs": epochs}
        if self.space.sampler == "grid":
            del budget["prune_at"]
        return {"space": self.space.to_json(), "budget": budget, "cell": cell, "device": self.device}

    def _enqueue(self, trials: list[FrozenTrial], retry_diverged: bool) -> None:
        """Enqueue the missing trials: failed ones, points of the grid, or empty trials."""
        again = {LOST, FAILED} | ({DIVERGED} if retry_diverged else set())
        retried_numbers = _retried(trials)
        for trial in trials:
            if trial.user_attrs.get("why") in again and trial.number not in retried_numbers:
                self._enqueue_again(trial)
        first = [t for t in trials if "retry_of" not in t.user_attrs]
        if self.space.sampler == "grid":
            present = [_parameters(t) for t in first]
            missing = [point for point in self.space.points() if point not in present]
        else:
            trials_of_budget = [self.space.default(self.bases[0]), *[{}] * (self.total - 1)]
            missing = trials_of_budget[len(first) :]
        for values in missing:
            self.study.enqueue_trial(values)

    def _enqueue_again(self, trial: FrozenTrial) -> None:
        self.study.enqueue_trial(_parameters(trial), {"retry_of": trial.number})

    def _recover(self) -> None:
        """Fail the running trials whose driver is dead, and enqueue their parameters again."""
        trials = self._trials()
        running = [t for t in trials if t.state == TrialState.RUNNING and t.number not in self.mine]
        retried_numbers = _retried(trials)
        alive = self.ledger.claimed_by_others({owner_claim(t.user_attrs.get("owner")) for t in running})
        for trial in running:
            if owner_claim(trial.user_attrs.get("owner")) not in alive:
                # Enqueue first: a kill between the two calls then loses no parameters.
                if trial.number not in retried_numbers:
                    self._enqueue_again(trial)
                self._end(trial.number, TrialState.FAIL, None, (LOST, "its driver ended"))

    def _end(self, number: int, state: TrialState, value: float | None, why: tuple[str, str]) -> None:
        trial = self._trials()[number]
        # If this driver was suspended for too long, another one may have failed the trial as lost.
        with contextlib.suppress(UpdateFinishedTrialError):
            for key, text in zip(("why", "reason"), why, strict=True):
                if text:
                    self.storage.set_trial_user_attr(trial._trial_id, key, text)
            self.study.tell(number, value, state, skip_if_finished=True)

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        """Return a lock that excludes other drivers of the search; a dead driver's lock expires."""
        return self.ledger.exclusive(f"search {self.name}")


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Convert the space to Optuna's distributions."""
    return {name: _distribution(values) for name, values in space.parameters.items()}


def _distribution(values: Choices | Range) -> BaseDistribution:
    if not isinstance(values, Range):
        return CategoricalDistribution(values)
    if values.integer:
        return IntDistribution(int(values.low), int(values.high), log=values.log, step=int(values.step or 1))
    return FloatDistribution(values.low, values.high, log=values.log, step=values.step)


def owner_claim(owner: str | None) -> str:
    """Return the name of the claim that a driver holds in the ledger while it lives."""
    return f"driver {owner}"


def _retried(trials: Iterable[FrozenTrial]) -> set[int | None]:
    """Return the numbers of the trials that were enqueued again."""
    return {trial.user_attrs.get("retry_of") for trial in trials}


def _parameters(trial: FrozenTrial) -> Mapping[str, Any]:
    """Return the parameters of a trial, both enqueued and suggested ones."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}

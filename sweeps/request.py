"""From a configuration to a sweep: its space, its name, its searches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from harness.config import load_benchmark
from harness.errors import UserError, unknown
from harness.matrix import Cell
from harness.metrics import METRICS
from harness.plan import Plan
from harness.records import safe_name
from harness.writer import Writer
from methods import METHODS
from sweeps.search import Budget, Search
from sweeps.space import Space, load_space
from sweeps.storage import open_storage
from sweeps.supply import TrialDisplay, Trials

PARAMS = ("delta", "xi", "alpha", "heads", "all")


def space_of(config: Any) -> Space:
    """The search space that was asked for; raises UserError."""
    param, tune = config.sweep.param, config.sweep.tune
    if (param is None) == (tune is None):
        raise UserError(
            f"Give what to sweep, param={'|'.join(PARAMS)}, or what to tune, tune=METHOD; one of the two."
        )
    if param is not None and param not in PARAMS:
        raise unknown("sweep parameter", param, PARAMS)
    if tune is not None and tune not in METHODS:
        raise unknown("method", tune, METHODS)
    return load_space(param or tune)


def check_request(config: Any) -> None:
    """Raise UserError where a setting of the sweep cannot be."""
    sweep = config.sweep
    allowed = sorted({"loss", *(name for names in METRICS.values() for name in names)})
    if sweep.objective not in allowed:
        raise unknown("sweep.objective", sweep.objective, allowed)
    if sweep.trials < 1:
        raise UserError(f"sweep.trials must be at least 1, however: {sweep.trials}.")
    if sweep.retries < 0:
        raise UserError(f"sweep.retries must be at least 0, however: {sweep.retries}.")
    for share in sweep.prune_at:
        if not 0 < share < 1:
            raise UserError(f"sweep.prune_at takes shares of the epochs in (0, 1), however: {share}.")
    if sweep.name is not None and not sweep.name.strip():
        raise UserError("sweep.name is empty; leave it out or give a name.")


def sweep_name(config: Any) -> str:
    """The sweep's name: given, or that of the parameter, or of what is tuned."""
    sweep = config.sweep
    return str(sweep.name or sweep.param or f"tune-{sweep.tune}")


def left_out(config: Any, arguments: Sequence[str]) -> Iterator[str]:
    """Say what of the profile's matrix the sweep does not cover."""
    profile = [argument for argument in arguments if argument.startswith("profile=")]
    whole = load_benchmark(profile)
    for kind in ("backbones", "datasets"):
        others = [name for name in getattr(whole, kind) if name not in config[kind]]
        if others and profile:
            chosen = ", ".join(config[kind])
            yield f"On {chosen} alone; left out of profile's {kind}: {', '.join(others)} ({kind}=[...])."


def make_supply(config: Any, plan: Plan, space: Space, writer: Writer, display: TrialDisplay) -> Trials:
    """The searches of a sweep, one per backbone and dataset, as a driver's supply; raises UserError."""
    name, tracker = sweep_name(config), writer.tracker
    storage = open_storage(config.sweep.storage, tracker.folder("optuna") / f"{safe_name(name)}.journal")
    address = config.sweep.storage or str(tracker.folder("optuna"))
    sweep = config.sweep
    budget = Budget(sweep.trials, tuple(config.seeds), sweep.objective, tuple(sweep.prune_at))
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in plan.cells:
        groups.setdefault((cell.backbone_label, cell.dataset), []).append(cell)
    searches = []
    for (backbone, dataset), bases in groups.items():
        if sweep.objective != "loss" and sweep.objective not in METRICS[bases[0].metrics]:
            raise unknown(
                f"metric of {dataset}, for sweep.objective,", sweep.objective, METRICS[bases[0].metrics]
            )
        search = f"{plan.study}/{name}/{backbone}/{dataset}"
        own = space.for_backbone(bases[0])
        searches.append(Search(search, storage, address, writer.ledger, own, bases, budget))
    synthetic = frozenset(data.name for data in plan.datasets.values() if data.synthetic)
    return Trials(searches, writer, display, name, sweep.retries, synthetic)

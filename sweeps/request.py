"""Checks of a sweep's request (space, name, settings) that run before heavy imports."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from harness.checks import check_name
from harness.config.compose import given_keys, load_benchmark, path_of
from harness.errors import UserError, unknown
from harness.metrics import METRICS
from methods import METHODS
from sweeps.space import Space
from sweeps.space_file import PARAMS, load_space


def space_of(config: Any) -> Space:
    """Load the requested search space; raises UserError."""
    param, tune = config.sweep.param, config.sweep.tune
    if (param is None) == (tune is None):
        raise UserError(f"Give either param={'|'.join(PARAMS)} (a sweep of MS-Mix) or tune=METHOD.")
    if param is not None and param not in PARAMS and not param.endswith((".yaml", ".yml")):
        raise unknown("sweep parameter", param, PARAMS)
    if tune is not None and tune not in METHODS:
        raise unknown("method", tune, METHODS)
    return load_space(param or tune)


def check_request(config: Any, space: Space, keys: Collection[str]) -> None:
    """Raise UserError if a setting is invalid or has no effect. keys: the settings that the user passed."""
    sweep = config.sweep
    _refuse_variants(config)
    without_effect = ["methods", "occlusion.protocols", "occlusion.train_ratios"]
    without_effect += ["sweep.trials", "sweep.prune_at"] if space.sampler == "grid" else []
    for key in without_effect:
        if key in keys:
            raise UserError(f"{key} has no effect on the sweep {sweep_name(config)!r}; remove it.")
    for present, reason, setting in (
        (config.shard is not None, "chooses its next cells by the results so far", f"shard={config.shard}"),
        (config.evaluate.test_curve, "chooses by the validation split alone", "evaluate.test_curve=true"),
        (config.tuned is not None, "cannot start from tuned settings", "tuned=DIR"),
    ):
        if present:
            raise UserError(f"A sweep {reason}; remove {setting}.")
    allowed = sorted({"loss", *(name for names in METRICS.values() for name in names)})
    if sweep.objective not in allowed:
        raise unknown("sweep.objective", sweep.objective, allowed)
    if sweep.trials < 1:
        raise UserError(f"sweep.trials must be at least 1, got {sweep.trials}.")
    if sweep.retries < 0:
        raise UserError(f"sweep.retries must be at least 0, got {sweep.retries}.")
    for share in sweep.prune_at:
        if not 0 < share < 1:
            raise UserError(f"sweep.prune_at must hold fractions of the epochs in (0, 1), got {share}.")
    check_name(sweep_name(config), "sweep.name", "sweep")


def _refuse_variants(config: Any) -> None:
    for text in config.backbones:
        if "{" in text:
            raise UserError(
                f"A sweep takes backbones without settings, got {text!r}; give backbone.NAME.KEY=VALUE, or a "
                "search space over the setting."
            )


def sweep_name(config: Any) -> str:
    """Return ``sweep.name``, else ``tune-METHOD``, else the parameter or the stem of its file."""
    sweep = config.sweep
    if sweep.name is not None:
        return str(sweep.name)
    return f"tune-{sweep.tune}" if sweep.param is None else path_of(sweep.param).stem


def left_out(config: Any, arguments: Sequence[str]) -> Iterator[str]:
    """Yield sentences about the backbones and datasets of the profile that the sweep does not cover."""
    profile = [argument for argument in arguments if argument.startswith("profile=")]
    own = [argument for argument in arguments if argument.startswith("plugins=")]  # stay in use
    whole, keys = load_benchmark([*profile, *own]), given_keys(arguments)
    for kind in ("backbones", "datasets"):
        others = [name for name in getattr(whole, kind) if name not in config[kind]]
        if others and profile and kind not in keys:
            yield f"This sweep omits the profile's {kind} {', '.join(others)} (to choose: {kind}=[...])."

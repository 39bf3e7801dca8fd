"""Learning-rate schedules, as pure functions of the validation losses so far.

A resumed training therefore needs no state of a scheduler.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from backbones.base import BackboneSettings

PLATEAU_FACTOR = 0.1
PLATEAU_THRESHOLD = 1e-4  # relative; smaller improvements of the loss do not count
PLATEAU_LEAST = 1e-8  # smaller changes of a learning rate are not applied, as in `ReduceLROnPlateau`


def learning_rate(rules: BackboneSettings, base: float, valid_losses: Sequence[float]) -> float:
    """Return the learning rate after these validation losses; base: initial rate of the optimizer's group."""
    if rules.schedule == "plateau":
        return _after_plateaus(base, valid_losses, rules.plateau_patience)
    if rules.schedule == "warmup_cosine":
        return base * _warmup_cosine(len(valid_losses), rules.max_epochs, rules.warmup)
    return base


def _after_plateaus(rate: float, losses: Sequence[float], patience: int | None) -> float:
    """Replay ``ReduceLROnPlateau`` with its default settings over these losses."""
    assert patience is not None, "settings are resolved before a training"
    best, bad = math.inf, 0
    for loss in losses:
        if loss < best * (1 - PLATEAU_THRESHOLD):
            best, bad = loss, 0
        else:
            bad += 1
        if bad > patience:
            lower = rate * PLATEAU_FACTOR
            rate, bad = (lower if rate - lower > PLATEAU_LEAST else rate), 0
    return rate


def _warmup_cosine(done: int, epochs: int, warmup: float) -> float:
    """Return a factor: linear from 1 / W to 1 over the first W epochs, then half a cosine towards 0.

    NOTE[DIFF] ALMT's reference starts at 0, so that its first epoch changes nothing; ours is one step ahead.
    """
    rising = round(warmup * epochs)
    if done < rising:
        return (done + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (done - rising) / max(epochs - rising, 1)))

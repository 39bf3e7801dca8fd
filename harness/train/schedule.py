"""Learning rates over the epochs, as a pure function of what was seen so far.

Nothing is kept between epochs, so that a resumed training needs no schedule's state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from backbones.base import BackboneSettings

PLATEAU_FACTOR = 0.1
PLATEAU_THRESHOLD = 1e-4  # relative; what `torch.optim.lr_scheduler.ReduceLROnPlateau` counts as lower
PLATEAU_LEAST = 1e-8  # smaller changes of a learning rate are not made


def learning_rate(rules: BackboneSettings, base: float, valid_losses: Sequence[float]) -> float:
    """The rate of the epoch after these validation losses, from ``base``, the optimizer group's own."""
    if rules.schedule == "plateau":
        return _after_plateaus(base, valid_losses, rules.plateau_patience)
    if rules.schedule == "warmup_cosine":
        return base * _warmup_cosine(len(valid_losses), rules.max_epochs, rules.warmup)
    return base


def _after_plateaus(rate: float, losses: Sequence[float], patience: int | None) -> float:
    """``ReduceLROnPlateau`` with its default settings, replayed."""
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
    """Linear from 1 / W to 1 over the first W epochs, then half a cosine towards 0.

    NOTE[DIFF] ALMT's reference starts at 0, so that its first epoch changes nothing; ours is one step ahead.
    """
    rising = round(warmup * epochs)
    if done < rising:
        return (done + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (done - rising) / max(epochs - rising, 1)))

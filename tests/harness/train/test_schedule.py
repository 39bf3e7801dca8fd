"""Learning rates over the epochs against torch's and hand-worked lists."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backbones.base import BackboneSettings
from harness.train.schedule import learning_rate
from tests.support.toy import rules


def rates(made: BackboneSettings, base: float, losses) -> list[float]:
    """The rate of every epoch, the one after the last loss included."""
    return [learning_rate(made, base, losses[:epoch]) for epoch in range(len(losses) + 1)]


def of_torch(base: float, losses, patience: int) -> list[float]:
    """Return the rates of `ReduceLROnPlateau` for these losses."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=base)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=patience)
    seen = [base]
    for loss in losses:
        scheduler.step(loss)
        seen.append(optimizer.param_groups[0]["lr"])
    return seen


# On a coarse grid there are many ties; the fine steps lie at the threshold, a ten-thousandth below.
LOSSES = st.one_of(
    st.lists(st.integers(0, 6).map(lambda k: k / 4), max_size=60),
    st.lists(st.integers(-4, 4).map(lambda k: 1 - k * 5e-5), max_size=60),
    st.lists(st.floats(0, 1e6), max_size=60),
)


@given(LOSSES, st.integers(1, 6), st.sampled_from([1.0, 0.3, 2e-5, 1.1e-8, 0.0]))
def test_plateaus_are_those_of_torch(losses, patience, base):
    made = rules(schedule="plateau", plateau_patience=patience)
    assert rates(made, base, losses) == of_torch(base, losses, patience)


def half_cosine(step: int, warmup: int, total: int) -> float:
    """The usual schedule by steps: from 0 up to 1 at the end of the warm-up, then down to 0."""
    if step < warmup:
        return step / max(1, warmup)
    progress = (step - warmup) / max(1, total - warmup)
    return max(0.0, 0.5 * (1 + math.cos(math.pi * progress)))


@given(st.integers(1, 300), st.floats(0, 0.99), st.floats(1e-6, 1))
def test_warm_up_and_cosine(epochs, warmup, base):
    made = rules(schedule="warmup_cosine", warmup=warmup, max_epochs=epochs)
    rising = round(warmup * epochs)
    seen = rates(made, base, [1.0] * (epochs - 1))
    for done, rate in enumerate(seen):
        # The usual schedule's first epoch changes nothing, so this warm-up is one step ahead.
        step = done + 1 if done < rising else done
        assert rate == pytest.approx(base * half_cosine(step, rising, epochs))
    assert all(0 < rate <= base for rate in seen)
    assert seen[:rising] == sorted(seen[:rising])
    assert seen[rising:] == sorted(seen[rising:], reverse=True)


def test_a_constant_rate():
    assert rates(rules(), 0.25, [1.0, 2.0, 3.0]) == [0.25] * 4


def test_a_plateau_needs_its_patience():
    with pytest.raises(AssertionError) as caught:
        learning_rate(rules(schedule="plateau", plateau_patience=None), 1.0, [1.0])
    assert str(caught.value).split("\n")[0] == "settings are resolved before a training"

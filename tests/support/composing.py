"""Configurations composed once for many tests."""

import functools

import pytest
from hydra import compose


def compose_once():
    """Let Hydra compose each profile once: it takes most of the time of a short test. For a fixture."""
    once = functools.cache(lambda name, overrides: compose(name, list(overrides)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.config.compose.compose", lambda name, values: once(name, tuple(values)).copy())
        yield

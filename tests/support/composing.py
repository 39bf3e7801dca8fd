"""Configurations composed once for many tests."""

import functools
from contextlib import contextmanager

import pytest
from hydra import compose

from backbones import BACKBONES
from harness.config.compose import _schema
from methods import METHODS


@functools.cache
def _composed(name, overrides):
    return compose(name, list(overrides))


@functools.cache
def _typed(schema_of, datasets, *registered):
    return _schema(schema_of, datasets)


def compose_once():
    """Let Hydra compose each profile once: it takes most of the time of a short test. For a fixture."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "harness.config.compose.compose", lambda name, values: _composed(name, tuple(values)).copy()
        )
        patch.setattr(
            "harness.config.compose._schema",
            lambda schema_of, datasets: _typed(schema_of, tuple(datasets), *METHODS, "", *BACKBONES),
        )
        yield


composed_once = contextmanager(compose_once)

"""The mixup methods, each in one file; `METHODS` is the registry."""
# ruff: noqa: F401

from __future__ import annotations

from methods.base import Method

# A line per method, in the order in which the tables show them.
# isort: off
from methods.none import NoMixing
from methods.duplicate import Duplicate
from methods.mixup import Mixup
from methods.manifold_mixup import ManifoldMixup
from methods.c_mixup import CMixup
from methods.multimix import MultiMix
from methods.advmixup import AdvMixUp
from methods.powmix import PowMix
from methods.ms_mix import MSMix
from methods.ms_mix_released import MSMixReleased
# isort: on

METHODS: dict[str, type[Method]] = {method.name: method for method in Method.__subclasses__()}

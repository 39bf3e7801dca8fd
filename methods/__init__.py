"""Mixup methods, one per file; `METHODS` is the registry."""
# ruff: noqa: F401

from __future__ import annotations

from methods.base import Method

# One import per method, in the order of the tables.
# isort: off
from methods.none import NoMixing
from methods.duplicate import Duplicate
from methods.mixup import Mixup
from methods.manifold_mixup import ManifoldMixup
from methods.c_mixup import CMixup
from methods.av_mc import AVMC
from methods.multimix import MultiMix
from methods.advmixup import AdvMixUp
from methods.powmix import PowMix
from methods.ms_mix import MSMix
from methods.ms_mix_released import MSMixReleased
# isort: on

METHODS: dict[str, type[Method]] = {method.name: method for method in Method.__subclasses__()}

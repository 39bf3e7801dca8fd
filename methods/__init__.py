"""The mixup methods, each in one file; `METHODS` is the registry."""

from __future__ import annotations

from methods.base import Method
from methods.manifold_mixup import ManifoldMixup
from methods.mixup import Mixup
from methods.ms_mix import MSMix
from methods.none import NoMixing

METHODS: dict[str, type[Method]] = {method.name: method for method in (NoMixing, Mixup, ManifoldMixup, MSMix)}

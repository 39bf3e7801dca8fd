"""The mixup methods, each in one file; `METHODS` is the registry."""

from __future__ import annotations

from methods.advmixup import AdvMixUp
from methods.base import Method
from methods.c_mixup import CMixup
from methods.duplicate import Duplicate
from methods.manifold_mixup import ManifoldMixup
from methods.mixup import Mixup
from methods.ms_mix import MSMix
from methods.ms_mix_released import MSMixReleased
from methods.multimix import MultiMix
from methods.none import NoMixing
from methods.powmix import PowMix

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        NoMixing,
        Duplicate,
        Mixup,
        ManifoldMixup,
        CMixup,
        MultiMix,
        AdvMixUp,
        PowMix,
        MSMix,
        MSMixReleased,
    )
}

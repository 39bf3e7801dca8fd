"""Fusion models, one per file; `BACKBONES` is the registry."""
# ruff: noqa: F401

from __future__ import annotations

from backbones.base import Backbone

# One import per backbone, in the order of the tables.
# isort: off
from backbones.tfn import TFN
from backbones.lmf import LMF
from backbones.mult import MulT
from backbones.misa import MISA
from backbones.almt import ALMT
from backbones.glomo import GLoMo
# isort: on

BACKBONES: dict[str, type[Backbone]] = {backbone.name: backbone for backbone in Backbone.__subclasses__()}

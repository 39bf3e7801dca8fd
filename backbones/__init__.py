"""The fusion models, each in one file; `BACKBONES` is the registry."""
# ruff: noqa: F401

from __future__ import annotations

from backbones.base import Backbone

# A line per backbone, in the order in which the tables show them.
# isort: off
from backbones.tfn import TFN
from backbones.lmf import LMF
from backbones.mult import MulT
from backbones.misa import MISA
from backbones.almt import ALMT
from backbones.glomo import GLoMo
# isort: on

BACKBONES: dict[str, type[Backbone]] = {backbone.name: backbone for backbone in Backbone.__subclasses__()}

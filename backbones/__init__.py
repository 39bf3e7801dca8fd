"""The fusion models, each in one file; `BACKBONES` is the registry."""

from __future__ import annotations

from backbones.base import Backbone
from backbones.lmf import LMF
from backbones.tfn import TFN

BACKBONES: dict[str, type[Backbone]] = {backbone.name: backbone for backbone in (TFN, LMF)}

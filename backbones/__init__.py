"""The fusion models, each in one file; `BACKBONES` is the registry."""

from __future__ import annotations

from backbones.almt import ALMT
from backbones.base import Backbone
from backbones.glomo import GLoMo
from backbones.lmf import LMF
from backbones.misa import MISA
from backbones.mult import MulT
from backbones.tfn import TFN

BACKBONES: dict[str, type[Backbone]] = {
    backbone.name: backbone for backbone in (TFN, LMF, MulT, MISA, ALMT, GLoMo)
}

"""Synthetic stand-ins for MOSI, MOSEI and CH-SIMS with known ground truth."""

from harness.data.synthetic.clips import SyntheticSettings
from harness.data.synthetic.generate import generate

__all__ = ["SyntheticSettings", "generate"]

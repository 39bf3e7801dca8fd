"""Synthetic stand-ins for MOSI, MOSEI and CH-SIMS: with a known truth, and never the real thing."""

from harness.data.synthetic.clips import SyntheticSettings
from harness.data.synthetic.generate import generate

__all__ = ["SyntheticSettings", "generate"]

"""Derivation of random seeds: an independent stream per (seed, purpose)."""

from __future__ import annotations

import hashlib
import json

import numpy as np


def seed_for(seed: int, purpose: str, *parts: int | str) -> int:
    """Derive a seed in [0, 2**63) from a cell's seed, a purpose such as "mixing", and e.g. (epoch, step)."""
    text = json.dumps([seed, purpose, *parts])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator_for(seed: int, purpose: str, *parts: int | str) -> np.random.Generator:
    """Return a separate numpy generator for (seed, purpose, parts)."""
    return np.random.default_rng(seed_for(seed, purpose, *parts))

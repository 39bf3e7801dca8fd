"""Backbones and methods work with torch and numpy alone, so they can be lifted out of this project."""

import subprocess
import sys
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from tests.support.paths import ROOT

BLOCK = """
import sys
allowed = set({allowed!r}) | set(sys.stdlib_module_names)

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)

sys.meta_path.insert(0, Blocked())
sys.path.insert(0, {root!r})
"""
MIX = """
import numpy as np, torch
import backbones, methods
from backbones.base import Sizes, resolve_settings
from backbones.batch import MODALITIES, Batch

kind, settings = backbones.BACKBONES["tfn"], backbones.BACKBONES["tfn"].Settings()
widths, steps = dict(zip(MODALITIES, (6, 4, 5))), dict.fromkeys(MODALITIES, 7)
backbone = kind(resolve_settings(kind, settings, "mosi"), Sizes(widths, steps, 3.0))
lengths = {m: torch.full((8,), 7) for m in MODALITIES}
features = {m: torch.randn(8, 7, widths[m]) for m in MODALITIES}
labels = torch.linspace(-3, 3, 8)
latents = backbone.encode(backbone.embed(Batch(features, lengths, labels)))
method = methods.METHODS["ms_mix"](methods.METHODS["ms_mix"].Settings(), backbone.latent_widths, 3.0)
draw = method.draw(np.random.default_rng(0), labels.numpy())
mixed = method(latents, labels, {k: torch.from_numpy(a) for k, a in draw.arrays.items()}, None)
assert len(mixed) and all(x.isfinite().all() for x in mixed.latents.values.values())
print(len(mixed))
"""


def modules_of(*distributions):
    """Top-level modules of these distributions and of those that they require."""
    wanted, found = list(distributions), set()
    while wanted:
        name = wanted.pop().lower().replace("_", "-")
        if name in found:
            continue
        try:
            required = [Requirement(text) for text in metadata.requires(name) or ()]
        except metadata.PackageNotFoundError:
            continue
        found.add(name)
        wanted += [r.name for r in required if r.marker is None or r.marker.evaluate({"extra": ""})]
    owners = metadata.packages_distributions().items()
    return {module for module, names in owners if found & {n.lower().replace("_", "-") for n in names}}


def bare(program):
    allowed = sorted(modules_of("torch", "numpy") | {"torch", "numpy", "backbones", "methods"})
    code = BLOCK.format(allowed=allowed, root=str(ROOT)) + program
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_a_batch_is_embedded_encoded_and_mixed():
    done = bare(MIX)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0


@pytest.mark.parametrize("module", ["harness", "omegaconf", "pandas"])
def test_everything_else_is_blocked(module):
    done = bare(f"import {module}")
    assert done.returncode == 1
    assert f"{module} is blocked" in done.stderr

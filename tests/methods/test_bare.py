"""Backbones and methods work with torch and numpy alone, so they can be lifted out of this project."""

import sys
from importlib import metadata

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement

from tests.support.forking import forked


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


class Allowed:
    """Blocks the import of all other modules."""

    def __init__(self, names):
        self.names = names

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in self.names:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)


def mix_a_batch():
    """Import anew and mix, where nothing but torch, numpy and what they require can be imported."""
    own, libraries = {"backbones", "methods"}, modules_of("torch", "numpy") | {"torch", "numpy"}
    for name in list(sys.modules):
        if name.partition(".")[0] not in libraries | set(sys.stdlib_module_names):
            del sys.modules[name]
    sys.meta_path.insert(0, Allowed(own | libraries | set(sys.stdlib_module_names)))
    for name in ("harness", "omegaconf", "pandas"):
        with pytest.raises(ModuleNotFoundError, match=f"{name} is blocked"):
            __import__(name)

    import backbones
    import methods
    from backbones.base import Sizes, resolve_settings
    from backbones.batch import MODALITIES, Batch

    kind = backbones.BACKBONES["tfn"]
    widths, steps = dict(zip(MODALITIES, (6, 4, 5), strict=True)), dict.fromkeys(MODALITIES, 7)
    backbone = kind(resolve_settings(kind, kind.Settings(), "mosi"), Sizes(widths, steps, 3.0))
    lengths = {m: torch.full((8,), 7) for m in MODALITIES}
    features = {m: torch.randn(8, 7, widths[m]) for m in MODALITIES}
    labels = torch.linspace(-3, 3, 8)
    latents = backbone.encode(backbone.embed(Batch(features, lengths, labels)))
    method = methods.METHODS["ms_mix"](methods.METHODS["ms_mix"].Settings(), backbone.latent_widths, 3.0)
    draw = method.draw(np.random.default_rng(0), labels.numpy())
    mixed = method(latents, labels, {k: torch.from_numpy(a) for k, a in draw.arrays.items()}, None)
    assert len(mixed)
    assert all(x.isfinite().all() for x in mixed.latents.values.values())


def test_a_batch_is_embedded_encoded_and_mixed():
    assert forked(mix_a_batch) == 0

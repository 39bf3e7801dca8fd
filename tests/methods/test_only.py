"""The setting ``only``: which modalities a method mixes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backbones.batch import MODALITIES
from harness.matrix import Cell
from methods import METHODS
from methods.base import keep_own
from methods.mixup import MixupSettings
from tests.support.builders import arrays_of, make_labels, make_latents, make_method, plain_network
from tests.support.cells import make_cell

MIXING = [name for name in METHODS if name not in ("none", "duplicate")]


def mixed_twice(name, kind, only):
    """Return the mixed examples before and after `keep_own`, and the latents they were made from."""
    method = make_method(name, kind)
    latents, labels = make_latents(kind, 6, 0, torch.float32), make_labels(6, 3.0)
    draw = method.draw(np.random.default_rng(3), labels.numpy())
    mixed = method(latents, labels, arrays_of(draw), plain_network())
    return mixed, keep_own(mixed, latents, only), latents


@pytest.mark.parametrize("kind", ["vectors", "sequences"])
@pytest.mark.parametrize("name", MIXING)
def test_other_modalities_keep_their_own_example(name, kind):
    before, after, latents = mixed_twice(name, kind, ["audio"])
    own = after.indices[:, 0]
    for m in ("text", "vision"):
        assert torch.equal(after.latents.values[m], latents.values[m][own])
        assert (after.weights[m][:, 0] == 1).all()
        assert (after.weights[m][:, 1:] == 0).all()
        if m in latents.lengths:
            assert torch.equal(after.latents.lengths[m], latents.lengths[m][own])
    assert torch.equal(after.latents.values["audio"], before.latents.values["audio"])
    assert torch.equal(after.labels, before.labels)
    assert torch.equal(after.label_weights, before.label_weights)


@pytest.mark.parametrize("name", MIXING)
def test_all_modalities_change_nothing(name):
    before, after, _ = mixed_twice(name, "vectors", MODALITIES)
    assert after is before


@pytest.mark.parametrize("given", [["vision", "text"], ["text", "vision", "text"]])
def test_order_and_repetition_do_not_count(given):
    assert MixupSettings(only=given) == MixupSettings(only=["text", "vision"])


def test_all_modalities_leave_the_id_of_a_cell():
    cell = make_cell(method="mixup")
    settings = cell.method_settings
    partial = Cell(**{**vars_of(cell), "method_settings": type(settings)(only=["audio"])})
    whole = Cell(**{**vars_of(cell), "method_settings": type(settings)(only=list(reversed(MODALITIES)))})
    assert whole.cell_id == cell.cell_id
    assert partial.cell_id != cell.cell_id
    assert whole.method_label == "mixup"
    assert partial.method_label == 'mixup{only:["audio"]}'


def vars_of(cell):
    """Return the fields of a cell."""
    return {name: getattr(cell, name) for name in Cell.__dataclass_fields__}


def test_wrong_modalities_are_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"only must be .* got \['visio'\]; the nearest is 'vision'"):
        MixupSettings(only=["visio"])
    with pytest.raises(ValueError, match=r"only must be a non-empty list .* got \[\]"):
        MixupSettings(only=[])


def test_methods_that_cannot_honour_a_choice_refuse_it():
    with pytest.raises(ValueError, match="layers must be without 2"):
        make_method("manifold_mixup", layers=[1, 2], only=["text"])
    with pytest.raises(ValueError, match="only must be a list with audio or vision for av_mc"):
        make_method("av_mc", only=["text"])

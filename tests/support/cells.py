"""A cell with the published settings of its backbone, and one with some of them changed."""

import dataclasses

from backbones import BACKBONES
from backbones.base import resolve_settings
from backbones.text import TextSettings
from harness.matrix import Cell
from methods import METHODS


def make_cell(method="powmix", backbone="tfn", text=None, dataset="mosi", seed=1) -> Cell:
    kind = BACKBONES[backbone]
    return Cell(
        dataset=dataset,
        metrics="mosi",
        label_scale=3.0,
        fingerprint="0123456789",
        backbone=backbone,
        backbone_settings=resolve_settings(kind, kind.Settings(), "mosi"),
        method=method,
        method_settings=METHODS[method].Settings(),
        seed=seed,
        text=text or TextSettings(),
    )


def with_changes(cell, method=None, backbone=None) -> Cell:
    """The cell with some settings of its method and its backbone changed."""
    return dataclasses.replace(
        cell,
        method_settings=dataclasses.replace(cell.method_settings, **(method or {})),
        backbone_settings=dataclasses.replace(cell.backbone_settings, **(backbone or {})),
    )

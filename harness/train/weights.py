"""A cell's best weights as a safetensors file, with the plan from which its network is built again.

Reading the file never executes code. The plan is a text in the metadata: fields of the cell, widths and steps
of its data, and a hash of the tensors.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from backbones import BACKBONES
from backbones.base import Backbone, Sizes
from harness.files import load_json
from harness.matrix import Cell


class Kept(NamedTuple):
    """The content of a file of weights: fields of the cell, sizes of its data, tensors by name."""

    cell: Mapping[str, Any]
    sizes: Sizes
    tensors: Mapping[str, Tensor]


def pack(cell: Cell, sizes: Sizes, state: Mapping[str, Tensor]) -> bytes:
    """Return the file with a backbone's state. sizes: those that the backbone was built with."""
    from safetensors.torch import save

    # A copy of each, because the format refuses tensors that share memory.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    plan = {
        "cell": dataclasses.asdict(cell),
        "widths": dict(sizes.widths),
        "steps": dict(sizes.steps),
        "sha256": _digest(tensors),
    }
    return bytes(save(tensors, {"plan": json.dumps(plan, sort_keys=True)}))


def unpack(content: bytes) -> Kept:
    """Read a file of weights; raises ValueError if it is damaged, or is not one that `pack` wrote."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(content)
    except SafetensorError:
        raise ValueError("it is no whole safetensors file") from None
    try:
        # The library reads metadata from files on disk only. The header follows its length in 8 bytes.
        header = load_json(content[8 : 8 + int.from_bytes(content[:8], "little")])
        plan = load_json(header["__metadata__"]["plan"])
        sizes = Sizes(_sizes(plan["widths"]), _sizes(plan["steps"]), float(plan["cell"]["label_scale"]))
        digest = plan["sha256"]
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"its header is not that of kept weights ({type(error).__name__})") from None
    if _digest(tensors) != digest:
        raise ValueError("its tensors are damaged")
    return Kept(plan["cell"], sizes, tensors)


def rebuild(cell: Cell, kept: Kept, device: torch.device) -> Backbone:
    """Build a cell's backbone with its kept weights; raises ValueError where names or shapes differ."""
    backbone = BACKBONES[cell.backbone](cell.backbone_settings, kept.sizes)
    expected = {name: tuple(tensor.shape) for name, tensor in backbone.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in kept.tensors.items()}
    if expected != found:
        names = expected.keys() | found.keys()
        first = min(name for name in names if expected.get(name) != found.get(name))
        raise ValueError(f"its tensor {first!r} is not that of {cell.backbone}")
    backbone.load_state_dict(dict(kept.tensors))
    return backbone.to(device).eval()


def _sizes(stored: Any) -> dict[str, int]:
    if not all(type(size) is int and size > 0 for size in stored.values()):
        raise ValueError("its sizes are no positive numbers")
    return dict(stored)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Return a hash of the tensors' bytes, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

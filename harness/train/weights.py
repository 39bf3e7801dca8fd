"""A cell's best weights as a safetensors file, with the plan from which its network is built again.

The format (https://github.com/huggingface/safetensors): the length of the header (8 bytes), a JSON header
with dtype, shape and place of each tensor, and the tensors' bytes. Reading it never executes code. The plan
is a text in the header's metadata: fields of the cell, widths and steps of its data, and a hash of the bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from backbones import BACKBONES
from backbones.base import Backbone, Sizes
from harness.files import load_json
from harness.matrix import Cell

FORMAT, METADATA = "1", "__metadata__"
MOST_HEADER = 2**24
DTYPES = {
    **{"F64": np.float64, "F32": np.float32, "F16": np.float16},
    **{"I64": np.int64, "I32": np.int32, "U8": np.uint8, "BOOL": np.bool_},
}
_NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}


class Kept(NamedTuple):
    """The content of a file of weights: fields of the cell, sizes of its data, arrays by name."""

    cell: Mapping[str, Any]
    sizes: Sizes
    arrays: Mapping[str, np.ndarray]


def pack(cell: Cell, sizes: Sizes, state: Mapping[str, Tensor]) -> bytes:
    """Return the file with a backbone's state. sizes: those that the backbone was built with."""
    arrays = {name: state[name].detach().cpu().contiguous().numpy() for name in sorted(state)}
    header: dict[str, Any] = {}
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        entry = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [start, end]}
        header[name] = entry
    data = b"".join(array.tobytes() for array in arrays.values())
    plan: dict[str, Any] = {
        "cell": dataclasses.asdict(cell),
        "widths": dict(sizes.widths),
        "steps": dict(sizes.steps),
    }
    plan["sha256"] = hashlib.sha256(data).hexdigest()
    header[METADATA] = {"format": FORMAT, "plan": json.dumps(plan, sort_keys=True)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned
    return len(text).to_bytes(8, "little") + text + data


def unpack(content: bytes) -> Kept:
    """Read a file of weights; raises ValueError if it is damaged, or is not one that `pack` wrote."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > min(MOST_HEADER, len(content) - 8):
        raise ValueError("it is no safetensors file")
    data = memoryview(content)[8 + length :]
    try:
        header = load_json(content[8 : 8 + length])
        plan = load_json(header.pop(METADATA)["plan"])
        sizes = Sizes(_sizes(plan["widths"]), _sizes(plan["steps"]), float(plan["cell"]["label_scale"]))
        digest = plan["sha256"]
        arrays, end = {}, 0
        for name, entry in header.items():
            arrays[name], end = _array(entry, data, end)
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"its header is not that of kept weights ({type(error).__name__})") from None
    if end != len(data) or hashlib.sha256(data).hexdigest() != digest:
        raise ValueError("its tensors are damaged")
    return Kept(plan["cell"], sizes, arrays)


def rebuild(cell: Cell, kept: Kept, device: torch.device) -> Backbone:
    """Build a cell's backbone with its kept weights; raises ValueError where names or shapes differ."""
    backbone = BACKBONES[cell.backbone](cell.backbone_settings, kept.sizes)
    expected = {name: tuple(tensor.shape) for name, tensor in backbone.state_dict().items()}
    found = {name: array.shape for name, array in kept.arrays.items()}
    if expected != found:
        names = expected.keys() | found.keys()
        first = min(name for name in names if expected.get(name) != found.get(name))
        raise ValueError(f"its tensor {first!r} is not that of {cell.backbone}")
    backbone.load_state_dict({name: torch.from_numpy(array) for name, array in kept.arrays.items()})
    return backbone.to(device).eval()


def _sizes(stored: Any) -> dict[str, int]:
    if not all(type(size) is int and size > 0 for size in stored.values()):
        raise ValueError("its sizes are no positive numbers")
    return dict(stored)


def _array(entry: Any, data: memoryview, start: int) -> tuple[np.ndarray, int]:
    """Return the tensor that begins at ``start``, and the place where it ends."""
    dtype, shape = np.dtype(DTYPES[entry["dtype"]]), entry["shape"]
    if not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("a shape is not made of whole numbers")
    end = start + math.prod(shape) * dtype.itemsize
    if entry["data_offsets"] != [start, end] or end > len(data):
        raise ValueError("a tensor is not where its shape says")
    return np.frombuffer(data[start:end], dtype).reshape(shape).copy(), end

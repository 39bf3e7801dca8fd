"""Checkpoints: files with the state of a training, from which an interrupted training resumes.

A checkpoint is one `.npz` file without pickled code: each tensor as a uint8 array of its bytes, and
everything else as one JSON text. Writes are atomic. A checkpoint that is damaged, or of another cell, device
or version, is ignored with a warning; no error with a checkpoint ends a training.
"""

from __future__ import annotations

import json
import logging
import math
import platform
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.code import code_tags
from harness.data.strict.npy import check_npz
from harness.files import UNFINISHED, load_json, remove_files_of, replacing
from harness.matrix import Cell
from harness.train.device import device_name

FORMAT = 1
TEXT = "text"
LOGGER = logging.getLogger(__name__)


class Checkpoint:
    """The checkpoint of one training.

    Args:
        path: the file, ``CELL_ID.npz``.
        every_s: minimum seconds between two writes; None: write only to pause. The file is always read.
        identity: what else must match for a state to be restored, see `identity_of`.
        pause_after: the epoch after which an unfinished training pauses.
    """

    def __init__(
        self, path: Path, every_s: float | None, identity: Mapping[str, str], pause_after: int | None = None
    ) -> None:
        self.path = path
        self.pause_after = pause_after
        self.every_s = every_s
        self.identity = {"format": str(FORMAT), **identity}
        self._last = time.monotonic()
        self._warned = False

    def load(self) -> Any | None:
        """Return the stored state, with tensors on the CPU; None if there is no usable state."""
        try:
            check_npz(self.path)
            with np.load(self.path, allow_pickle=False) as stored:
                content = load_json(stored[TEXT].tobytes())
                for name, value in self.identity.items():
                    if content["identity"].get(name) != value:
                        raise ValueError(f"its {name} is {content['identity'].get(name)!r}, not {value!r}")
                return deserialize(content["state"], stored)
        except FileNotFoundError:
            return None
        # A damaged file raises many kinds of exceptions, from zipfile's to json's.
        except Exception as error:
            self.reject(error)
            return None

    def reject(self, error: Exception) -> None:
        """Warn that the file is ignored."""
        LOGGER.warning("the checkpoint %s is ignored, and the cell starts over: %s", self.path, error)

    def due(self) -> bool:
        """Return whether ``every_s`` has passed since the start of the training or the last write."""
        return self.every_s is not None and time.monotonic() - self._last >= self.every_s

    def pauses(self, epoch: int) -> bool:
        """Return whether a training pauses after this epoch."""
        return self.pause_after is not None and epoch >= self.pause_after

    def save(self, state: Any) -> None:
        """Replace the stored state; if the file cannot be written, warn once and keep the previous state."""
        arrays: dict[str, Any] = {}
        content = {"identity": self.identity, "state": serialize(state, arrays)}
        arrays[TEXT] = np.frombuffer(json.dumps(content).encode(), np.uint8)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            remove_files_of({self.path.stem}, self.path.parent, UNFINISHED)
            with replacing(self.path) as temporary, temporary.open("wb") as file:
                np.savez(file, **arrays)
        except OSError as error:
            if not self._warned:
                LOGGER.warning("cannot write a checkpoint; training continues without one: %s", error)
            self._warned = True
        self._last = time.monotonic()


def identity_of(cell: Cell, device: torch.device) -> dict[str, str]:
    """Return what a training's numbers depend on: cell (with results version), code, versions, device kind.

    The device is the GPU's model with its multiprocessors, or the CPU's architecture and vector instructions.
    """
    if device.type == "cuda":
        name = device_name(device)
    else:
        name = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    versions = {"torch": torch.__version__, "numpy": np.__version__}
    if cell.text.encoder == "bert":
        versions["transformers"] = metadata.version("transformers")
    return {"cell": cell.cell_id, "device": name, **code_tags(cell), **versions}


def serialize(state: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Turn nested dicts, lists and tuples into JSON values; the bytes of tensors go into ``arrays``.

    Raises:
        TypeError: a value is neither a tensor nor representable in JSON.
    """
    if isinstance(state, Tensor):
        name = f"tensor{len(arrays)}"
        arrays[name] = _bytes_of(state.detach().cpu().contiguous()).numpy()
        return {"tensor": [name, str(state.dtype).removeprefix("torch."), list(state.shape)]}
    if isinstance(state, dict):
        # A list of pairs: an optimizer's state has integer keys, which JSON lacks.
        return {"dict": [[key, serialize(value, arrays)] for key, value in state.items()]}
    if isinstance(state, list | tuple):
        kind = "list" if isinstance(state, list) else "tuple"
        return {kind: [serialize(value, arrays) for value in state]}
    if state is None or isinstance(state, bool | int | float | str):
        return state
    raise TypeError(f"a checkpoint cannot hold a {type(state).__name__}")


def deserialize(stored: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Invert `serialize`, bit for bit."""
    if not isinstance(stored, dict):
        return stored
    [(kind, content)] = stored.items()
    if kind == "tensor":
        return _tensor(arrays, *content)
    if kind == "dict":
        return {key: deserialize(value, arrays) for key, value in content}
    values = [deserialize(value, arrays) for value in content]
    return tuple(values) if kind == "tuple" else values


def _tensor(arrays: Mapping[str, np.ndarray], name: str, dtype_name: str, shape: list[int]) -> Tensor:
    content, dtype = torch.from_numpy(arrays[name]), getattr(torch, dtype_name)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{dtype_name} is not a dtype")
    if content.dtype != torch.uint8 or content.numel() != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"the array {name} does not match the size of its tensor")
    # Copy into memory that torch allocates: its alignment may affect how sums are rounded.
    tensor = torch.empty(shape, dtype=dtype)
    _bytes_of(tensor).copy_(content)
    return tensor


def _bytes_of(tensor: Tensor) -> Tensor:
    """Return the memory of a contiguous tensor. Shape: any -> (bytes,), uint8."""
    return tensor.reshape(-1).view(torch.uint8)

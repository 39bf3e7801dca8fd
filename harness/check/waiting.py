"""Detection of calls that wait for the device: waiting can cost more than a small method's arithmetic."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

WAITS = frozenset(
    [
        "item",
        "tolist",
        "cpu",
        "numpy",
        "nonzero",
        "unique",
        "masked_select",
        "__float__",
        "__int__",
        "__bool__",
        "__index__",
        "__array__",
    ]
)
"""Functions of tensors that copy values to the host."""
TORCH = str(Path(torch.__file__).parent)


class Waiting(TorchFunctionMode):
    """Collects the lines of a file that copy a tensor's values to the host, also where a test has no GPU."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file
        self.lines: dict[int, str] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = getattr(func, "__name__", "")
        # Lines of the base classes wait on the CPU only.
        if name in WAITS and (line := _line_in(self.file)) is not None:
            self.lines[line] = name
        return func(*args, **(kwargs or {}))


def _line_in(file: str) -> int | None:
    """Return the line that called torch if it is in this file."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.startswith(TORCH):
        frame = frame.f_back
    return frame.f_lineno if frame is not None and frame.f_code.co_filename == file else None

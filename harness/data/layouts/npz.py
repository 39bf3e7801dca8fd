"""The layout of .npz archives: arrays under names like ``train/text``, as ``numpy.savez`` writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from harness.errors import UserError, printable

_NAME = re.compile(r"([A-Za-z]+)[/._](.+)")
_MAX_CODE_POINT = 0x10FFFF
_MAX_SHOWN = 12


def nest_arrays(arrays: Mapping[str, np.ndarray], file: str) -> dict[str, dict[str, np.ndarray]]:
    """Return split -> key -> array for names ``split/key``, also with "_" or "."; raises UserError."""
    content: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        match = _NAME.fullmatch(name)
        if match:
            content.setdefault(match[1], {})[match[2]] = array
        if array.dtype.kind == "U" and array.size and not _is_text(array):
            raise UserError(f"{file}: {printable(name)} holds invalid text.")
    if "train" not in content:
        names = ", ".join(printable(name, 60) for name in list(arrays)[:_MAX_SHOWN]) or "nothing"
        raise UserError(f"{file} is an npz archive without arrays like 'train/text'; found: {names}.")
    return content


def _is_text(array: np.ndarray) -> bool:
    """Check code points, which numpy does not."""
    codes = np.ascontiguousarray(array).reshape(-1).view(np.dtype("u4").newbyteorder(array.dtype.byteorder))
    return int(codes.max(initial=0)) <= _MAX_CODE_POINT

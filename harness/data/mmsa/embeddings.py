"""Text features from word ids and an embedding matrix, as MISA's files need them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from harness.data.layouts.names import WORD_IDS
from harness.data.mmsa.split import NoNumbersError, as_numbers
from harness.data.strict.memory_limit import MemoryLimit
from harness.data.strict.npy import map_array, read_npz
from harness.errors import UserError, file_error, printable


def embed_words(content: object, path: Path, file: str, memory: MemoryLimit) -> tuple[object, str]:
    """Look up ``word_ids`` as ``text``; return the content and a note.

    Word i is row i of the (words, width) matrix in the .npy or .npz file at ``path``.

    Raises:
        UserError: The matrix is unusable, or the file has no ids of its rows.
    """
    matrix, splits = _read_matrix(path), content if isinstance(content, dict) else {}
    with_words = {n: parts for n, parts in splits.items() if isinstance(parts, dict) and WORD_IDS in parts}
    if not with_words:
        raise UserError(f"{file} has no {WORD_IDS}, so {str(path)!r} cannot be used; leave out embeddings.")
    embedded = {n: _embed(parts, matrix, f"{file}: {n}", memory) for n, parts in with_words.items()}
    return {**splits, **embedded}, f"text is made of word ids and {str(path)!r} (width: {matrix.shape[1]})."


def _embed(parts: dict[Any, Any], matrix: np.ndarray, where: str, memory: MemoryLimit) -> dict[Any, Any]:
    text = []
    clips = parts[WORD_IDS]
    if not isinstance(clips, (list, tuple, np.ndarray)) or not np.iterable(clips):
        raise UserError(f"{where}/{WORD_IDS} must be a list of ids per clip.")
    for clip in clips:
        try:
            ids = as_numbers(clip, memory).reshape(-1)
        except (NoNumbersError, ValueError, TypeError, OverflowError):
            raise UserError(f"{where}/{WORD_IDS} must hold ids, got other objects, such as words.") from None
        bad = ~((ids >= 0) & (ids < len(matrix)) & (ids == np.floor(ids)))
        if bad.any():
            raise UserError(f"{where}/{WORD_IDS} must be in 0 .. {len(matrix) - 1}, got {ids[bad][0]}.")
        memory.take(4 * len(ids) * matrix.shape[1])
        text.append(matrix[ids.astype(np.int64)].astype(np.float32))
    if not any(map(len, text)):
        raise UserError(f"{where}/{WORD_IDS} is empty for every clip; leave out embeddings.")
    return {**parts, "text": text, "text_lengths": [len(clip) for clip in text]}


def _read_matrix(path: Path) -> np.ndarray:
    """Read a matrix from a .npy file, or from a .npz archive of one array; raises UserError."""
    name = f"The embeddings {str(path)!r}"
    try:
        arrays = list(read_npz(path).values()) if path.suffix == ".npz" else [map_array(path)]
    except OSError as error:
        raise file_error(name, "read", error) from error
    except ValueError as error:
        raise UserError(f"{name} are not a .npy or .npz file: {printable(error)}.") from error
    if len(arrays) != 1 or arrays[0].ndim != 2 or not arrays[0].size or arrays[0].dtype.kind not in "iuf":
        shapes = ", ".join(str(array.shape) for array in arrays[:3]) or "nothing"
        raise UserError(f"{name} must be one matrix (words, width) of numbers, got {shapes}.")
    return arrays[0]

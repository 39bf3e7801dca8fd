"""The layout of HDF5 files: arrays under names like ``train/text``, or of all clips under ``text``."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from harness.data.strict.memory_limit import MemoryLimit
from harness.data.strict.npy import read_npz
from harness.errors import UserError, file_error, printable

TIMEOUT_S = 600.0
PROGRAM = ("-m", "harness.data.layouts.hdf5_arrays")


def read_hdf5(path: Path) -> dict[str, Any]:
    """Return split -> key -> array, and key -> array for arrays without a split; raises UserError."""
    name = repr(str(path))
    if importlib.util.find_spec("h5py") is None:
        advice = "pip install 'msa-mixup-bench[hdf5]'"
        raise UserError(f"{name} is an HDF5 file, which needs the package h5py; install it with {advice}.")
    try:
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder, "arrays.npz")
            _write_archive(path, archive, name)
            arrays = read_npz(archive)
    except ValueError as error:
        raise UserError(f"{name} is not a readable HDF5 file ({printable(str(error))}).") from error
    except OSError as error:
        raise file_error(name, "read", error) from error
    return _nested(arrays)


def _write_archive(path: Path, archive: Path, name: str) -> None:
    """Write the arrays of an HDF5 file in another process; raises UserError, whatever the file does to it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, *PROGRAM, str(path.absolute()), str(archive)]
    how: dict[str, Any] = {"capture_output": True, "text": True, "errors": "replace", "timeout": TIMEOUT_S}
    try:
        done = subprocess.run(command, env=environment, check=False, **how)
    except subprocess.TimeoutExpired:
        raise UserError(f"{name} took longer than {TIMEOUT_S:g} s to read.") from None
    if done.returncode == 3:
        # The limit is exceeded by any amount; this is its one sentence.
        MemoryLimit(name, path.stat().st_size).take(sys.maxsize)
    if done.returncode == 2 and done.stdout:
        raise UserError(done.stdout.replace(repr(str(path.absolute())), name))
    if done.returncode:
        raise UserError(
            f"{name} is not a readable HDF5 file (the HDF5 library ended with status {done.returncode})."
        )


def _nested(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for path, array in arrays.items():
        split, slash, key = path.partition("/")
        if slash:
            content.setdefault(split, {})[key] = array
        else:
            content[path] = array
    return content

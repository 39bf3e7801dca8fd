"""Content of a feature file, read without running code: a pickle, or arrays of .npz or HDF5."""

from __future__ import annotations

import zipfile
from pathlib import Path

from harness.data.layouts.hdf5 import read_hdf5
from harness.data.layouts.npz import nest_arrays
from harness.data.mmsa.unpickle import load_pickle
from harness.data.strict.file_kinds import HDF5, ZIP, describe_zip
from harness.data.strict.npy import read_npz
from harness.errors import UserError, file_error, printable


def load_content(path: str | Path) -> object:
    """Read a pickle, or a .npz archive or HDF5 file as split -> key -> array.

    Raises:
        UserError: The file is missing, unreadable, damaged or of another kind.
    """
    path, name = Path(path), repr(str(path))
    start = _start(path)
    if start == HDF5:
        return read_hdf5(path)
    members = _zip_members(path) if start.startswith(ZIP) else None
    if members is None:
        return load_pickle(path)
    if not members or not all(member.endswith(".npy") for member in members):
        kind, advice = describe_zip(members)
        raise UserError(f"{name} is not a pickle but {kind}; {advice}.")
    try:
        return nest_arrays(read_npz(path), name)
    except OSError as error:
        raise file_error(name, "read", error) from error
    except ValueError as error:
        advice = "save plain arrays of one shape, or pickle the lists"
        raise UserError(f"{name} is not a readable npz archive: {printable(error)}; {advice}.") from error


def _start(path: Path) -> bytes:
    """Return the first bytes of a file, or none if it cannot be read."""
    try:
        # Reading a device or a pipe might never end.
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(len(HDF5))
    except OSError:
        return b""


def _zip_members(path: Path) -> list[str] | None:
    """Return the names in a zip archive; None for a damaged one."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    # Damaged archives raise errors of many types.
    except (OSError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile):
        return None

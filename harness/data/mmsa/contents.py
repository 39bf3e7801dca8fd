"""Content of a feature file, read without running code: a pickle, or the arrays of a .npz archive."""

from __future__ import annotations

import zipfile
from pathlib import Path

from harness.data.layouts.npz import nest_arrays
from harness.data.mmsa.unpickle import load_pickle
from harness.data.npy import read_npz
from harness.errors import UserError, file_error, printable

_ZIP = b"PK\x03\x04"


def load_content(path: str | Path) -> object:
    """Read a pickle, or a .npz archive as split -> key -> array.

    Raises:
        UserError: The file is missing, unreadable, damaged or of another kind.
    """
    path, name = Path(path), repr(str(path))
    if not _is_npz(path):
        return load_pickle(path)
    try:
        return nest_arrays(read_npz(path), name)
    except OSError as error:
        raise file_error(name, "read", error) from error
    except ValueError as error:
        advice = "save plain arrays of one shape, or pickle the lists"
        raise UserError(f"{name} is not a readable npz archive: {printable(error)}; {advice}.") from error


def _is_npz(path: Path) -> bool:
    """Check whether a file is a zip archive of .npy files only; False if it cannot be read."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            if file.read(len(_ZIP)) != _ZIP:
                return False
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        return bool(names) and all(name.endswith(".npy") for name in names)
    # Damaged archives raise errors of many types.
    except (OSError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile):
        return False

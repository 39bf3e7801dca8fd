"""Files of our own: atomic writes, locks, names that any file system takes, JSON that may be damaged."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

UNFINISHED = ".tmp"
MAX_NAME = 200  # bytes; file systems allow 255


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; what the block writes there takes its place at the end.

    The file is whole or absent, whatever happens; when it appears, it is on disk. Raises OSError.
    """
    temporary = path.parent / f"{path.stem[:32]}.{uuid.uuid4().hex}{UNFINISHED}"
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder to fill, which becomes ``folder`` at the end, as a whole or not at all.

    If another process makes the same folder first, that one stays. Raises OSError.
    """
    temporary = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}{UNFINISHED}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sync(path: Path) -> None:
    """Bring a file or folder to disk; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_files_of(cells: Container[str], folder: Path, ending: str = "") -> None:
    """Remove files and folders of cells, ``CELL_ID*``, finished or not; what cannot be removed stays."""
    with contextlib.suppress(OSError):
        for path in list(folder.iterdir()):
            if path.name.partition(".")[0] not in cells or not path.name.endswith(ending):
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)


def load_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is none, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process of this machine at a time into the block; ``path`` is the lock's own file."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        # The lock file stays: whoever removed it would let two newcomers lock two different files.
        os.close(descriptor)


def safe_name(name: str) -> str:
    """A name of the user's as one path component, different for different names."""
    # Percent-encoded, as in URLs, with letters and digits of all scripts as they are.
    safe = "".join(c if c.isalnum() or c in "-_." else quote(c, "", errors="surrogatepass") for c in name)
    safe = safe.replace(".", "%2E", 1) if safe.startswith(".") else safe or "%"
    if len(safe.encode()) <= MAX_NAME:
        return safe
    digest = hashlib.sha256(safe.encode()).hexdigest()[:16]
    return f"{safe[: MAX_NAME // 5]}_{digest}"

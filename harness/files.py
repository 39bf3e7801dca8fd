"""Atomic writes, file locks, portable file names, and JSON that may be damaged."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import uuid
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

try:
    import fcntl
except ModuleNotFoundError:
    sys.stderr.write("Error: this program needs Linux or macOS; on Windows, run it in WSL.\n")
    sys.exit(2)

UNFINISHED = ".tmp"
MOUNTS = Path("/proc/self/mountinfo")
NETWORK_DISKS = {
    *("nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "afs", "cifs", "smb3"),
    *("fuse.glusterfs", "fuse.sshfs"),
}
MAX_NAME = 200  # bytes; file systems allow 255


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write ``path`` atomically: yield a temporary path beside it, then sync and rename that file.

    If the block raises, ``path`` is unchanged. Raises OSError.
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
    """Create ``folder`` atomically: yield a temporary folder beside it, then rename that folder.

    If another process creates ``folder`` first, its folder stays. Raises OSError.
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
    """Flush a file or folder to disk (fsync); raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_files_of(cells: Container[str], folder: Path, ending: str = "") -> None:
    """Remove files and folders of cells, named ``CELL_ID*``, with this ending; ignore errors."""
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
    """Parse a JSON text.

    Raises:
        ValueError: the text is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def network_disk(path: Path, mounts: Path = MOUNTS) -> str:
    """Return the kind of network file system that a path lies on, such as ``nfs4``; empty for a local disk.

    mounts: the mount table of this process; where there is none, no disk is known.
    """
    place = path.resolve()
    kind, length = "", -1
    with contextlib.suppress(OSError):
        for line in mounts.read_text(errors="replace").splitlines():
            before, _, after = line.partition(" - ")
            # Spaces and the like are written in octal.
            point = re.sub(r"\\([0-7]{3})", lambda sign: chr(int(sign[1], 8)), before.split()[4])
            # Of two mounts on one folder, the later one is seen.
            if place.is_relative_to(point) and len(point) >= length:
                kind, length = after.split()[0], len(point)
    return kind if kind in NETWORK_DISKS else ""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file ``path``, which is created, among the processes of this machine."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        # The lock file stays: if it were removed, two processes could lock two different files.
        os.close(descriptor)


def safe_name(name: str) -> str:
    """Turn a user's name into one path component; different names give different components."""
    # Percent-encoded as in URLs, except that letters and digits of all scripts stay.
    safe = "".join(c if c.isalnum() or c in "-_." else quote(c, "", errors="surrogatepass") for c in name)
    safe = safe.replace(".", "%2E", 1) if safe.startswith(".") else safe or "%"
    if len(safe.encode()) <= MAX_NAME:
        return safe
    digest = hashlib.sha256(safe.encode()).hexdigest()[:16]
    return f"{safe[: MAX_NAME // 5]}_{digest}"

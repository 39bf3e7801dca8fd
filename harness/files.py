"""Files of our own: locks, names that any file system takes, and JSON that may be damaged."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote


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


MAX_NAME = 200  # bytes; file systems allow 255


def safe_name(name: str) -> str:
    """A name of the user's as one path component, different for different names."""
    # Percent-encoded, as in URLs, with letters and digits of all scripts as they are.
    safe = "".join(c if c.isalnum() or c in "-_." else quote(c, "", errors="surrogatepass") for c in name)
    safe = safe.replace(".", "%2E", 1) if safe.startswith(".") else safe or "%"
    if len(safe.encode()) <= MAX_NAME:
        return safe
    digest = hashlib.sha256(safe.encode()).hexdigest()[:16]
    return f"{safe[: MAX_NAME // 5]}_{digest}"

"""Check, before anything is trained, that this machine can write a study's artifacts."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlparse

from harness.databases import redact
from harness.errors import UserError

SERVERS = ("http://", "https://")
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def check_artifact_root(location: str, store: str) -> None:
    """Raise UserError if an experiment's artifacts belong in a local folder that cannot be written.

    location: address of the experiment's artifacts; only local folders are checked. store: tracking address.
    """
    address = urlparse(location)
    if address.scheme not in ("", "file"):
        return
    folder, server = Path(unquote(address.path)), store.startswith(SERVERS)
    try:
        if server and not folder.exists():
            _check_is_here(folder.parent, store)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        remedy = "make it writable, or give another study=NAME, whose folder lies below var_dir"
        if server:
            remedy = (
                "restart the server with --serve-artifacts, or with a --default-artifact-root that all "
                "clients can write, and give another study=NAME, as the folder of a study is fixed"
            )
        raise UserError(
            f"Artifacts of this study belong in {str(folder)!r}, as the tracking store {redact(store)} says, "
            f"which cannot be written ({error.strerror or error}); {remedy}."
        ) from None


def _check_is_here(root: Path, server: str) -> None:
    """Raise OSError if a server's root seems to be a folder of another machine."""
    # No server creates its root, so a server of this machine may have a new one. A loopback address may also
    # be a tunnel; then the folder around the root is missing, too.
    own_machine = urlparse(server).hostname in LOOPBACK
    least = root.parent if own_machine else root
    if not least.is_dir():
        raise FileNotFoundError(errno.ENOENT, f"{str(least)!r} is no folder of this machine")

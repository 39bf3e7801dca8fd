"""Starting and ending a process quickly: what its imports cost beside the modules themselves."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import sys
from collections.abc import Iterator
from typing import NoReturn


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Look for no garbage within the block.

    What modules create stays; going through it again and again takes a fifth of the time of large imports.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def end(status: int) -> NoReturn:
    """End the process with this status, its exit handlers called and its output written.

    Python would then free all that was imported, one object after the other, which takes a second and more.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # Nobody reads it any more.
            stream.flush()
    os._exit(status)

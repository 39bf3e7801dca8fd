"""Ctrl-C and SIGTERM, held back where they would leave something half done."""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM)


def raise_interrupts() -> None:
    """From here on Ctrl-C and SIGTERM raise `KeyboardInterrupt` in the main thread."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if getattr(sys.unraisablehook, "func", None) is not _report_dropped:
        sys.unraisablehook = functools.partial(_report_dropped, sys.unraisablehook)


def _report_dropped(report: Callable[[Any], Any], dropped: Any) -> None:
    """Say that Python dropped an interrupt, as it does in destructors, without the traceback."""
    if dropped.exc_type is KeyboardInterrupt:
        sys.stderr.write("The interrupt came where Python cannot stop; press Ctrl-C again.\n")
    else:
        report(dropped)


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Raise `KeyboardInterrupt` for Ctrl-C or SIGTERM when the block is left; the second one at once.

    A store's client that is interrupted in the middle of a call may log a traceback, or leave a transaction
    open. Outside of the main thread, which alone receives signals, this has no effect.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        held.append(number)
        if len(held) > 1:
            raise KeyboardInterrupt

    # One that is ignored, as in a shell's background jobs, stays so.
    before = {number: signal.getsignal(number) for number in STOPPING}
    caught = {number: handler for number, handler in before.items() if callable(handler)}
    for number in caught:
        signal.signal(number, hold)
    try:
        yield
    finally:
        for number, handler in caught.items():
            signal.signal(number, handler)
        if held:
            raise KeyboardInterrupt


def ignore_interrupts() -> None:
    """From here on nothing but SIGKILL stops the process, which is ending anyway."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)

"""Handling of Ctrl-C and SIGTERM: raised as `KeyboardInterrupt`, deferred, or ignored."""

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
    """Make Ctrl-C and SIGTERM raise `KeyboardInterrupt` in the main thread from here on."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if getattr(sys.unraisablehook, "func", None) is not _report_dropped:
        sys.unraisablehook = functools.partial(_report_dropped, sys.unraisablehook)


def _report_dropped(report: Callable[[Any], Any], dropped: Any) -> None:
    """Report an interrupt that Python dropped, as it does in destructors, without a traceback."""
    if dropped.exc_type is KeyboardInterrupt:
        sys.stderr.write("Python could not handle the interrupt at this point; press Ctrl-C again.\n")
    else:
        report(dropped)


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Defer Ctrl-C and SIGTERM to the end of the block; a second signal is raised at once.

    There is no effect outside the main thread, which alone receives signals.
    """
    # An interrupted client of a store may log a traceback, or leave a transaction open.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        if len(signals) > 1:
            raise KeyboardInterrupt

    # A signal that is ignored, as in a shell's background jobs, stays ignored.
    current = {number: signal.getsignal(number) for number in STOPPING}
    handlers = {number: handler for number, handler in current.items() if callable(handler)}
    for number in handlers:
        signal.signal(number, hold)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if signals:
            raise KeyboardInterrupt


def ignore_interrupts() -> None:
    """Ignore Ctrl-C and SIGTERM from here on, in a process that is ending."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)

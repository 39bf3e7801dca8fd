"""Ctrl-C and SIGTERM, held back where they would leave something half done."""

from __future__ import annotations

import _thread
import contextlib
import functools
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM)
AGAIN_S = 0.01
UNHEARD_S = 0.5

# Signals whose interrupt Python dropped, until a handler that may raise has seen them again.
_unheard: set[int] = set()


def raise_interrupts() -> None:
    """From here on Ctrl-C and SIGTERM raise `KeyboardInterrupt` in the main thread, and none is lost.

    Python drops what is raised in a destructor or in the callback of a weak reference, where a signal may
    strike as well; such an interrupt comes again a moment later.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    # One that is ignored, as in a shell's background jobs, stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    before = sys.unraisablehook
    if getattr(before, "func", None) is not _interrupt_again:
        sys.unraisablehook = functools.partial(_interrupt_again, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code is _interrupt_again.__code__:
            # Here it would be dropped for good.
            _interrupt_later(number)
            return
        frame = frame.f_back
    _unheard.discard(number)
    raise KeyboardInterrupt


def _interrupt_again(report: Callable[[Any], Any], dropped: Any) -> None:
    if dropped.exc_type is not KeyboardInterrupt:
        report(dropped)
        return
    number = next((n for n in STOPPING if callable(signal.getsignal(n))), None)
    if number is not None:
        _interrupt_later(number)


def _interrupt_later(number: int) -> None:
    if number not in _unheard:
        _unheard.add(number)
        # Not `threading`, whose locks may be held by what was interrupted.
        _thread.start_new_thread(_repeat, (number,))


def _repeat(number: int) -> None:
    """Send it until it is heard: one that strikes where the main thread begins to wait does not wake it."""
    time.sleep(AGAIN_S)
    while number in _unheard:
        signal.pthread_kill(threading.main_thread().ident or 0, number)
        time.sleep(UNHEARD_S)


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
        _unheard.discard(number)
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
    _unheard.clear()
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)

"""What commands have in common: usage, exit status, signals, the console, a quick start and end.

Exit status: 0 all done, 1 something has no result, 2 the request is wrong, 130 interrupted.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn

from harness.interrupts import ignore_interrupts, raise_interrupts

if TYPE_CHECKING:
    from rich.console import Console


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether the usage is to be shown, whatever else is given."""
    return bool({"-h", "--help"} & set(arguments))


def run_command(action: Callable[[Sequence[str]], int], arguments: Sequence[str], usage: str) -> int:
    """Print the usage, or run a command; returns the exit status."""
    if asks_for_help(arguments):
        print(usage)
        return 0
    from harness.errors import StoreError, UserError

    raise_interrupts()
    try:
        return action(arguments)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except StoreError as error:
        print(f"Error: {error}; the same command resumes.", file=sys.stderr)
        return 1
    except OSError as error:
        where = f" {str(error.filename)!r}" if error.filename else ""
        sentence = f"Error: cannot use the file{where}: {error.strerror or error}"
        if error.errno == errno.ENAMETOOLONG:  # no waiting makes it shorter
            print(f"{sentence}.", file=sys.stderr)
            return 2
        print(f"{sentence}; the same command resumes.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        ignore_interrupts()
        print("Stopped; the same command resumes where it was.", file=sys.stderr)
        return 130


def leave(status: int) -> NoReturn:
    """End the process with this status."""
    # A signal from here on would replace the status of what is done.
    ignore_interrupts()
    end(status)


def make_console() -> Console:
    """Where a command prints, names as they stand; wide where nobody's terminal says otherwise."""
    from rich.console import Console

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # it may know fewer signs than names have
    # Rich draws a picture for a name like "a:x:b" unless it is told not to.
    return Console(emoji=False, width=None if sys.stdout.isatty() else 120)


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

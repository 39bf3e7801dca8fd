"""Code shared by all commands: usage, exit status, signals, console, fast startup and exit.

Exit status: 0 if all is done, 1 if a result is missing, 2 if the request is invalid, 130 if interrupted.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import io
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn

from harness.interrupts import ignore_interrupts, raise_interrupts

if TYPE_CHECKING:
    from rich.console import Console


PLAIN_NAME = re.compile(r"[\w .-]+")
"""Names of studies that a make variable can hold."""


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Return whether ``-h`` or ``--help`` is among the arguments."""
    return bool({"-h", "--help"} & set(arguments))


def run_command(action: Callable[[Sequence[str]], int], arguments: Sequence[str], usage: str) -> int:
    """Print the usage if it is asked for, otherwise run a command; return the exit status."""
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
        print(f"Error: {error}; run the same command to resume.", file=sys.stderr)
        return 1
    except OSError as error:
        where = f" {str(error.filename)!r}" if error.filename else ""
        sentence = f"Error: cannot use the file{where}: {error.strerror or error}"
        if error.errno == errno.ENAMETOOLONG:  # a retry cannot help
            print(f"{sentence}.", file=sys.stderr)
            return 2
        print(f"{sentence}; once this is mended, run the same command to resume.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        ignore_interrupts()
        print("Stopped; run the same command to resume.", file=sys.stderr)
        return 130


def shell_command(target: str, module: str, study: str, located: Sequence[str]) -> str:
    """Return a shell command for a study: a make target if that finds the study, else ``python -m ...``.

    located: settings without which the command would not find the study, such as ``var_dir=DIR``.
    """
    if located or not PLAIN_NAME.fullmatch(study):
        return f"python -m {module} {shlex.join([f'study={study}', *located])}"
    return f"make {target}" + ("" if study == "quick" else f" STUDY={shlex.quote(study)}")


def leave(status: int) -> NoReturn:
    """End the process with this exit status; ignore Ctrl-C and SIGTERM from here on."""
    # The work is done: a signal must not replace its exit status.
    ignore_interrupts()
    end(status)


def make_console() -> Console:
    """Return the console of a command: names are printed verbatim, 120 columns wide outside a terminal."""
    from rich.console import Console

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # its encoding may lack characters
    # By default rich replaces parts of names, such as ":x:", with emoji.
    return Console(emoji=False, width=None if sys.stdout.isatty() else 120)


def unused_address(uri: str | None) -> str:
    """Return a sentence if MLflow's variable is set and no ``tracking.uri`` is passed; else an empty text."""
    if uri is not None or not os.environ.get("MLFLOW_TRACKING_URI"):
        return ""
    return (
        "MLFLOW_TRACKING_URI is set but not used: runs go to var_dir. "
        "Pass tracking.uri=$MLFLOW_TRACKING_URI to log there."
    )


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Disable garbage collection within the block."""
    # Imported objects stay alive, and scanning them repeatedly takes a fifth of the time of large imports.
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def end(status: int) -> NoReturn:
    """Call the exit handlers, flush the output and end the process with this exit status."""
    # The interpreter's own shutdown frees every imported object, which takes a second or more.
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # the reader closed the pipe
            stream.flush()
    os._exit(status)

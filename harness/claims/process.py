"""Telling whether a process of this machine, seen in a shared table, still lives."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process as others can recognise it.

    host: machine, boot and process-id namespace; two equal hosts see each other's process ids.
    started: start time in clock ticks since boot; None where it cannot be read, then only beats decide.
    """

    host: str
    pid: int
    started: int | None


def this_process() -> Process:
    """The calling process, as other drivers on this machine can recognise it."""
    return process_of(os.getpid())


def process_of(pid: int) -> Process:
    """A living process of this machine and process-id namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        # Two machines of one name would look alike, and each would call the other's owners gone.
        return Process(platform.node(), pid, None)
    return Process(f"{platform.node()} {boot} {namespace}", pid, _state(pid)[1])


def is_gone(process: Process) -> bool:
    """True if a process of this host has certainly ended (or its id belongs to another one now)."""
    if process.started is None:
        return False
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    state, started = _state(process.pid)
    return state in ("Z", "X") or started not in (None, process.started)


def _state(pid: int) -> tuple[str, int | None]:
    """State letter and start time in clock ticks since boot; "" and None where they cannot be read."""
    # Not by psutil: its start times move with the wall clock, and it takes processes for ended that the
    # mount option hidepid hides.
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return "", None
    # The name in the second field may itself hold blanks and brackets.
    fields = stat.rpartition(")")[2].split()
    return fields[0], int(fields[19])

"""Process identities in a shared table, and the check whether a process of this machine is alive."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """The identity of a process.

    host: machine, boot and process-id namespace; processes of equal hosts see each other's process ids.
    started: start time in clock ticks since boot; None (unknown): only heartbeats decide.
    """

    host: str
    pid: int
    started: int | None


def this_process() -> Process:
    """Return the identity of the calling process."""
    return process_of(os.getpid())


def process_of(pid: int) -> Process:
    """Return the identity of a living process in this machine's process-id namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        # Without a boot id, two machines of one name look the same, so that only heartbeats may decide.
        return Process(platform.node(), pid, None)
    return Process(f"{platform.node()} {boot} {namespace}", pid, _state(pid)[1])


def is_gone(process: Process) -> bool:
    """Return whether a process of this host has certainly ended (its id may belong to another one now)."""
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
    """Return the state letter and the start time in clock ticks since boot; "" and None if unreadable."""
    # psutil's start times move with the wall clock, and it considers processes ended that the mount option
    # hidepid hides.
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return "", None
    # The name in the second field may contain spaces and parentheses.
    fields = stat.rpartition(")")[2].split()
    return fields[0], int(fields[19])

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
    boot = _read(Path("/proc/sys/kernel/random/boot_id"))
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    # Without them two machines of one name would look alike, and each would call the other's owners gone.
    started = _started(pid) if boot and namespace else None
    return Process(f"{platform.node()} {boot} {namespace}", pid, started)


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
    return _started(process.pid) not in (None, process.started) or _is_zombie(process.pid)


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third (state) on; the second may itself hold blanks and brackets."""
    return _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()


def _started(pid: int) -> int | None:
    fields = _stat(pid)
    return int(fields[19]) if len(fields) > 19 else None


def _is_zombie(pid: int) -> bool:
    return _stat(pid)[:1] in (["Z"], ["X"])


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""

"""Real Ray clusters for the tests: several nodes on this machine, in a network that is a loopback alone."""

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

from tests.support.drivers.driving import environment_of, marked_processes
from tests.support.drivers.postgres import end_with_parent, free_port

ADDRESS = "127.0.0.1"
CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
RAY = Path(sys.executable).with_name("ray")


@contextlib.contextmanager
def loopback_only():
    """Keep this thread, and the processes that it starts, in a network of its own; needs to be root.

    Others stay where they are: a cluster that is told to use the loopback keeps to it anyway.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as before:
        if libc.unshare(CLONE_NEWNET) != 0:
            yield False
            return
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
                fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
            yield True
        finally:
            assert libc.setns(before.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())


def names_of(mark):
    """Return process id -> program name of the processes that carry a mark."""
    names = {}
    for pid in marked_processes(mark):
        with contextlib.suppress(OSError, IndexError):
            title = Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0].decode()
            names[pid] = Path(title).name.split()[0]
    return names


def kill_marked(mark):
    for pid in marked_processes(mark):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Cluster:
    """A cluster; each node is a group of processes that carry its own mark.

    folder: for what the nodes keep. gpus: that each says it has. environment: of all nodes, like a token.
    """

    def __init__(self, mark, folder, nodes=2, cpus=1, gpus=0, **environment):
        self.mark, self.folder, self.environment = mark, folder, environment
        self.size = [f"--num-cpus={cpus}", f"--num-gpus={gpus}"]
        self.port, self.nodes = free_port(), {}
        self.address = f"{ADDRESS}:{self.port}"
        for _ in range(nodes):
            self.add_node()

    def add_node(self):
        """Start a node, the first one as the head; returns its mark."""
        mark = f"{self.mark}-node{len(self.nodes)}"
        head = ["--head", f"--port={self.port}", "--include-dashboard=false"]
        place = [f"--address={self.address}"] if self.nodes else head
        command = [RAY, "start", *place, f"--node-ip-address={ADDRESS}", *self.size, "--block"]
        command += ["--object-store-memory=100000000", "--disable-usage-stats"]
        environment = environment_of(mark, **self.environment, XDG_CACHE_HOME=str(self.cache(mark)))
        environment.pop("PYTHONPATH", None)
        self.nodes[mark] = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
        said = []
        for line in self.nodes[mark].stdout:
            said.append(line)
            if "Ray runtime started" in line:
                return mark
        raise RuntimeError("".join(said))

    def cache(self, node):
        """Return the node's own cache of shipped files, as if it had a disk of its own."""
        return self.folder / f"{node}-cache"

    def workers(self, node):
        """The worker processes of a node that are at work on a cell."""
        return [pid for pid, name in names_of(node).items() if name.startswith("ray::run")]

    def lose(self, node):
        """Kill a node without notice."""
        kill_marked(node)
        self.nodes[node].wait()
        self.nodes[node].stdout.close()

    def close(self):
        """Lose all nodes, the head as the last one."""
        for node in reversed(self.nodes):
            self.lose(node)

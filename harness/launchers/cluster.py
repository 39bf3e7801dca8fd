"""Ray clusters: joining or starting one, and counting the cells that it has room for.

The processes of a cluster started here listen on the loopback interface only, require a token generated for
this run, send no usage statistics, and end with the driver. If the driver is killed, idle agents of Ray may
remain.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from harness.databases import redact
from harness.errors import UserError, line_with_type
from harness.launchers.base import Work
from harness.launchers.processes import usable_cores
from harness.launchers.worker import ENVIRONMENT

CONNECT_S = 5.0
LOOPBACK = "127.0.0.1"
CODE = ("harness", "methods", "backbones")  # packages shipped to an existing cluster
TOKEN_HINT = " Does it require a token (RAY_AUTH_MODE=token, RAY_AUTH_TOKEN or ~/.ray/auth_token)?"
# Ray reads these variables when it is imported.
RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@dataclass(frozen=True)
class Cluster:
    """The settings of launcher "ray".

    address: HOST:PORT of a cluster's head, or "auto"; None: start a cluster on this machine. device: "auto",
    "cpu" or "cuda". cpus_per_cell, gpus_per_cell: needs of a cell, a fraction of one GPU or whole GPUs; None:
    one GPU. max_retries: retries of a cell whose worker or node died.
    """

    address: str | None = None
    device: str = "auto"
    cpus_per_cell: int = 1
    gpus_per_cell: float | None = None
    max_retries: int = 3

    def device_among(self, resources: Mapping[str, float]) -> str:
        """Return the device of all cells; raise UserError if the cluster has no such device."""
        if self.device == "cuda" and not resources.get("GPU"):
            raise UserError(
                "device=cuda needs a GPU, but the Ray cluster has none; use device=cpu or device=auto."
            )
        return "cuda" if self.device != "cpu" and resources.get("GPU") else "cpu"


def places(node: Mapping[str, float], cpus: int, gpus: float) -> int:
    """Return how many cells a node with these resources can run at once; cpus, gpus: needs of one cell."""
    on_cpus = int(node.get("CPU", 0) // cpus)
    if not gpus:
        return on_cpus
    # A cell gets a fraction of one GPU, or whole GPUs.
    on_gpus = int(node.get("GPU", 0)) * int(1 / gpus) if gpus < 1 else int(node.get("GPU", 0) // gpus)
    return min(on_cpus, on_gpus)


def connect(jobs: int | None, cluster: Cluster, work: Work) -> Any:
    """Join the cluster or start one, and return the module ``ray``; raises UserError."""
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if cluster.address is None and "RAY_AUTH_MODE" not in os.environ:
        # A random token keeps other users of this machine out of the cluster.
        token = {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
        # Where Ray is imported already, it would not see its mode; it then sets the mode itself.
        os.environ.update(token if "ray" in sys.modules else {**token, "RAY_AUTH_MODE": "token"})
    try:
        import ray
    except ImportError:
        raise UserError(
            "launcher=ray needs the package ray; install it with pip install 'msa-mixup-bench[ray]'."
        ) from None
    options = _local_options(jobs, cluster) if cluster.address is None else _remote_options(cluster, work)
    try:
        with keep_handlers():
            ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
    except SystemExit:
        # Raised by Ray's own signal handler during startup.
        raise KeyboardInterrupt from None
    # A missing cluster, another version of Ray or Python, and a wrong token raise different exceptions.
    except Exception as error:
        reason = line_with_type(error).rstrip(".")
        if cluster.address is None:
            raise UserError(f"Ray cannot be started on this machine: {reason}.") from error
        hint = TOKEN_HINT if isinstance(error, ConnectionError) else ""
        raise UserError(f"Cannot join the Ray cluster at {cluster.address!r}: {reason}.{hint}") from error
    return ray


def _worker_environment() -> dict[str, str]:
    name = "CUBLAS_WORKSPACE_CONFIG"
    return {**ENVIRONMENT, **({name: os.environ[name]} if name in os.environ else {})}


def _local_options(jobs: int | None, cluster: Cluster) -> dict[str, Any]:
    # Workers use the module search path of this process.
    environment = {**_worker_environment(), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    cores = usable_cores() if jobs is None else jobs * cluster.cpus_per_cell
    place = {"address": "local", "num_cpus": cores, "_node_ip_address": LOOPBACK, "include_dashboard": False}
    return {**place, "runtime_env": {"env_vars": environment}}


def _remote_options(cluster: Cluster, work: Work) -> dict[str, Any]:
    assert cluster.address is not None
    check_address(cluster.address)
    # The folders of the packages are shipped, so that workers run the driver's code.
    folders = []
    for name in dict.fromkeys([*CODE, work.__module__.partition(".")[0]]):
        spec = find_spec(name)
        assert spec is not None
        folders.append((spec.submodule_search_locations or [str(spec.origin)])[0])
    runtime = {"env_vars": _worker_environment(), "py_modules": folders}
    return {"address": cluster.address, "runtime_env": runtime}


def check_address(address: str) -> None:
    """Raise UserError unless the address is "auto" or accepts a connection."""
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if not re.fullmatch(r"[^/\s:]+|\[[0-9a-fA-F:]+\]", host) or not port.isdecimal():
        raise UserError(
            f"launcher.address={redact(address)!r} is not the address of a Ray cluster; give HOST:PORT of "
            "its head (join it with ray start first), or auto for a cluster that runs on this machine."
        )
    reason = connection_error(address)
    if reason is not None:
        raise UserError(f"No Ray cluster answers at {address}: {reason}.")


def connection_error(address: str) -> str | None:
    """Return the reason why HOST:PORT accepts no connection; None if it accepts one."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        return str(getattr(error, "strerror", None) or error)
    return None


@contextlib.contextmanager
def keep_handlers() -> Iterator[None]:
    """Restore the signal handlers that Ray replaces; it replaces them in the main thread only."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)

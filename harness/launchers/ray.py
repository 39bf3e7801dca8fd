"""One task per cell on a Ray cluster: an existing one, or one that is started on this machine.

Ray finds a place for each cell, and runs it again where a worker or a node dies; the driver gets every result
and stays the only one that writes. A few cells per place are in flight, so that a plan's size costs nothing.
What a job reads from the driver's disk goes to each node once, through the object store (`shipping`), and so
does the code; on the cluster that is started here both are read where they lie.

Ray starts its own processes; those of the cluster that is started here listen on the loopback alone, ask for
a token that is made up for this run, send no usage statistics, and end with the driver. Where it is killed,
idle agents of Ray may stay behind, which nothing answers any more.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import re
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness.databases import redact
from harness.errors import StoreError, UserError
from harness.files import replacing
from harness.interrupts import interrupts_held
from harness.launchers.base import Cluster, Job, Outcome, Work, attempt, describe
from harness.launchers.processes import usable_cores
from harness.launchers.ray_task import REFUSED, bytes_of, get_ready, run
from harness.launchers.worker import ENVIRONMENT, name_of, unpacked

CELLS_PER_PLACE = 2  # one that runs and one that waits, so that no place stands idle
LOOK_S = 5.0  # between two looks at the size of the cluster
ROOMLESS_S = 300.0  # without a place for a cell, after which nobody is expected to bring one
CONNECT_S = 5.0
MOST_MISSES = 3  # looks after which the head counts as lost; Ray ends the driver itself after a minute
LOOPBACK = "127.0.0.1"
CODE = ("harness", "methods", "backbones")  # packages that go to an existing cluster
READ = ("data", "text_model", "text_states", "truth")  # a job's fields that name files or folders to read
TOKEN_HINT = " Does it ask for a token (RAY_AUTH_MODE=token, RAY_AUTH_TOKEN or ~/.ray/auth_token)?"
# Ray reads them when it is imported.
SURROUNDINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


class RayLauncher:
    """Runs jobs as tasks of a Ray cluster; ``device`` is where: "cuda" or "cpu".

    Args:
        jobs: at most so many cells at once; None: as many as the cluster has places for.

    Raises:
        UserError: Ray is not installed, the cluster cannot be reached, or it has no place for a cell.
    """

    def __init__(self, jobs: int | None, work: Work, cluster: Cluster) -> None:
        self._work, self._jobs, self._cluster = name_of(work), jobs, cluster
        self._ships = cluster.address is not None
        self._in_flight: dict[Any, Job] = {}
        self._came: list[Outcome] = []
        self._parcels: dict[str, Any] = {}
        self._ray = _connect(jobs, cluster, work)
        self._head, self._misses = self._ray.get_runtime_context().gcs_address, 0
        try:
            self.device = _device(self._ray.cluster_resources(), cluster)
            self._needs = {"num_cpus": cluster.cpus_per_cell, "num_gpus": self._gpus()}
            # Workers live over many jobs on GPUs too, where Ray would end them after each.
            keep = {"max_retries": cluster.max_retries, "max_calls": 0}
            self._task = self._ray.remote(**self._needs, **keep)(run)
            self._places, self._looked = self._count_places(), time.monotonic()
            self._roomless: float | None = None  # since when there is no place for a cell
            if not self._places:
                raise UserError(self._no_place())
        except BaseException:
            self.close()
            raise

    @property
    def slots(self) -> int:
        """How many jobs may be in flight; it follows the size of the cluster."""
        if self._jobs is not None and self._ships:
            return self._jobs
        return max(1, self._places) * CELLS_PER_PLACE

    def start_worker(self) -> None:
        """Have a worker import what it needs; nobody waits for it."""
        self._ray.remote(**self._needs, max_retries=0, max_calls=0)(get_ready).remote(self._work)

    def submit(self, job: Job) -> None:
        """Hand the job to Ray, with what it reads; why it cannot be sent is its outcome otherwise."""
        sent = attempt(lambda: self._send(job))
        if sent.error is None:
            self._in_flight[sent.result] = job
        else:
            self._came.append(Outcome(job, None, f"the job cannot be sent to a worker: {sent.error}"))

    def wait(self, timeout_s: float) -> list[Outcome]:
        """Outcomes that came in; a job whose worker died too often gives one too."""
        self._look()
        tasks, limit_s = list(self._in_flight), 0 if self._came else timeout_s
        if not tasks:
            time.sleep(limit_s)
        elif self._ray.wait(tasks, timeout=limit_s)[0]:
            ready, _ = self._ray.wait(tasks, num_returns=len(tasks), timeout=0)
            with interrupts_held():  # a result that was fetched is soon with nobody else
                for task in ready:
                    self._fetch(task)
        outcomes, self._came = self._came, []
        return outcomes

    def _fetch(self, task: Any) -> None:
        """Take what a task gave; what its worker could not take is handed in again."""
        outcome = self._outcome(task)
        job = self._in_flight.pop(task)
        if outcome is None:
            self.submit(job)
        else:
            self._came.append(outcome)

    def close(self) -> None:
        """End all tasks at once and leave the cluster; one that was started here ends as well."""
        with contextlib.suppress(Exception):  # The cluster may be gone.
            for task in self._in_flight:
                self._ray.cancel(task, force=True)
        self._in_flight, self._parcels = {}, {}
        with _handlers_kept():
            self._ray.shutdown()

    def _look(self) -> None:
        """Now and then, see how large the cluster is; raise StoreError if its head stays silent.

        Ray waits for a silent head in most calls, and ends this process after a minute.
        """
        if time.monotonic() - self._looked < LOOK_S:
            return
        self._looked = time.monotonic()
        if _answers(self._head) is None:
            self._places, self._misses = self._count_places(), 0
            self._roomless = None if self._places else self._roomless or self._looked
            if self._roomless is not None and self._looked - self._roomless > ROOMLESS_S:
                raise StoreError(
                    f"no node of the Ray cluster at {self._head} has had room for a cell for "
                    f"{ROOMLESS_S:.0f} s; {len(self._in_flight)} cells wait"
                )
            return
        self._misses += 1
        if self._misses == MOST_MISSES:
            self._in_flight = {}  # Nobody is left to cancel them.
            raise StoreError(f"the head of the Ray cluster, {self._head}, does not answer any more")

    def _send(self, job: Job) -> Any:
        parcels, checkpoint = {}, None
        if job.checkpoint is not None:
            # Workers that see it write their checkpoints there themselves.
            with contextlib.suppress(OSError):
                Path(job.checkpoint).parent.mkdir(parents=True, exist_ok=True)
        if self._ships:
            paths = {name: getattr(job, name) for name in READ}
            parcels = {
                name: self._parcel(path) for name, path in paths.items() if path and Path(path).exists()
            }
            checkpoint = bytes_of(job.checkpoint)
        payload = pickle.dumps(replace(job, device=self.device))
        return self._task.remote(self._work, payload, checkpoint, tuple(parcels), *parcels.values())

    def _parcel(self, path: str) -> Any:
        """A reference to a packed file or folder in the object store; it is read once."""
        if path not in self._parcels:
            from harness.launchers.shipping import pack

            self._parcels[path] = self._ray.put(pack(Path(path)))
        return self._parcels[path]

    def _outcome(self, task: Any) -> Outcome | None:
        """How a job ended; None where its worker could not take it."""
        job = self._in_flight[task]
        try:
            answer, checkpoint = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            return Outcome(job, None, f"worker died ({describe(error)})")
        if answer == REFUSED:
            return None
        if checkpoint is not None and job.checkpoint is not None:
            _write(Path(job.checkpoint), checkpoint)
        return Outcome(job, *unpacked(answer))

    def _gpus(self) -> float:
        """What a cell takes of a GPU."""
        asked = self._cluster.gpus_per_cell
        return 0.0 if self.device == "cpu" else 1.0 if asked is None else asked

    def _count_places(self) -> int:
        """How many cells the living nodes can run at once."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return sum(places(node, self._cluster.cpus_per_cell, self._gpus()) for node in nodes)

    def _no_place(self) -> str:
        gpus = f" and {self._gpus():g} of a GPU" if self._gpus() else ""
        return (
            f"No node of the Ray cluster has room for a cell, which takes {self._cluster.cpus_per_cell} "
            f"CPU{gpus}; ask for less with cell.threads=N or launcher.gpus_per_cell=X."
        )


def places(node: Mapping[str, float], cpus: int, gpus: float) -> int:
    """How many cells a node with these resources can run at once, each on so many cores and GPUs."""
    on_cpus = int(node.get("CPU", 0) // cpus)
    if not gpus:
        return on_cpus
    # A cell gets a part of one GPU, or whole ones.
    on_gpus = int(node.get("GPU", 0)) * int(1 / gpus) if gpus < 1 else int(node.get("GPU", 0) // gpus)
    return min(on_cpus, on_gpus)


def _device(resources: Mapping[str, float], cluster: Cluster) -> str:
    """Where cells run; raises UserError where there is no such device."""
    if cluster.device == "cuda" and not resources.get("GPU"):
        raise UserError(
            "device=cuda was asked for, but the Ray cluster has no GPU; use device=cpu or device=auto."
        )
    return "cuda" if cluster.device != "cpu" and resources.get("GPU") else "cpu"


def _connect(jobs: int | None, cluster: Cluster, work: Work) -> Any:
    """Join the cluster, or start one; returns the module; raises UserError."""
    for name, value in SURROUNDINGS.items():
        os.environ.setdefault(name, value)
    if cluster.address is None:
        _require_token()
    try:
        import ray
    except ImportError:
        raise UserError(
            "launcher=ray needs the package ray; install it with pip install 'msa-mixup-bench[ray]'."
        ) from None
    passed_on = {name: os.environ[name] for name in ("CUBLAS_WORKSPACE_CONFIG",) if name in os.environ}
    runtime: dict[str, Any] = {"env_vars": {**ENVIRONMENT, **passed_on}}
    if cluster.address is None:
        cores = usable_cores() if jobs is None else jobs * cluster.cpus_per_cell
        place: dict[str, Any] = {"address": "local", "num_cpus": cores, "_node_ip_address": LOOPBACK}
        place["include_dashboard"] = False
        # Workers find modules where this process does.
        runtime["env_vars"]["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        failed = "Ray cannot be started on this machine"
    else:
        _check_address(cluster.address)
        runtime["py_modules"] = _code(work)
        place, failed = {"address": cluster.address}, f"Cannot join the Ray cluster at {cluster.address!r}"
    try:
        with _handlers_kept():
            ray.init(**place, runtime_env=runtime, log_to_driver=False, logging_level=logging.ERROR)
    except SystemExit:
        # Of Ray's own handler, while it starts.
        raise KeyboardInterrupt from None
    # No such cluster, another version of Ray or Python there, another token: each has its own exception.
    except Exception as error:
        asked = TOKEN_HINT if isinstance(error, ConnectionError) and cluster.address else ""
        raise UserError(f"{failed}: {describe(error).rstrip('.')}.{asked}") from error
    return ray


def _require_token() -> None:
    """Let nobody else on this machine use a cluster that is started here, unless the user chose otherwise."""
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))


def _check_address(address: str) -> None:
    """Raise UserError unless it is "auto", or something listens there."""
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if not re.fullmatch(r"[^/\s:]+|\[[0-9a-fA-F:]+\]", host) or not port.isdecimal():
        raise UserError(
            f"launcher.address={redact(address)!r} is no address of a Ray cluster; give HOST:PORT of its "
            "head, on a machine that joined it with ray start, or auto for the cluster that runs here."
        )
    reason = _answers(address)
    if reason is not None:
        raise UserError(f"No Ray cluster answers at {address}: {reason}.")


def _answers(address: str) -> str | None:
    """None where something listens at HOST:PORT, else why not."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        return str(getattr(error, "strerror", None) or error)
    return None


def _code(work: Work) -> list[str]:
    """The folders of the packages that workers need, so that they run what the driver runs."""
    found = []
    for name in dict.fromkeys([*CODE, work.__module__.partition(".")[0]]):
        spec = find_spec(name)
        assert spec is not None
        found.append((spec.submodule_search_locations or [str(spec.origin)])[0])
    return found


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    """Put back the handlers of signals that Ray sets; elsewhere than in the main thread it sets none."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def _write(file: Path, content: bytes) -> None:
    """Put a checkpoint where the next job of its cell looks for it; without it, it begins anew."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary:
            temporary.write_bytes(content)

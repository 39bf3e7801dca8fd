"""A launcher on a Ray cluster, existing or started on this machine, with one task per cell.

Ray schedules each cell, and retries it if its worker or node dies; the driver receives every result and is
the only writer. The number of cells in flight is limited, so that the size of the plan does not matter. On
an existing cluster, each node receives the code and the jobs' input files once, through the object store
(`shipping`); a cluster started here reads both from this machine's disk.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.errors import StoreError, UserError, line_with_type
from harness.files import replacing
from harness.interrupts import interrupts_held
from harness.launchers.base import Job, Outcome, Work, attempt
from harness.launchers.cluster import Cluster, connect, connection_error, keep_handlers, places
from harness.launchers.ray_task import REFUSED, bytes_of, get_ready, run
from harness.launchers.worker import from_bytes, name_of, pack_job

CELLS_PER_PLACE = 2  # one running and one queued, so that no place is idle
LOOK_S = 5.0  # seconds between checks of the cluster
ROOMLESS_S = 300.0  # seconds without a place for a cell until the driver gives up
MOST_MISSES = 3  # failed checks until the head is considered lost; Ray ends the driver itself after a minute
READ = ("data", "text_model", "text_states", "truth")  # fields of a job that name files or folders to read


class RayLauncher:
    """A launcher that runs jobs as tasks of a Ray cluster, on ``device``: "cuda" or "cpu".

    Args:
        jobs: maximum number of cells at once; None: as many as the cluster has room for.

    Raises:
        UserError: Ray is not installed, the cluster cannot be reached, or it has no room for a cell.
    """

    def __init__(self, jobs: int | None, work: Work, cluster: Cluster) -> None:
        self._work, self._jobs, self._cluster = name_of(work), jobs, cluster
        self._ships = cluster.address is not None
        self._in_flight: dict[Any, Job] = {}
        self._outcomes: list[Outcome] = []
        self._parcels: dict[str, Any] = {}
        self._ray = connect(jobs, cluster, work)
        self._head, self._misses = self._ray.get_runtime_context().gcs_address, 0
        try:
            self.device = cluster.device_among(self._ray.cluster_resources())
            gpus = 1.0 if cluster.gpus_per_cell is None else cluster.gpus_per_cell
            self._gpus = gpus if self.device == "cuda" else 0.0
            # max_calls=0: workers run many jobs on GPUs too, where Ray ends them after each task by default.
            self._needs = {"num_cpus": cluster.cpus_per_cell, "num_gpus": self._gpus, "max_calls": 0}
            self._task = self._ray.remote(**self._needs, max_retries=cluster.max_retries)(run)
            self._places, self._looked = self._count_places(), time.monotonic()
            self._roomless: float | None = None  # monotonic time at which room ran out
            if not self._places:
                raise UserError(self._no_place())
        except BaseException:
            self.close()
            raise

    @property
    def slots(self) -> int:
        """Maximum number of jobs in flight; it follows the size of the cluster."""
        if self._jobs is not None and self._ships:
            return self._jobs
        return max(1, self._places) * CELLS_PER_PLACE

    def start_worker(self) -> None:
        """Let a worker import what it needs, without waiting for it."""
        self._ray.remote(**self._needs, max_retries=0)(get_ready).remote(self._work)

    def submit(self, job: Job) -> None:
        """Send the job and its input files to Ray; if that fails, the error becomes the job's outcome."""
        task = attempt(lambda: self._send(job))
        if task.error is None:
            self._in_flight[task.result] = job
        else:
            error = f"the job cannot be sent to a worker: {task.error}"
            self._outcomes.append(Outcome(job, None, error))

    def wait(self, timeout_s: float) -> list[Outcome]:
        """Return the outcomes that arrived; a job whose worker died too often yields one too."""
        self._check_cluster()
        tasks, limit_s = list(self._in_flight), 0 if self._outcomes else timeout_s
        if not tasks:
            time.sleep(limit_s)
        elif self._ray.wait(tasks, timeout=limit_s)[0]:
            ready, _ = self._ray.wait(tasks, num_returns=len(tasks), timeout=0)
            with interrupts_held():  # a fetched result exists only here
                for task in ready:
                    self._fetch(task)
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def _fetch(self, task: Any) -> None:
        """Fetch the outcome of a finished task; submit the job again if its worker refused it."""
        job = self._in_flight[task]
        outcome = self._outcome(task, job)
        del self._in_flight[task]
        if outcome is None:
            self.submit(job)
        else:
            self._outcomes.append(outcome)

    def close(self) -> None:
        """Cancel all tasks and leave the cluster; a cluster started here ends."""
        with contextlib.suppress(Exception):  # the cluster may be gone
            for task in self._in_flight:
                self._ray.cancel(task, force=True)
        self._in_flight, self._parcels = {}, {}
        with keep_handlers():
            self._ray.shutdown()

    def _check_cluster(self) -> None:
        """Update the size of the cluster; raise StoreError if the head is lost or room is lacking."""
        # Most calls of Ray block while the head is silent, and Ray ends this process after a minute.
        if time.monotonic() - self._looked < LOOK_S:
            return
        self._looked = time.monotonic()
        if connection_error(self._head) is None:
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
            self._in_flight = {}  # tasks cannot be cancelled without the head
            raise StoreError(f"the head of the Ray cluster, {self._head}, no longer answers")

    def _send(self, job: Job) -> Any:
        parcels, checkpoint = {}, None
        if job.checkpoint is not None:
            # Workers that see this folder write their checkpoints to it.
            with contextlib.suppress(OSError):
                Path(job.checkpoint).parent.mkdir(parents=True, exist_ok=True)
        if self._ships:
            paths = {name: getattr(job, name) for name in READ}
            parcels = {
                name: self._parcel(path) for name, path in paths.items() if path and Path(path).exists()
            }
            checkpoint = bytes_of(job.checkpoint)
        payload = pack_job(replace(job, device=self.device))
        return self._task.remote(self._work, payload, checkpoint, tuple(parcels), *parcels.values())

    def _parcel(self, path: str) -> Any:
        """Return a reference to a file or folder in the object store; it is read once."""
        if path not in self._parcels:
            from harness.launchers.shipping import read_parcel

            self._parcels[path] = self._ray.put(read_parcel(Path(path)))
        return self._parcels[path]

    def _outcome(self, task: Any, job: Job) -> Outcome | None:
        """Return the outcome of a task's job; None if its worker refused the job."""
        try:
            answer, checkpoint = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            return Outcome(job, None, f"worker died ({line_with_type(error)})")
        if answer == REFUSED:
            return None
        if checkpoint is not None and job.checkpoint is not None:
            _write(Path(job.checkpoint), checkpoint)
        return from_bytes(answer, job)

    def _count_places(self) -> int:
        """Return how many cells the living nodes can run at once."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return sum(places(node, self._cluster.cpus_per_cell, self._gpus) for node in nodes)

    def _no_place(self) -> str:
        gpus = f" and {self._gpus:g} GPU" if self._gpus else ""
        return (
            f"No node of the Ray cluster has room for a cell, which needs {self._cluster.cpus_per_cell} "
            f"CPU{gpus}; set a smaller cell.threads or launcher.gpus_per_cell."
        )


def _write(file: Path, content: bytes) -> None:
    """Save a checkpoint for the next job of its cell; if that fails, the cell starts over."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary:
            temporary.write_bytes(content)

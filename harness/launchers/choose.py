"""Choice of the launcher, the number of its workers and their devices."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.cli import importing
from harness.errors import UserError, unknown
from harness.launchers.base import Launcher, Work

LOCAL = ("inline", "processes")
LAUNCHERS = (*LOCAL, "ray")


def make_launcher(name: str, jobs: int | None, work: Work, devices: Sequence[str] = ()) -> Launcher:
    """Build a launcher for this machine by name.

    Args:
        jobs: number of cells at once; None: one per usable core. "inline" always runs one.
        work: a module-level function of an importable module.
        devices: GPUs that the workers of "processes" share evenly; empty: each job names its device.

    Raises:
        UserError: the name is unknown, or jobs is below 1.
    """
    from harness.launchers.inline import InlineLauncher
    from harness.launchers.processes import ProcessLauncher, usable_cores

    if name not in LOCAL:
        raise unknown("launcher", name, LAUNCHERS)
    if jobs is not None and jobs < 1:
        raise UserError(f"jobs must be at least 1, got {jobs}.")
    if name == "inline":
        return InlineLauncher(work)
    return ProcessLauncher(usable_cores() if jobs is None else jobs, work, devices)


def open_launcher(config: Any, cells: Sequence[Any], folders: Mapping[str, Path]) -> tuple[Launcher, str]:
    """Return the requested launcher and the torch device of its cells; raises UserError.

    The first worker of a pool starts its imports in the background. folders: stored datasets, by name.
    """
    with importing():
        from harness.launchers.gpu_sharing import allocation_of
        from harness.launchers.job import run_job
        from harness.train.arithmetic import check_compiler, resolve_device

    if config.deterministic:
        # cuBLAS is deterministic only with this variable, read when CUDA starts, here or in a worker.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if config.launcher.name == "ray":
        launcher, device = _join_cluster(config, run_job)
    else:
        device = resolve_device(config.device)
        if config.compile:
            # Checked once here, rather than in every cell.
            check_compiler(device)
        jobs, devices = allocation_of(config, cells, folders, device)
        launcher = make_launcher(config.launcher.name, jobs, run_job, devices)
    launcher.start_worker()
    return launcher, device


def _join_cluster(config: Any, work: Work) -> tuple[Launcher, str]:
    """Return a launcher on a Ray cluster and its device, which may be a GPU even if this machine has none."""
    from harness.launchers.cluster import Cluster
    from harness.launchers.ray import RayLauncher
    from harness.train.arithmetic import check_precision

    settings, share = config.launcher, config.launcher.gpus_per_cell
    if share is None and config.jobs_per_gpu is not None:
        share = 1 / config.jobs_per_gpu
    cluster = Cluster(settings.address, config.device, config.cell.threads, share, settings.max_retries)
    launcher = RayLauncher(config.jobs, work, cluster)
    try:
        check_precision(config.precision, launcher.device)
    except BaseException:
        launcher.close()
        raise
    return launcher, launcher.device

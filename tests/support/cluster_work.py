"""Work that an existing cluster is given, and drivers of it as processes of their own.

It imports what is shipped alone: the nodes know no other module of the tests.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness
from harness.errors import UserError
from harness.launchers.base import Job
from harness.launchers.cluster import Cluster
from harness.launchers.ray import RayLauncher


def read(job):
    """What a job finds where its paths lead, and where the code lies that runs it."""
    found = [Path(job.data, "deep/file").read_text(), Path(job.truth).read_text(), job.text_model]
    return job.data, found, harness.__file__


def see_gpus(job):
    """The device that a job is to use, and the GPUs that Ray shows it."""
    time.sleep(0.5)
    return job.device, os.environ.get("CUDA_VISIBLE_DEVICES"), os.getpid()


def drive_on_gpus(address, share):
    """Run jobs on parts of GPUs; returns their results, and how many may be in flight."""
    launcher = RayLauncher(None, see_gpus, Cluster(address, gpus_per_cell=share))
    slots = launcher.slots
    for k in range(slots):
        launcher.submit(Job(k, "", "cpu"))
    results = []
    while len(results) < slots:
        results += [outcome.result for outcome in launcher.wait(1.0)]
    launcher.close()
    return results, slots


def drive(address, jobs, **paths):
    """Run jobs that read; returns their results, and how often the driver put something in the store."""
    import ray

    puts, put = [], ray.put
    ray.put = lambda value: puts.append(value) or put(value)
    launcher = RayLauncher(None, read, Cluster(address))
    waiting, results = [Job(k, device="cpu", **paths) for k in range(jobs)], []
    while len(results) < jobs:
        while waiting and jobs - len(waiting) - len(results) < launcher.slots:
            launcher.submit(waiting.pop())
        for outcome in launcher.wait(1.0):
            assert outcome.error is None, outcome
            results.append(outcome.result)
    launcher.close()
    return results, len(puts)


def refusal(address, **asked):
    """Why there is no launcher."""
    try:
        RayLauncher(None, read, Cluster(address, **asked))
    except UserError as error:
        return str(error)


def in_a_process(function, *given, **named):
    """Call a function of this module in a process that may join a cluster."""
    call = json.dumps([function, given, named])
    # Elsewhere, for Ray also has workers look for modules where the driver stands.
    options = {"capture_output": True, "text": True, "timeout": 120, "cwd": tempfile.gettempdir()}
    done = subprocess.run([sys.executable, __file__, call], **options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    import cluster_work

    name, arguments, keywords = json.loads(sys.argv[1])
    print(json.dumps(getattr(cluster_work, name)(*arguments, **keywords)))

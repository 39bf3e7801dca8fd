"""Work that an existing cluster is given, and drivers of it as processes of their own.

It imports only shipped modules, because nodes have no other module of the tests.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness
from harness.launchers.base import Job
from harness.launchers.cluster import Cluster
from harness.launchers.ray import RayLauncher


def read(job):
    """Return the contents of a job's paths, and the location of the code that runs it."""
    found = [Path(job.data, "deep/file").read_text(), Path(job.truth).read_text(), job.text_model]
    return job.data, found, harness.__file__


def see_gpus(job):
    """The device that a job is to use, the GPUs that Ray shows it, the process, its start and end in s."""
    start = time.monotonic()
    time.sleep(0.5)
    return job.device, os.environ.get("CUDA_VISIBLE_DEVICES"), os.getpid(), start, time.monotonic()


def drive(address, work, jobs=None, gpus_per_cell=None, **paths):
    """Run jobs, as many as may be in flight or so many; returns results, slots, and puts into Ray's store."""
    import ray

    puts, put = [], ray.put
    ray.put = lambda value: puts.append(value) or put(value)
    launcher = RayLauncher(None, globals()[work], Cluster(address, gpus_per_cell=gpus_per_cell))
    slots, results = launcher.slots, []
    waiting = [Job(k, device="cpu", **{"data": "", **paths}) for k in range(jobs or slots)]
    in_flight = 0
    while waiting or in_flight:
        while waiting and in_flight < launcher.slots:
            launcher.submit(waiting.pop())
            in_flight += 1
        for outcome in launcher.wait(1.0):
            assert outcome.error is None, outcome
            in_flight -= 1
            results.append(outcome.result)
    launcher.close()
    return results, slots, len(puts)


def in_a_process(function, *given, **named):
    """Call a function of this module in a process that may join a cluster."""
    from tests.support.drivers.driving import environment_of

    call = json.dumps([function, given, named])
    # Use another folder, because Ray adds the driver's working directory to the workers' module path.
    options = {"capture_output": True, "text": True, "timeout": 120, "cwd": tempfile.gettempdir()}
    # With the token of a cluster that another test runs, the nodes could not call the driver back.
    done = subprocess.run([sys.executable, __file__, call], env=environment_of("driver"), **options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    import cluster_work

    name, arguments, keywords = json.loads(sys.argv[1])
    print(json.dumps(getattr(cluster_work, name)(*arguments, **keywords)))

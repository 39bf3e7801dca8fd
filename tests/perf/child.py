"""Measurements in processes of their own, which take turns; and the time spent in chosen functions.

``python -m tests.perf.child MODULE:FUNCTION JSON`` prints {} when it is ready, and then for every line on its
standard input, a JSON object, calls the function with both objects and prints the one that it returns.
Nothing heavy is imported here, see `timed`.
"""

import contextlib
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from unittest import mock

from harness.launchers.worker import ENVIRONMENT
from tests.support.paths import ROOT


class ChildError(Exception):
    """A measuring process died; the last line of the message is usually its exception."""


class Child(contextlib.AbstractContextManager):
    """A process that measures with a function, ``module:name``; arguments: those that all calls share.

    as_worker: with the environment that worker processes get. root: the checkout whose code it runs.
    """

    def __init__(self, function, as_worker=True, root=ROOT, **arguments):
        # The caller's own threads and allocator settings must not change a measurement.
        environment = {k: v for k, v in os.environ.items() if k not in ENVIRONMENT}
        environment |= {"PYTHONPATH": str(root), "MLFLOW_DISABLE_TELEMETRY": "true"}
        environment |= ENVIRONMENT if as_worker else {}
        command = [sys.executable, "-m", "tests.perf.child", function, json.dumps(arguments)]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self._process = subprocess.Popen(command, cwd=root, env=environment, text=True, **pipes)
        self.end()

    def __exit__(self, *_):
        self._process.kill()
        self._process.communicate()

    def begin(self, **request):
        """Start a measurement."""
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def end(self):
        """Wait for the measurement; raises `ChildError`."""
        line = self._process.stdout.readline()
        if not line:
            self._process.kill()
            _, said = self._process.communicate()
            raise ChildError(said.strip()[-2000:] or f"exit status {self._process.returncode}")
        return json.loads(line)

    def ask(self, **request):
        """Measure once."""
        self.begin(**request)
        return self.end()


def main(function, arguments):
    """Serve measurements until the standard input ends."""
    module, name = function.split(":")
    measure = getattr(importlib.import_module(module), name)
    # The output of libraries must not mix with the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        measured = measure(**json.loads(arguments), **json.loads(line))
        print(json.dumps(measured), file=answers, flush=True)


def timed(*arguments, status=0):
    """Measure ``python ARGUMENTS`` at the top of the project; raises `ChildError` for another exit status.

    Linux counts to a new process the memory of the process that started it, so a small one starts it.
    Returns s, cpu_s, mb (peak memory), and started, in seconds since the epoch.
    """
    with Child("tests.perf.child:run", as_worker=False) as child:
        return child.ask(command=[sys.executable, *arguments], status=status)


def run(command, status):
    """Run a command, the only one of this process, and return what `timed` does."""
    epoch_s, started = time.time(), time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        ended = subprocess.call(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        seconds = time.perf_counter() - started
        output.seek(0)
        assert ended == status, f"{' '.join(command)}: {output.read()}"
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s, mb = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
    return {"s": seconds, "cpu_s": cpu_s, "mb": mb, "started": epoch_s}


@contextlib.contextmanager
def watched(**calls):
    """Yield the seconds spent in functions, each given as a class or module, and a name there."""
    spent = dict.fromkeys(calls, 0.0)

    def stopwatch(label, function):
        def call(*args, **kwargs):
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[label] += time.perf_counter() - started

        return call

    with contextlib.ExitStack() as stack:
        for label, (home, name) in calls.items():
            call = stopwatch(label, getattr(home, name))
            stack.enter_context(mock.patch.object(home, name, call))
        yield spent


if __name__ == "__main__":
    main(*sys.argv[1:])

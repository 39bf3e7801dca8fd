"""Measurements in processes of their own, which take turns; and the time spent in chosen functions.

``python -m tests.perf.child MODULE:FACTORY JSON`` calls the factory with the JSON object, prints a line
when it is ready, and then for every line on its standard input calls what the factory made and prints what
that returns, a JSON object. Nothing heavy is imported here, see `commands`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from unittest import mock

from harness.launchers.worker import ENVIRONMENT
from tests.support.paths import ROOT

Measure = Callable[..., dict[str, float]]


class ChildError(Exception):
    """A measuring process died; the message holds the end of what it said."""

    @property
    def last_line(self):
        """What it said last, the exception of a traceback."""
        return str(self).splitlines()[-1]


class Child:
    """A process that measures.

    factory: ``module:function``; arguments: its keyword arguments. as_worker: with the environment that
    worker processes get. root: the checkout whose code it runs.
    """

    def __init__(self, factory, arguments, as_worker=True, root=ROOT):
        # The caller's own threads and allocator settings must not change a measurement.
        environment = {k: v for k, v in os.environ.items() if k not in ENVIRONMENT}
        environment |= {"PYTHONPATH": str(root), "MLFLOW_DISABLE_TELEMETRY": "true"}
        environment |= ENVIRONMENT if as_worker else {}
        command = [sys.executable, "-m", "tests.perf.child", factory, json.dumps(arguments)]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self._process = subprocess.Popen(command, cwd=root, env=environment, text=True, **pipes)

    def __enter__(self):
        self._line()
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.communicate()

    def begin(self, **request):
        """Start a measurement."""
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def end(self):
        """Wait for the measurement; raises `ChildError`."""
        return json.loads(self._line())

    def ask(self, **request):
        """Measure once."""
        self.begin(**request)
        return self.end()

    def _line(self):
        line = self._process.stdout.readline().strip()
        if not line:
            self._process.kill()
            _, said = self._process.communicate()
            raise ChildError(said.strip()[-2000:] or f"exit status {self._process.returncode}")
        return line


def main(factory, arguments):
    """Serve measurements until the standard input ends."""
    module, _, name = factory.partition(":")
    measure = getattr(importlib.import_module(module), name)(**json.loads(arguments))
    # What libraries print must not end up between the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(**json.loads(line))), file=answers, flush=True)


def timed(*arguments, status=0):
    """What `commands` measures of ``python ARGUMENTS``; raises `ChildError` for another exit status."""
    with Child("tests.perf.child:commands", {}, as_worker=False) as child:
        return child.ask(command=[sys.executable, *arguments], status=status)


def commands():
    """For a `Child`: runs a command from the top of the project.

    The measurements: s, cpu_s, mb (peak memory), and started, in seconds since the epoch. Linux counts to a
    new process the memory of the one that started it, which is why this small process starts it.
    """

    def run(command, status):
        with tempfile.TemporaryFile("w+") as output:
            epoch_s, started = time.time(), time.perf_counter()
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
            _, ended, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - started
            process.returncode = os.waitstatus_to_exitcode(ended)
            output.seek(0)
            assert process.returncode == status, f"{' '.join(command)}: {output.read()}"
        cpu_s, mb = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
        return {"s": seconds, "cpu_s": cpu_s, "mb": mb, "started": epoch_s}

    return run


@contextlib.contextmanager
def watched(**calls):
    """Yield the seconds spent in functions, each given as a class or module, and a name there."""
    spent = dict.fromkeys(calls, 0.0)
    with contextlib.ExitStack() as stack:
        for label, (home, name) in calls.items():
            timed_call = _timed_call(getattr(home, name), label, spent)
            stack.enter_context(mock.patch.object(home, name, timed_call))
        yield spent


def _timed_call(function, label, spent):
    def call(*args, **kwargs):
        started = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent[label] += time.perf_counter() - started

    return call


if __name__ == "__main__":
    main(*sys.argv[1:])

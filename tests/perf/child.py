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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from harness.launchers.worker import ENVIRONMENT
from tests.support.paths import ROOT

READY = "ready"
Measure = Callable[..., dict[str, float]]


class ChildError(Exception):
    """A measuring process died; the message holds the end of what it said."""


class Child:
    """A process that measures.

    factory: ``module:function``; arguments: its keyword arguments. as_worker: with the environment that
    worker processes get. root: the checkout whose code it runs.
    """

    def __init__(
        self, factory: str, arguments: Mapping[str, Any], as_worker: bool = True, root: Path = ROOT
    ) -> None:
        # The caller's own threads and allocator settings must not change a measurement.
        environment = {k: v for k, v in os.environ.items() if k not in ENVIRONMENT}
        environment |= {"PYTHONPATH": str(root), "MLFLOW_DISABLE_TELEMETRY": "true"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.perf.child", factory, json.dumps(arguments)],
            cwd=root,
            env={**environment, **ENVIRONMENT} if as_worker else environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout

    def __enter__(self) -> Child:
        self._line()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._in.close()
        self._process.kill()
        self._process.wait()

    def begin(self, **request: Any) -> None:
        """Start a measurement."""
        self._in.write(json.dumps(request) + "\n")
        self._in.flush()

    def end(self) -> dict[str, float]:
        """Wait for the measurement; raises `ChildError`."""
        measured: dict[str, float] = json.loads(self._line())
        return measured

    def ask(self, **request: Any) -> dict[str, float]:
        """Measure once."""
        self.begin(**request)
        return self.end()

    def _line(self) -> str:
        line = self._out.readline().strip()
        if not line:
            self._process.kill()
            _, said = self._process.communicate()
            raise ChildError(said.strip()[-2000:] or f"exit status {self._process.returncode}")
        return line


def main(factory: str, arguments: str) -> None:
    """Serve measurements until the standard input ends."""
    module, _, name = factory.partition(":")
    measure = getattr(importlib.import_module(module), name)(**json.loads(arguments))
    # What libraries print must not end up between the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    print(READY, file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(**json.loads(line))), file=answers, flush=True)


def timed(*arguments: str, status: int = 0) -> dict[str, float]:
    """What `commands` measures of ``python ARGUMENTS``; raises `ChildError` for another exit status."""
    with Child("tests.perf.child:commands", {}, as_worker=False) as child:
        return child.ask(command=[sys.executable, *arguments], status=status)


def commands() -> Measure:
    """For a `Child`: runs a command from the top of the project.

    The measurements: s, cpu_s, mb (peak memory), and started, in seconds since the epoch. Linux counts to a
    new process the memory of the one that started it, which is why this small process starts it.
    """

    def run(command: Sequence[str], status: int) -> dict[str, float]:
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
def watched(**calls: tuple[Any, str]) -> Iterator[dict[str, float]]:
    """Yield the seconds spent in functions, each given as a class or module, and a name there."""
    spent = dict.fromkeys(calls, 0.0)
    with contextlib.ExitStack() as stack:
        for label, (home, name) in calls.items():
            stack.enter_context(mock.patch.object(home, name, _watched(getattr(home, name), label, spent)))
        yield spent


def _watched(function: Callable[..., Any], label: str, spent: dict[str, float]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent[label] += time.perf_counter() - started

    return call


if __name__ == "__main__":
    main(*sys.argv[1:])

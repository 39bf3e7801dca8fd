"""Measurements in processes of their own, asked for one at a time, so that several can take turns.

``python -m tests.perf.child MODULE:FACTORY JSON`` calls the factory with the JSON object, prints a line
when it is ready, and then for every line on its standard input calls what the factory made and prints what
that returns, a JSON object.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.launchers.worker import ENVIRONMENT
from tests.support.paths import ROOT

READY = "ready"


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
        # The environment's own threads and allocator settings are nobody's choice here.
        environment = {k: v for k, v in os.environ.items() if k not in ENVIRONMENT}
        environment |= {"PYTHONPATH": str(root), "MLFLOW_DISABLE_TELEMETRY": "true"}
        if as_worker:
            environment |= ENVIRONMENT
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.perf.child", factory, json.dumps(arguments)],
            cwd=root,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout

    def __enter__(self) -> Child:
        if self._line() != READY:
            self._died()
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

    def end(self) -> dict[str, Any]:
        """Wait for the measurement; raises `ChildError`."""
        line = self._line()
        if not line:
            self._died()
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, **request: Any) -> dict[str, Any]:
        """Measure once."""
        self.begin(**request)
        return self.end()

    def _line(self) -> str:
        return self._out.readline().strip()

    def _died(self) -> None:
        self._process.kill()
        _, said = self._process.communicate()
        raise ChildError(said.strip()[-2000:] or f"exit status {self._process.returncode}")


@contextlib.contextmanager
def children(*made: Child) -> Iterator[tuple[Child, ...]]:
    """Several at once, ended together."""
    with contextlib.ExitStack() as stack:
        yield tuple(stack.enter_context(child) for child in made)


def main(factory: str, arguments: str) -> None:
    """Serve measurements until the standard input ends."""
    module, _, name = factory.partition(":")
    measure = getattr(importlib.import_module(module), name)(**json.loads(arguments))
    # What libraries print must not end up between the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    print(READY, file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(**json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

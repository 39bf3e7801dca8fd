"""Several processes that train on one GPU at the same time, and how many steps they do together."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from threading import BrokenBarrierError
from types import TracebackType
from typing import Any

import torch

from harness.data.store import load_dataset
from harness.matrix import Cell
from tests.perf.gpu_steps import WARM_UP, Steps, place, rate, synchronize

CONTEXT = multiprocessing.get_context("spawn")
LIMIT_S = 300.0  # for a process to start, to compile its first step, and to answer


class Crew:
    """Processes that wait for cells to train, as many at once as asked for.

    Args:
        folder: of the stored dataset. device: of all of them. sizes: how many are to be used together.
    """

    def __init__(self, folder: str, device: str, sizes: Sequence[int]):
        self._barriers = {size: CONTEXT.Barrier(size) for size in sizes}
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        for _ in range(max(sizes, default=0)):
            ours, theirs = CONTEXT.Pipe()
            given = theirs, self._barriers, folder, device
            process = CONTEXT.Process(target=_serve, args=given, daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.terminate()
            process.join()

    def steps_per_s(self, cell: Cell, size: int, seconds: float) -> float:
        """Steps per second of ``size`` processes together; raises RuntimeError where one of them fails."""
        pipes = self._pipes[:size]
        for pipe in pipes:
            pipe.send((cell, size, seconds))
        answers = [_answer(pipe) for pipe in pipes]
        failed = [answer for answer in answers if isinstance(answer, str)]
        if failed:
            # All have answered, so nobody waits at it.
            self._barriers[size].reset()
            raise RuntimeError(f"of {size} processes, {len(failed)} failed: {failed[0]}")
        return float(sum(answers))


def _answer(pipe: Connection) -> Any:
    try:
        return pipe.recv() if pipe.poll(LIMIT_S) else f"no answer in {LIMIT_S:.0f} s"
    except (EOFError, OSError):
        return "the process died"


def _serve(pipe: Connection, barriers: dict[int, Any], folder: str, device: str) -> None:
    """Train what is asked for until the other end closes (the process's side)."""
    torch.set_num_threads(1)
    dataset = load_dataset(folder)
    splits = place(dataset, torch.device(device))
    while True:
        try:
            cell, size, seconds = pipe.recv()
        except EOFError:
            return
        try:
            steps = Steps(cell, dataset, splits)
            steps.run(WARM_UP)
            answer: Any = _together(steps, barriers[size], seconds)
        # Whatever fails is the answer; the others of the crew must not wait for this one.
        except Exception as error:
            barriers[size].abort()
            answer = f"{type(error).__name__}: {error}"
        pipe.send(answer)


def _together(steps: Steps, barrier: Any, seconds: float) -> float:
    """Begin with the others and end after them, so that all train as long as it is measured."""

    def some() -> int:
        return len(steps.run(WARM_UP))

    synchronize(steps.device)
    try:
        barrier.wait(LIMIT_S)
        found = rate(some, steps.device, seconds)
        ended = time.perf_counter()
        while time.perf_counter() - ended < seconds / 4:
            some()
        barrier.wait(LIMIT_S)
    except BrokenBarrierError:
        raise RuntimeError("another process failed") from None
    return found

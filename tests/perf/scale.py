"""What large studies cost: planning them, going on with one that is done, and exporting it.

Each is a command in a process of its own, so that its peak memory is, too. The stored studies are made up:
complete cells of 20 numbers each, with predictions of as many clips as MOSI has for testing, on SQLite. How
the costs grow is measured apart, in a process that has run the command before: exponent of the CPU time
beyond that for a few cells.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from harness import benchmark
from harness.config.compose import load_benchmark
from harness.databases import sqlite_uri
from harness.launchers.base import Job
from harness.matrix import Cell
from harness.plan import make_plan
from harness.tracking.provenance import provenance
from harness.tracking.tracker import Tracker
from harness.train.result import Result
from reports import export
from tests.perf.child import Child
from tests.perf.growth import exponent
from tests.perf.jobs import ready_result
from tests.perf.rows import Part, Row
from tests.perf.stored import store_claims, store_runs
from tests.perf.timed import timed

FEW = 20
PLANNED, STORED = (10_000, 100_000), (1_000, 10_000)
REPEATS = 3  # for the exponent, but of the largest size; the least counts
BOUND_S, BOUND_MB, EXPONENT_BOUND = 60.0, 1024.0, 1.2
STUDY = "scale"
METHODS = ("none", "mixup", "powmix", "ms_mix")
BACKBONES = ("tfn", "lmf", "mult", "misa", "almt")

Cost = tuple[float, float]  # seconds and MB
Arguments = Callable[[Path, int], list[str]]


def request(folder: Path, cells: int) -> list[str]:
    """Settings of the benchmark that ask for so many cells, a multiple of `FEW`, and store below a folder."""
    seeds, rest = divmod(cells, len(METHODS) * len(BACKBONES))
    assert not rest, f"{cells} cells are no whole number of seeds"
    lists = {"methods": METHODS, "backbones": BACKBONES, "seeds": range(seeds)}
    return [
        f"var_dir={folder}",
        f"study={STUDY}",
        "datasets=[synthetic_mosi]",
        *(f"{key}=[{','.join(map(str, values))}]" for key, values in lists.items()),
        "occlusion.ratios=[0]",
        "report=false",
    ]


def wanted(folder: Path, _: int) -> list[str]:
    """Settings of the export of all that is stored below a folder."""
    files = f"out={folder / 'numbers.csv'}", f"predictions={folder / 'predictions.parquet'}"
    return [f"var_dir={folder}", f"study={STUDY}", *files]


def plan(arguments: Sequence[str]) -> int:
    """List the cells of a study; returns 0."""
    make_plan(load_benchmark(arguments))
    return 0


PLAN = """\
import sys
from harness.config import load_benchmark
from harness.plan import make_plan
make_plan(load_benchmark(sys.argv[1:]))
"""
COMMANDS: Mapping[str, tuple[Callable[[Sequence[str]], int], Sequence[str], Arguments]] = {
    "plan": (plan, ("-c", PLAN), request),
    "resume": (benchmark.main, ("-m", "harness.benchmark"), request),
    "export": (export.main, ("-m", "reports.export"), wanted),
}
"""What each command is: a function, the arguments of Python that call it, and where its own come from."""


def stub(cell: Cell) -> Result:
    """A result of 20 numbers."""
    made = ready_result(Job(cell, "", "cpu"))
    return replace(made, curves={}, environment={"device": "cpu", "torch": "2.13.0"})


def fill(folder: Path, cells: int) -> None:
    """Store a study all of whose cells are done."""
    planned = make_plan(load_benchmark(request(folder, cells))).cells
    tracker = Tracker(sqlite_uri(folder / "mlflow.db"), folder, STUDY)
    store_runs(tracker, ((cell, stub(cell)) for cell in planned), provenance())
    store_claims(sqlite_uri(folder / "ledger.db"), STUDY, planned)


def cost(command: str, folder: Path, cells: int) -> Cost:
    """Of a command in a fresh process, its start included."""
    _, python, arguments = COMMANDS[command]
    return timed([sys.executable, *python, *arguments(folder, cells)])


def warm(command: str) -> Callable[..., dict[str, float]]:
    """For `tests.perf.child`: CPU seconds of a command, called again and again; the first call warms up."""
    run, _, arguments = COMMANDS[command]

    def measure(folder: str, cells: int) -> dict[str, float]:
        with contextlib.redirect_stdout(io.StringIO()):
            started = time.process_time()
            status = run(arguments(Path(folder), cells))
            taken = time.process_time() - started
        assert status == 0, f"{command} of {cells} cells ended with status {status}"
        return {"cpu_s": taken}

    return measure


def growth(command: str, folders: Mapping[int, Path], repeats: int = REPEATS) -> float:
    """The exponent of a command's CPU time between the last two sizes; folders: by size, `FEW` first."""
    *smaller, largest = folders
    with Child("tests.perf.scale:warm", {"command": command}, as_worker=False) as child:
        child.ask(folder=str(folders[FEW]), cells=FEW)
        found = []
        for cells, folder in folders.items():
            times = 1 if cells == largest else repeats
            found.append(min(child.ask(folder=str(folder), cells=cells)["cpu_s"] for _ in range(times)))
    return exponent((smaller[-1], largest), [seconds - found[0] for seconds in found[-2:]])


def measure(planned: Sequence[int] = PLANNED, stored: Sequence[int] = STORED) -> Part:
    """All commands; sizes: multiples of `FEW`, two or more of each, ascending."""
    with tempfile.TemporaryDirectory() as temporary:
        folders = {cells: Path(temporary, str(cells)) for cells in (FEW, *stored)}
        for cells, folder in folders.items():
            fill(folder, cells)
        # Planning reads nothing but the data set.
        plans = dict.fromkeys((FEW, *planned), folders[FEW])
        rows = [*_rows("plan", plans), *_rows("resume", folders), *_rows("export", folders)]
    how = "Commands with the start of their processes, on SQLite; exponents without it, of their CPU time."
    return Part("scale", "What large studies cost", how, tuple(rows))


def _rows(command: str, folders: Mapping[int, Path]) -> Iterator[Row]:
    """Of one command; the largest size has bounds."""
    largest = max(folders)
    for cells, folder in folders.items():
        seconds, mb = cost(command, folder, cells)
        bounds = (BOUND_S, BOUND_MB) if cells == largest else (None, None)
        yield Row(f"{command}, {cells} cells", seconds, "s", bounds[0])
        yield Row(f"{command}, {cells} cells, peak memory", mb, "MB", bounds[1])
    yield Row(f"{command}, exponent", growth(command, folders), "", EXPONENT_BOUND)

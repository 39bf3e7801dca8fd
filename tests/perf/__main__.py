"""``python -m tests.perf``: how fast the benchmark is on this machine, held against its bounds.

Writes ``perf.md``, ``perf.json`` and ``perf.png`` below ``var/perf``. Exit status: 0; 1 where a bound is
broken; 2 the request is wrong.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from backbones import BACKBONES
from harness.config.compose import load_benchmark
from harness.errors import UserError, unknown
from harness.launchers.processes import usable_cores
from harness.plan import make_plan
from methods import METHODS
from tests.perf import against, cells, compare, gpu, growth, hours, methods, reports, scale, steps, trials
from tests.perf.draw import draw
from tests.perf.rows import Part, Row, markdown

Measure = Callable[[str], Iterator[Part]]


def _cells(_: str) -> Iterator[Part]:
    rows = tuple(Row(**row) for row in cells.measure())
    yield Part("cells", "What a cell costs", "Beside its training, with local stores.", rows)


def _steps(data: str) -> Iterator[Part]:
    yield from steps.measure(data, list(BACKBONES), list(METHODS))


def _growth(data: str) -> Iterator[Part]:
    yield growth.measure(data, list(BACKBONES))


def _gpu(_: str) -> Iterator[Part]:
    """The paper's matrix on the GPU that `tests.perf.gpu` measured, where that was done."""
    rows: list[Row] = []
    how = "No GPU was measured yet: `make gpu-check` on a machine that has one."
    if gpu.FILE.exists():
        found = hours.estimated_hours(json.loads(gpu.FILE.read_text(encoding="utf-8")))
        how = " ".join([f"Estimated for {found['gpu']}.", *found["assumptions"]])
        rows = [Row(f"paper profile, workers: {n}", h, "hours") for n, h in found["hours"].items()]
    yield Part("gpu", "The paper's matrix on a GPU", how, tuple(rows))


PARTS: dict[str, Measure] = {
    "reference": lambda data: iter([against.measure(data)]),
    "steps": _steps,
    "methods": lambda _: iter([methods.measure()]),
    "cells": _cells,
    "growth": _growth,
    "trials": lambda _: iter([trials.measure()]),
    "reports": lambda _: iter([reports.measure()]),
    "scale": lambda _: iter([scale.measure()]),
    "gpu": _gpu,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; returns the exit status."""
    options = _parser().parse_args(arguments)
    asked = list(PARTS) if options.only is None else options.only.split(",")
    try:
        for name in asked:
            if name not in PARTS:
                raise unknown("part", name, PARTS)
        parts = list(_measured(options.base, asked, Path(options.var_dir)))
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    write(parts, Path(options.var_dir) / "perf", options.base)
    return 0 if all(row.holds for part in parts for row in part.rows) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.perf", description=__doc__, allow_abbrev=False)
    parser.add_argument("--only", metavar="PART,...", help=f"of: {', '.join(PARTS)} (default: all)")
    parser.add_argument("--base", metavar="REV", help="compare with this revision instead, in turns")
    parser.add_argument("--var-dir", default="var", help="where perf/ is written (default: var)")
    return parser


def _measured(base: str | None, asked: Sequence[str], var_dir: Path) -> Iterator[Part]:
    """The parts, each printed as soon as it is there."""
    data = stored_data(var_dir)
    made = [("compare", lambda data: iter([compare.measure(data, base, list(BACKBONES))]))] if base else None
    for name, measure in made or [(name, PARTS[name]) for name in asked]:
        started = time.perf_counter()
        for part in measure(data):
            print("\n".join(markdown([part])), flush=True)
            yield part
        print(f"{name}: measured in {time.perf_counter() - started:.0f} s", file=sys.stderr)


def stored_data(var_dir: Path) -> str:
    """The folder of the synthetic MOSI of full size, generated on first use."""
    asked = [f"var_dir={var_dir}", "study=perf", "datasets=[synthetic_mosi]", "size=full"]
    plan = make_plan(load_benchmark(asked))
    return str(plan.datasets["synthetic_mosi"].folder.absolute())


def write(parts: Sequence[Part], folder: Path, base: str | None = None) -> None:
    """Write table, JSON and plot; a comparison gets files of its own.

    Parts that were not measured now are kept from the last time, if it was with the same torch and cores.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = "compare" if base else "perf"
    machine = {"torch": torch.__version__, "python": platform.python_version(), "cores": usable_cores()}
    everything = {} if base else kept(folder / f"{name}.json", machine)
    everything |= {part.name: part for part in parts}
    merged = list(everything.values())
    head = [f"# Speed: torch {machine['torch']}, {machine['cores']} cores", ""]
    (folder / f"{name}.md").write_text("\n".join([*head, *markdown(merged)]), encoding="utf-8")
    stored = {"machine": machine, "base": base, "parts": [part.stored() for part in merged]}
    (folder / f"{name}.json").write_text(json.dumps(stored, indent=1), encoding="utf-8")
    draw(merged, folder / f"{name}.png")
    print(f"Written: {folder / name}.md, .json, .png", file=sys.stderr)


def kept(file: Path, machine: Mapping[str, Any]) -> dict[str, Part]:
    """The parts of an earlier report of the same machine, by name; none where there is no such report."""
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        if stored["machine"] != machine:
            return {}
        return {part["name"]: Part.of(part) for part in stored["parts"]}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


if __name__ == "__main__":
    sys.exit(main())

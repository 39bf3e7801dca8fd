"""``python -m tests.perf``: measure the benchmark's speed on this machine, and compare it with bounds.

Writes ``perf.md``, ``perf.json`` and ``perf.png`` below ``var/perf``. Exit status: 0; 1 where a bound is
broken; 2 the request is wrong.
"""

import json
import platform
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from harness.config.compose import load_benchmark
from harness.errors import UserError
from harness.launchers.processes import usable_cores
from harness.plan import make_plan
from tests.perf import cells, gpu, hours, scale, turns
from tests.perf.arguments import Parser, names_of
from tests.perf.bounds import Measurement, Section, draw, markdown


def _gpu(_):
    """Estimate the paper's matrix on the GPU that `tests.perf.gpu` measured, where that was done."""
    if not gpu.FILE.exists():
        how = "No GPU was measured yet: `make gpu-check` on a machine that has one."
        return [Section("gpu", "The paper's matrix on a GPU", how)]
    estimate = hours.estimated_hours(json.loads(gpu.FILE.read_text(encoding="utf-8")))
    how = " ".join([f"Estimated for {estimate['gpu']}.", *estimate["assumptions"]])
    part = Section("gpu", "The paper's matrix on a GPU", how)
    for workers, value in estimate["hours"].items():
        part.add(f"paper profile, workers: {workers}", value, "hours")
    return [part]


# Each takes the folder of the stored dataset and returns sections.
PARTS = {
    "reference": turns.reference,
    "steps": turns.steps,
    "methods": turns.methods,
    "cells": cells.cells,
    "growth": turns.growth,
    "trials": cells.trials,
    "reports": scale.reports,
    "scale": scale.scale,
    "gpu": _gpu,
}


def main(arguments=None):
    parser = Parser("python -m tests.perf", __doc__)
    parser.option("--only", None, f"of: {', '.join(PARTS)}", names_of("part", PARTS))
    parser.add_argument("--base", metavar="REV", help="compare with this revision instead, in turns")
    parser.option("--var-dir", "var", "where perf/ is written", Path)
    options = parser.parse_args(arguments)
    parts = [PARTS[name] for name in options.only or PARTS]
    if options.base:
        parts = [lambda data: turns.compare(data, options.base)]
    sections = []
    try:
        data = stored_data(options.var_dir)
        for measure in parts:
            measured = measure(data)
            print(*markdown(measured), sep="\n", flush=True)
            sections += measured
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    write(sections, options.var_dir / "perf", options.base)
    return 0 if all(row.holds for section in sections for row in section.rows) else 1


def stored_data(var_dir):
    """Return the folder of the synthetic MOSI of full size, generated on first use."""
    request = [f"var_dir={var_dir}", "study=perf", "datasets=[synthetic_mosi]", "size=full"]
    [folder] = make_plan(load_benchmark(request)).folders().values()
    return str(folder.absolute())


def write(sections, folder, base=None):
    """Write table, JSON and plot; a comparison gets files of its own.

    Other sections are kept from the last report, if it had the same torch and cores.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / ("compare.json" if base else "perf.json")
    machine = {"torch": torch.__version__, "python": platform.python_version(), "cores": usable_cores()}
    earlier = [] if base else earlier_sections(file, machine)
    merged = list({section.name: section for section in [*earlier, *sections]}.values())
    head = [f"# Speed: torch {machine['torch']}, {machine['cores']} cores", ""]
    file.with_suffix(".md").write_text("\n".join([*head, *markdown(merged)]), encoding="utf-8")
    stored = {"machine": machine, "base": base, "parts": [asdict(section) for section in merged]}
    file.write_text(json.dumps(stored, indent=1), encoding="utf-8")
    draw(merged, file.with_suffix(".png"))
    print(f"Written: {file.with_suffix('')}.md, .json, .png", file=sys.stderr)


def earlier_sections(file, machine):
    """Return the sections of an earlier report of the same machine; empty without one."""
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        parts = stored["parts"] if stored["machine"] == machine else []
        return [Section(**{**part, "rows": [Measurement(**row) for row in part["rows"]]}) for part in parts]
    except (OSError, ValueError, TypeError, KeyError):
        return []


if __name__ == "__main__":
    sys.exit(main())

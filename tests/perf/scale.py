"""Cost of large studies: planning, resuming, exporting and reporting.

Each is a command in a process of its own, which makes its peak memory its own. The stored studies are made
up (`made_up`), on SQLite. Exponents describe the growth of the CPU time beyond what a few cells take.
"""

import tempfile
from itertools import islice
from pathlib import Path

from backbones import BACKBONES
from harness.config.compose import load_benchmark
from harness.databases import sqlite_uri
from harness.plan import make_plan
from harness.tracking.provenance import provenance
from harness.tracking.tracker import Tracker
from tests.perf.bounds import Section
from tests.perf.child import timed
from tests.perf.made_up import drawn_result, lean_result, store_claims, store_runs
from tests.perf.turns import exponent

FEW = 20
PLANNED, STORED = (10_000, 100_000), (1_000, 10_000)
REPEATS = 3  # of all sizes but the largest; the least counts
SECONDS, MEGABYTES, EXPONENT = 60.0, 1024.0, 1.2
STUDY = "scale"
METHODS = ("none", "mixup", "powmix", "ms_mix")

PAPER = ["profile=paper", "datasets=[synthetic_mosi,synthetic_mosei,synthetic_sims]", "size=quick"]
RUNS, REPORT_MB = 5000, 2048.0
REPORT_S = {"first": 60.0, "again": 10.0}

PLAN = """\
import sys
from harness.config.compose import load_benchmark
from harness.plan import make_plan
make_plan(load_benchmark(sys.argv[1:]))
"""


def request(folder, cells):
    """Return settings of the benchmark that ask for so many cells, a multiple of `FEW`, below a folder."""
    seeds, rest = divmod(cells, FEW)
    assert not rest, f"{cells} cells are no whole number of seeds"
    lists = {"methods": METHODS, "backbones": list(BACKBONES)[: FEW // len(METHODS)], "seeds": range(seeds)}
    names = [f"{key}=[{','.join(map(str, values))}]" for key, values in lists.items()]
    more = ["datasets=[synthetic_mosi]", "occlusion.ratios=[0]", "report=false"]
    return [f"var_dir={folder}", f"study={STUDY}", *names, *more]


def export_request(folder):
    files = f"out={folder / 'numbers.csv'}", f"predictions={folder / 'predictions.parquet'}"
    return [f"var_dir={folder}", f"study={STUDY}", *files]


def fill(folder, cells):
    """Store a study all of whose cells are done."""
    planned = make_plan(load_benchmark(request(folder, cells))).cells
    tracker = Tracker(sqlite_uri(folder / "mlflow.db"), folder, STUDY)
    store_runs(tracker, ((cell, lean_result(cell)) for cell in planned), **provenance())
    store_claims(sqlite_uri(folder / "ledger.db"), STUDY, planned)


def scale(_=None, planned=PLANNED, stored=STORED):
    """Measure all commands; sizes: multiples of `FEW`, two or more of each, ascending."""
    how = "Commands with the start of their processes, on SQLite; exponents without it, of their CPU time."
    part = Section("scale", "What large studies cost", how)
    with tempfile.TemporaryDirectory() as temporary:
        folders = {cells: Path(temporary, str(cells)) for cells in (FEW, *stored)}
        for cells, folder in folders.items():
            fill(folder, cells)
        # Planning reads nothing but the data set.
        plans = {cells: ["-c", PLAN, *request(folders[FEW], cells)] for cells in (FEW, *planned)}
        resumes = {n: ["-m", "harness.benchmark", *request(folder, n)] for n, folder in folders.items()}
        exports = {n: ["-m", "reports.export", *export_request(folder)] for n, folder in folders.items()}
        for name, commands in (("plan", plans), ("resume", resumes), ("export", exports)):
            _add_costs(part, name, commands)
    return [part]


def _add_costs(part, name, commands):
    """Measure a command, given by numbers of cells; the largest has bounds."""
    *_, smaller, largest = commands
    cpu_s = {}
    for cells, arguments in commands.items():
        last = cells == largest
        costs = [timed(*arguments) for _ in range(1 if last else REPEATS)]
        cpu_s[cells] = min(cost["cpu_s"] for cost in costs)
        seconds, peak_mb = min(cost["s"] for cost in costs), max(cost["mb"] for cost in costs)
        part.add(f"{name}, {cells} cells", seconds, "s", SECONDS if last else None)
        part.add(f"{name}, {cells} cells, peak memory", peak_mb, "MB", MEGABYTES if last else None)
    beyond = [cpu_s[cells] - cpu_s[FEW] for cells in (smaller, largest)]
    part.add(f"{name}, exponent", exponent((smaller, largest), beyond), "", EXPONENT)


def paper_cells(folder, count):
    """Plan cells of the paper's matrix on synthetic data, with as many seeds as it takes."""
    settings = [f"var_dir={folder}", *PAPER]
    one_seed = len(make_plan(load_benchmark([*settings, "seeds=[0]"])).cells)
    seeds = ",".join(map(str, range(-(-count // one_seed))))
    cells = make_plan(load_benchmark([*settings, f"seeds=[{seeds}]"])).cells
    return islice(sorted(cells, key=lambda cell: cell.seed), count)


def fill_paper(tracker, count):
    """Store ``count`` runs of the paper's matrix."""
    cells = paper_cells(tracker.var_dir, count)
    store_runs(tracker, ((cell, drawn_result(cell)) for cell in cells))


def reports(_=None, count=RUNS):
    """Measure the first report of a study of ``count`` runs, and one more with nothing new."""
    how = f"The report of a study of {count} runs, with the start of its process."
    part = Section("reports", "What a report costs", how)
    with tempfile.TemporaryDirectory() as folder:
        fill_paper(Tracker(sqlite_uri(Path(folder) / "mlflow.db"), Path(folder), STUDY), count)
        for name, seconds in REPORT_S.items():
            cost = timed("-m", "reports.build", f"var_dir={folder}", f"study={STUDY}")
            part.add(f"report, {name}", cost["s"], "s", seconds)
            part.add(f"report, {name}, peak memory", cost["mb"], "MB", REPORT_MB)
    return [part]

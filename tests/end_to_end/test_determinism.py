"""The same study gives the same bytes: in another process, from other workers, asked for in another order.

How values agree within one process and with two drivers is tested beside each of these.
"""

import os
import subprocess
import sys

import pytest

from backbones import BACKBONES
from reports import export
from tests.support.drivers.driving import comparable_bytes, run
from tests.support.paths import ROOT

# Both commands in one process, as the second's imports would cost as much as all of its work.
PROGRAM = """
import sys
from harness import benchmark
from reports import export
var, *given = sys.argv[1:]
status = benchmark.main([f"var_dir={var}", "study=s", "report=false", *given])
files = [f"out={var}/numbers.csv", f"predictions={var}/clips.parquet"]
sys.exit(status or export.main([f"var_dir={var}", "study=s", *files]))
"""
MATRIX = [
    *("profile=quick", "datasets=[synthetic_mosi]", "dataset.synthetic_mosi.clips=60", "seeds=[1111,1112]"),
    *("methods=[none,ms_mix]", "train.max_epochs=1", "occlusion.ratios=[0,0.5]"),
]
SHUFFLED = ["seeds=[1112,1111]", "methods=[ms_mix,none]", "occlusion.ratios=[0.5,0]"]
RUNS = {
    "inline": ["launcher=inline"],
    "processes": ["launcher=processes", "jobs=2"],
    "shuffled": ["launcher=inline", *SHUFFLED, f"backbones=[{','.join(sorted(BACKBONES, reverse=True))}]"],
}


@pytest.mark.slow
def test_a_study_gives_the_same_bytes_whatever_runs_it_in_whatever_order(tmp_path, new_var):
    found = {}
    for number, (name, given) in enumerate(RUNS.items()):
        var = new_var(tmp_path / name)
        command = [sys.executable, "-c", PROGRAM, str(var), *MATRIX, *given]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": str(number)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        found[name] = comparable_bytes(var / "numbers.csv"), (var / "clips.parquet").read_bytes()
    cells = {line.rpartition(b",")[2] for line in found["inline"][0].splitlines()[1:]}
    assert len(cells) == 2 * 2 * len(BACKBONES)
    assert found["processes"] == found["inline"]
    assert found["shuffled"] == found["inline"]


def test_the_order_of_the_request_changes_no_byte_of_an_export(tmp_path, new_var):
    found = []
    small = ["backbones=[tfn,lmf]", "methods=[none,mixup]", "train.max_epochs=1"]
    for name, more in (("asked", []), ("shuffled", ["backbones=[lmf,tfn]", *SHUFFLED[:1]])):
        var = new_var(tmp_path / name)
        # In two parts, so that what is last in the export was trained first.
        for part in (["methods=[mixup]"], ["methods=[mixup,none]"]) if more else ([],):
            assert run(var, *small, *more, *part) == 0
        files = [var / "numbers.csv", var / "clips.parquet"]
        assert export.main([f"var_dir={var}", "study=s", f"out={files[0]}", f"predictions={files[1]}"]) == 0
        found.append((comparable_bytes(files[0]), files[1].read_bytes()))
    assert found[0] == found[1]

"""The commands of the page on clusters that need no server."""

import re
import shlex

from harness.benchmark import main as benchmark
from harness.collect import main as collect
from tests.harness.shards.test_part import array
from tests.support.drivers.driving import MATRIX, assert_each_cell_once
from tests.support.paths import ROOT

COMMANDS = {"harness.benchmark": benchmark, "harness.collect": collect}


def commands():
    text = (ROOT / "harness" / "launchers" / "README.md").read_text()
    blocks = re.findall(
        r"<!-- run by tests/harness/shards/test_readme.py -->\n```sh\n(.*?)```", text, re.DOTALL
    )
    lines = "".join(blocks).splitlines()
    [options] = [line for line in lines if line.startswith("#SBATCH")]
    return options, [shlex.split(line)[2:] for line in lines if not line.startswith("#")]


def test_an_array_of_shards_is_collected(var_dir, finished_study, monkeypatch):
    options, [shard, *later] = commands()
    tasks = int(re.search(r"--array=1-(\d+)", options)[1])
    given = [f"var_dir={var_dir}", "study=s"]

    def run(module, *arguments):
        kept = [text for text in arguments if text.startswith(("shard=", "jobs="))]
        matrix = [*MATRIX, "launcher=inline"] if module == "harness.benchmark" else []
        assert COMMANDS[module]([*kept, *given, *matrix]) == 0

    for task in range(1, tasks + 1):
        for name, value in array(task, last=tasks).items():
            monkeypatch.setenv(name, value)
        run(*shard)
    for command in later:
        run(*command)
    assert_each_cell_once(var_dir, finished_study)


def test_the_profiles_of_the_page_are_accepted(capsys):
    _, lines = commands()
    for module, *arguments in lines:
        assert COMMANDS[module]([*arguments, "help=me"]) == 2
        assert "Unknown setting 'help'" in capsys.readouterr().err

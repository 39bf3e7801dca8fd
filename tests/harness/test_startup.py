"""How commands start and end: what help and a mistake cost in imports, and the last words."""

import contextlib
import gc
import json
import os
import subprocess
import sys
import textwrap

import pytest

from harness.cli import importing
from tests.perf.cells import COMMANDS

HEAVY = ("torch", "mlflow", "optuna", "pandas", "matplotlib", "scipy", "sklearn", "pyarrow", "sqlalchemy")
# Runs a command as `python -m` does, and says last which modules it took.
PROGRAM = """
import json, runpy, sys
import harness.cli

command, *sys.argv[1:] = sys.argv[1:]
harness.cli.end = sys.exit
status = None
try:
    runpy.run_module(command, run_name="__main__", alter_sys=True)
except SystemExit as end:
    status = end.code
print(json.dumps([status, sorted(sys.modules)]))
"""


def python(code, *arguments, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "timeout": 120} | options
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code), *arguments], **options)


@pytest.mark.parametrize(
    ("command", "arguments", "sentence"),
    [
        *((command, ["--help"], "usage: python -m") for command in COMMANDS),
        *((command, ["backbnes=[tfn]"], "backbnes") for command in COMMANDS),
        ("harness.benchmark", ["train.max_epoch=1"], "Did you mean 'train.max_epochs'?"),
        ("harness.benchmark", ["method.mixup.alpha=1", "launcher.nam=x"], "Did you mean 'launcher.name'?"),
        ("harness.benchmark", ["seeds"], "give settings as KEY=VALUE"),
        ("harness.benchmark", ["profile=quik"], "Did you mean 'quick'?"),
        ("sweeps.run", ["parm=delta"], "Did you mean 'param'?"),
        ("reports.build", [], "The study is missing; give study=NAME."),
        ("reports.export", ["study=s"], "Nothing to export"),
    ],
)
def test_help_and_a_wrong_key_import_nothing_heavy(command, arguments, sentence):
    done = python(PROGRAM, command, *arguments)
    assert done.returncode == 0, done.stderr
    *printed, last = done.stdout.splitlines()
    status, modules = json.loads(last)
    asks = arguments == ["--help"]
    assert status == (0 if asks else 2)
    assert sentence in ("\n".join(printed) if asks else done.stderr)
    assert not set(HEAVY) & set(modules)


def test_no_garbage_is_collected_while_modules_are_imported():
    assert gc.isenabled()
    with contextlib.suppress(ImportError), importing():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled(), "after an error, too"
    gc.disable()
    try:
        with importing():
            pass
        assert not gc.isenabled(), "as it was"
    finally:
        gc.enable()


def test_the_end_calls_exit_handlers_and_writes_what_was_said():
    done = python(
        """
        import atexit, sys
        from harness.cli import leave
        atexit.register(lambda: print("handler"))
        print("said"), print("wrong", file=sys.stderr)
        leave(3)
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "said\nhandler\n", "wrong\n")


def test_the_end_keeps_its_status_where_nobody_listens():
    reading, writing = os.pipe()
    os.close(reading)
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    code = "from harness.cli import leave; print('said'); leave(1)"
    done = python(code, env=buffered, stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")

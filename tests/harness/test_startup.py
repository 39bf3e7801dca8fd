"""How commands start and end: what help and a mistake cost in imports, and the last words."""

import contextlib
import gc
import json
import os
import subprocess
import sys

import pytest

from harness.cli import importing
from tests.perf.cells import COMMANDS, QUESTIONS

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


def python(code, *arguments, **kwargs):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, **kwargs
    )


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("question", "expected"), QUESTIONS.items())
def test_help_and_a_wrong_key_import_nothing_heavy(command, question, expected):
    done = python(PROGRAM, command, question)
    assert done.returncode == 0, done.stderr
    *said, last = done.stdout.splitlines()
    status, modules = json.loads(last)
    assert status == expected
    assert not set(HEAVY) & set(modules)
    shown = "\n".join(said) if question == "--help" else done.stderr
    assert ("usage: python -m" if question == "--help" else "backbnes") in shown


@pytest.mark.parametrize(
    ("command", "arguments", "sentence"),
    [
        ("harness.benchmark", ["train.max_epoch=1"], "Did you mean 'train.max_epochs'?"),
        ("harness.benchmark", ["method.mixup.alpha=1", "launcher.nam=x"], "Did you mean 'launcher.name'?"),
        ("harness.benchmark", ["seeds"], "settings are given as KEY=VALUE"),
        ("harness.benchmark", ["profile=quik"], "Did you mean 'quick'?"),
        ("sweeps.run", ["parm=delta"], "Did you mean 'param'?"),
        ("reports.build", [], "Which study? Give study=NAME."),
        ("reports.export", ["study=s"], "Nothing to export"),
    ],
)
def test_other_mistakes_in_keys_need_nothing_heavy_either(command, arguments, sentence):
    done = python(PROGRAM, command, *arguments)
    status, modules = json.loads(done.stdout.splitlines()[-1])
    assert status == 2
    assert sentence in done.stderr
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
    code = """
        import atexit, sys
        from harness.cli import leave
        atexit.register(lambda: print("handler"))
        print("said"), print("wrong", file=sys.stderr)
        leave(3)
    """
    done = python("\n".join(line.strip() for line in code.splitlines()))
    assert (done.returncode, done.stdout, done.stderr) == (3, "said\nhandler\n", "wrong\n")


def test_the_end_keeps_its_status_where_nobody_listens():
    reading, writing = os.pipe()
    os.close(reading)
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, "-c", "from harness.cli import leave; print('said'); leave(1)"],
        env=buffered,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")

"""Start and end of commands: imports for help and for invalid requests, and closing messages."""

import contextlib
import gc
import json
import os
import subprocess
import sys
import textwrap

from harness.cli import importing, unused_address
from tests.perf.cells import COMMANDS

HEAVY = ("torch", "mlflow", "optuna", "pandas", "matplotlib", "scipy", "sklearn", "pyarrow", "sqlalchemy")
# Runs commands as `python -m` does, and reports the exit status, output and imported modules of each.
PROGRAM = """
import contextlib, io, json, runpy, sys
import harness.cli

harness.cli.end = sys.exit
for command, *arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    out, error, status = io.StringIO(), io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            runpy.run_module(command, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            status = end.code
    print(json.dumps([status, out.getvalue(), error.getvalue(), sorted(sys.modules)]))
"""
MISTAKES = {
    "harness.benchmark train.max_epoch=1": "Did you mean 'train.max_epochs'?",
    "harness.benchmark method.mixup.alpha=1 launcher.nam=x": "Did you mean 'launcher.name'?",
    "harness.benchmark seeds": "give settings as KEY=VALUE",
    "harness.benchmark profile=quik": "Did you mean 'quick'?",
    "sweeps.run parm=delta": "Did you mean 'param'?",
    "reports.build": "The study is missing; give study=NAME.",
    "reports.export study=s": "Nothing to export",
}
MISTAKES |= {f"{command} backbnes=[tfn]": "backbnes" for command in COMMANDS}


def python(code, *arguments, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "timeout": 120} | options
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code), *arguments], **options)


def test_help_and_a_mistake_import_nothing_heavy():
    runs = [*(f"{command} --help" for command in COMMANDS), *MISTAKES]
    done = python(PROGRAM, json.dumps([run.split() for run in runs]))
    assert done.returncode == 0, done.stderr
    for run, line in zip(runs, done.stdout.splitlines(), strict=True):
        status, out, error, modules = json.loads(line)
        if run in MISTAKES:
            assert (status, out) == (2, ""), run
            assert MISTAKES[run] in error
        else:
            assert status == 0
            assert "usage: python -m" in out
        assert not set(HEAVY) & set(modules), run


def test_a_system_without_file_locks_is_named():
    done = python(
        "import sys; sys.modules['fcntl'] = None; from harness.benchmark import main; main(['seeds=[1]'])"
    )
    assert done.returncode == 2
    assert done.stderr == "Error: this program needs Linux or macOS; on Windows, run it in WSL.\n"


def test_mlflows_variable_that_is_not_used_is_named(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert not unused_address(None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert not unused_address("http://127.0.0.1:1")
    assert "is set but not used" in unused_address(None)


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

"""Shared fixtures, and the rule that a skip must be on the short written list when CI runs."""

import gc
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path

import hypothesis
import pytest

from tests.support.browser import NO_BROWSER, browser_programs

ALLOWED_SKIPS = Path(__file__).with_name("allowed_skips.txt")

# Environment variables that change the programs' behaviour; a home folder also holds such settings.
OWN_SETTINGS = ("FORCE_COLOR", "NO_COLOR", "LANGUAGE", "PYTHONWARNINGS", "MLFLOW_TRACKING_", "RAY_AUTH_")
OWN_SETTINGS += ("PYTHONDONTWRITEBYTECODE", "RAY_ADDRESS", "HF_", "SLURM_", "XDG_")

# Every run draws the same examples, whatever the machine; `make soak` asks for the profile "random".
hypothesis.settings.register_profile("random", deadline=None, print_blob=True, max_examples=100)
hypothesis.settings.register_profile("fixed", deadline=None, derandomize=True, database=None, max_examples=30)
hypothesis.settings.load_profile("fixed")


def pytest_addoption(parser):
    """--update."""
    parser.addoption("--update", action="store_true", help="write what is generated and committed anew")


@pytest.fixture
def update(request):
    """Whether a test writes its golden file or README table anew before it compares."""
    return request.config.getoption("update")


def pytest_configure(config):
    """Make the tests and the processes that they start independent of the shell they run in."""
    # A shell starts background jobs with SIGINT ignored, and every process they start inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    home = tempfile.TemporaryDirectory(prefix="home-", ignore_cleanup_errors=True)
    config.add_cleanup(home.cleanup)
    os.environ.update(LC_ALL="C.UTF-8", TZ="UTC", COLUMNS="80", LINES="24", HOME=home.name)
    # Cached bytecode saves each process of a test a second.
    sys.dont_write_bytecode = False
    for name in list(os.environ):
        if name.startswith(OWN_SETTINGS):
            del os.environ[name]


def pytest_sessionstart(session):
    """Give each test process one thread, because there are as many processes as cores."""
    import torch

    torch.set_num_threads(1)


def pytest_collection_modifyitems(config, items):
    """Without Chromium one of the tests that need it is skipped and the others are deselected."""
    tests = [item for item in items if "browser" in item.fixturenames]
    if tests and not browser_programs():
        tests[0].add_marker(pytest.mark.skip(reason=NO_BROWSER))
        config.hook.pytest_deselected(items=tests[1:])
        items[:] = [item for item in items if item not in set(tests[1:])]


def pytest_collection_finish(session):
    """Exclude the objects of tests and libraries from garbage collection, which would scan them often."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter, exitstatus, config):
    """Name each reason for a skip; in CI, those that are not on the list."""
    for reason, count in sorted(_skips(terminalreporter).items()):
        terminalreporter.write_line(f"{count} skipped: {reason}")
    for reason in _unlisted(terminalreporter) if os.environ.get("CI") else ():
        terminalreporter.write_line(f"SKIP NOT ON THE LIST ({ALLOWED_SKIPS.name}): {reason}", red=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    """Fail the session in CI for a skip that is not on the list."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter and not exitstatus and _unlisted(reporter):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _skips(reporter):
    return Counter(
        report.longrepr[2].removeprefix("Skipped: ") for report in reporter.stats.get("skipped", [])
    )


def _unlisted(reporter):
    lines = ALLOWED_SKIPS.read_text().splitlines()
    allowed = {line.strip() for line in lines if line.strip() and not line.startswith("#")}
    return sorted(_skips(reporter).keys() - allowed)


@pytest.fixture(autouse=True)
def own_signals():
    """Restore signal handlers that commands and workers change in a test."""
    hook, before = sys.unraisablehook, {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    yield
    sys.unraisablehook = hook
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(params=["packed", "padded"])
def layout(request, monkeypatch):
    """Test both layouts of sequences: of large and of small batches (`backbones.cpu.attention`)."""
    from backbones.cpu import attention

    monkeypatch.setattr(attention, "SMALL", 0 if request.param == "packed" else 10**9)
    return request.param


@pytest.fixture(scope="session")
def store_template(tmp_path_factory):
    """An MLflow database with its tables: creating one takes seconds, copying it does not."""
    import mlflow.store.db.utils as mlflow_databases

    from harness.databases import create_sqlite
    from harness.tracking.store import create_tables

    # For each file that it opens MLflow reads its 67 migrations anew.
    mlflow_databases._get_latest_schema_revision = cache(mlflow_databases._get_latest_schema_revision)
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    create_sqlite(path, create_tables)
    return path


@pytest.fixture(scope="session")
def new_var(tmp_path_factory, store_template):
    """A function that makes a fresh var_dir with an empty store, at a path if one is given."""

    def make(path=None):
        folder = path or tmp_path_factory.mktemp("new") / "var"
        folder.mkdir()
        shutil.copy(store_template, folder / "mlflow.db")
        return folder

    return make


@pytest.fixture
def var_dir(tmp_path, new_var):
    """A fresh var_dir with an empty store."""
    return new_var(tmp_path / "var")


@pytest.fixture(scope="session")
def train_study(new_var):
    """A function that trains the matrix of `driving`, with these settings, inline; returns its var_dir."""
    from tests.support.drivers.driving import run

    def train(*settings):
        var = new_var()
        assert run(var, *settings) == 0
        return var

    return train


@pytest.fixture(scope="session")
def finished_study(train_study):
    """The matrix as it ends when nothing disturbs it; do not train into it."""
    return train_study()


@pytest.fixture(scope="session")
def postgres_server():
    """A PostgreSQL server of this session; where it cannot run, the tests that need it fail."""
    from tests.support.drivers.postgres import Server

    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="session")
def postgres(postgres_server):
    """A function that creates an empty database and returns its address."""
    return postgres_server.create

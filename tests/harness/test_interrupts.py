"""An interrupt that Python drops prints a sentence; other dropped exceptions are reported as usual."""

import subprocess
import sys

import pytest

from tests.support.paths import ROOT

PROGRAM = """
import weakref
from harness.interrupts import raise_interrupts

class Thing:
    pass

def strike(_):
    raise {error}("here")

raise_interrupts()
raise_interrupts()
thing = Thing()
watch = weakref.ref(thing, strike)
del thing
print("went on")
"""


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "ValueError"])
def test_what_python_drops_in_a_callback(error):
    command = [sys.executable, "-c", PROGRAM.format(error=error)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "went on\n"
    if error == "KeyboardInterrupt":
        assert done.stderr == "Python could not handle the interrupt at this point; press Ctrl-C again.\n"
    else:
        assert "ValueError: here" in done.stderr

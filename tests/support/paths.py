"""Where the project, its golden files and the material for further tests lie."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
GOLDEN = TESTS / "golden"
SHARED = ROOT.parent / "shared"
"""Real clips and published values; not part of the project, and tests that need them skip without."""

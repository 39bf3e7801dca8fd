"""The README's pictures, from a report: ``python -m tests.support.pictures FOLDER``.

Chromium shows the report's first screen; Figure 8 is copied from the report. Both are made small.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from tests.support.browser import FLAGS, NO_BROWSER, browser_programs
from tests.support.paths import ROOT

FOLDER = ROOT / "reports" / "page" / "pictures"
SCREEN = 1400, 900
WIDTH = 1000


def first_screen(page, file):
    """Take a picture of what a window shows of a page."""
    if not browser_programs():
        sys.exit(NO_BROWSER)
    with tempfile.TemporaryDirectory() as profile:
        size = f"--window-size={SCREEN[0]},{SCREEN[1]}"
        command = ["chromium", *FLAGS, f"--user-data-dir={profile}", size, "--hide-scrollbars"]
        command += [f"--screenshot={file}", page.resolve().as_uri()]
        subprocess.run(command, check=True, capture_output=True)


def shrink(source, target):
    """Write a picture anew, at most `WIDTH` wide and with few colours."""
    with Image.open(source) as picture:
        height = round(picture.height * WIDTH / picture.width)
        small = picture.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS)
        small.quantize(128).save(target, optimize=True)


def main(report):
    if not (report / "index.html").exists():
        sys.exit(f"There is no report in {report}; run make benchmark first.")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        screen = Path(folder) / "screen.png"
        first_screen(report / "index.html", screen)
        shrink(screen, FOLDER / "report.png")
    (figure,) = (report / "figures").glob("figure8*.png")
    shrink(figure, FOLDER / "figure8.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

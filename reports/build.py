"""``python -m reports.build study=NAME``: figures, tables and a page of a study from MLflow; trains nothing.

The folder then holds ``index.html``, ``tables/`` (CSV, Markdown, LaTeX), ``figures/`` (PDF, SVG, PNG) and
``data/`` (the CSV behind each figure). The same runs give the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli import asks_for_help, importing, leave

if TYPE_CHECKING:
    from harness.tracking.tracker import Tracker
    from reports.stored_runs import StudyRuns

HELP = """\
usage: python -m reports.build study=NAME [KEY=VALUE ...]

Writes figures, tables and the page of a study below var/reports, from what MLflow holds; trains nothing.

  study=NAME                        the study, as it was given to the benchmark
  var_dir=DIR tracking.uri=URI      where its results are (default: var)"""
PACKAGES = ("reports", "harness", "methods", "backbones")
CODE = (".py", ".csv", ".css", ".js", ".html")
LIBRARIES = ("matplotlib", "numpy", "pandas", "scikit-learn", "scipy")


def write_report(tracker: Tracker) -> list[Path]:
    """Write the report, unless it is there and up to date, and store it with the study's run.

    Returns its files.
    """
    from harness.files import locked
    from harness.study.session import lock_of
    from reports.stored_runs import StudyRuns

    folder = tracker.folder("reports")
    # Of drivers that end together, the one that waited finds it done.
    with locked(lock_of(tracker)):
        runs = StudyRuns(tracker, tracker.var_dir / "cache")
        files = kept(runs, folder)
        if files is None:
            of = made_of(runs)
            files = build(runs, folder)
            tracker.attach(folder)
            keep(runs, folder, files, of)
        return files


def build(runs: StudyRuns, folder: Path) -> list[Path]:
    """Write a study's report into a folder, made if need be; returns the files."""
    from reports.loading import load_study
    from reports.page.report import write

    return write(load_study(runs), folder)


def kept(runs: StudyRuns, folder: Path) -> list[Path] | None:
    """The files of the report in a folder; None unless it is as `keep` saw it, of the same runs and code."""
    try:
        known = json.loads(_memory(runs).read_text(encoding="utf-8"))
        same = known == {
            "made_of": made_of(runs),
            "files": {name: _hash(folder / name) for name in known["files"]},
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return [folder / name for name in known["files"]] if same else None


def keep(runs: StudyRuns, folder: Path, files: Sequence[Path], of: str) -> None:
    """Remember that a report was written; of: what `made_of` said before it was."""
    hashes = {path.relative_to(folder).as_posix(): _hash(path) for path in files}
    path = _memory(runs)
    # Without the right or the room to write, the next call builds it again.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"made_of": of, "files": hashes}), encoding="utf-8")


def _memory(runs: StudyRuns) -> Path:
    from harness.files import safe_name

    return runs.tracker.var_dir / "cache" / "reports" / f"{safe_name(runs.study)}.json"


def made_of(runs: StudyRuns) -> str:
    """A hash of all that a report depends on: runs and their tags, the announcement, code, packages."""
    found = [*runs.complete().values(), *runs.trials(), *runs.failures()]
    root = Path(__file__).parent.parent
    sources = sorted(
        path for package in PACKAGES for path in (root / package).rglob("*") if path.suffix in CODE
    )
    parts = [
        runs.tracker.uri,
        runs.tracker.announced(),
        sorted((run.run_id, sorted(run.tags.items())) for run in found),
        [(path.relative_to(root).as_posix(), _hash(path)) for path in sources],
        [metadata.version(name) for name in LIBRARIES],
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status (2: the request is wrong)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if asks_for_help(arguments):
        print(HELP)
        return 0
    from harness.config.compose import load_report, path_of
    from harness.errors import StoreError, UserError

    try:
        config = load_report(arguments)
        with importing():
            from harness.tracking.tracker import Tracker

        tracker = Tracker(config.tracking.uri, path_of(config.var_dir), str(config.study), create=False)
        for path in write_report(tracker):
            print(path)
    except (UserError, StoreError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    leave(main())


if __name__ == "__main__":
    leave(main())

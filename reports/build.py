"""``python -m reports.build study=NAME``: write a study's report from its runs in MLflow, without training.

The report's folder holds ``index.html``, ``tables/`` (CSV, Markdown, LaTeX), ``figures/`` (PDF, SVG, PNG),
``data/`` (a CSV per figure) and ``paper/`` (all for a paper in LaTeX). The same runs give the same bytes.
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
    import pandas as pd

    from harness.config.schema import ReportSettings
    from harness.tracking.tracker import Tracker
    from reports.runs.study_runs import StudyRuns

HELP = """\
usage: python -m reports.build study=NAME [KEY=VALUE ...]

Writes figures, tables and the page of a study below var/reports, from its runs in MLflow. Trains nothing.

  study=NAME                        name of the study, as passed to the benchmark
  var_dir=DIR tracking.uri=URI      location of its results (default: var)
  plugins=[my_mix.py]               needed only for claims about a method of a plugin
  report.baseline=mixup             compare with this method, too
  report.equal_within.mae=0.02      gains that count as equal
  report.claims=FILE                claims of your own, see reports/claims/reader.py

Without report.KEY=VALUE, these settings are those of the last request."""
PACKAGES = ("reports", "harness", "methods", "backbones")
CODE = (".py", ".csv", ".css", ".js", ".html", ".yaml")
LIBRARIES = ("matplotlib", "numpy", "pandas", "scikit-learn", "scipy")


def write_report(tracker: Tracker, settings: ReportSettings | None = None) -> list[Path]:
    """Write the report unless it is up to date, attach it to the study's run, and return its files.

    settings: None: those of the last request.
    """
    from harness.files import locked
    from harness.study.session import lock_of
    from reports.runs.study_runs import StudyRuns

    check_claims(settings)
    folder = tracker.folder("reports")
    # If several drivers end together, one writes the report while the others wait for the lock.
    with locked(lock_of(tracker)):
        runs = StudyRuns(tracker, tracker.var_dir / "cache")
        state = state_hash(runs, settings)
        files = current_files(runs, folder, state)
        if files is None:
            files = build(runs, folder, settings)
            tracker.attach(folder)
            remember(runs, folder, files, state)
        return files


def tidy_frame(tracker: Tracker) -> pd.DataFrame:
    """Return the numbers of a study's matrix, with the columns of the export."""
    from reports.runs.numbers import export_frame
    from reports.runs.study_runs import StudyRuns

    return export_frame(StudyRuns(tracker)).reset_index(drop=True)


def check_claims(settings: ReportSettings | None) -> None:
    """Read the user's claims, so that an invalid file is refused before anything else; raises UserError."""
    if settings is not None and settings.claims is not None:
        from reports.claims.reader import read_claims

        read_claims(settings.claims)


def build(runs: StudyRuns, folder: Path, settings: ReportSettings | None = None) -> list[Path]:
    """Write a study's report into a folder, created if missing, and return its files."""
    from reports.page.report import write
    from reports.runs.study import load_study

    return write(load_study(runs, settings), folder)


def current_files(runs: StudyRuns, folder: Path, state: str) -> list[Path] | None:
    """Return the report's files, or None if files, runs or code differ from what `remember` stored."""
    try:
        known = json.loads(_memory(runs).read_text(encoding="utf-8"))
        hashes = {name: _hash(folder / name) for name in known["files"]}
        same = known == {"made_of": state, "files": hashes}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return [folder / name for name in known["files"]] if same else None


def remember(runs: StudyRuns, folder: Path, files: Sequence[Path], state: str) -> None:
    """Store the hashes of a report's files. state: the `state_hash` before the report was written."""
    hashes = {path.relative_to(folder).as_posix(): _hash(path) for path in files}
    path = _memory(runs)
    # If the file cannot be written, the next call builds the report again.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"made_of": state, "files": hashes}), encoding="utf-8")


def _memory(runs: StudyRuns) -> Path:
    from harness.files import safe_name

    return runs.tracker.var_dir / "cache" / "reports" / f"{safe_name(runs.study)}.json"


def state_hash(runs: StudyRuns, settings: ReportSettings | None = None) -> str:
    """Hash all that a report depends on: runs, tags, description, settings, code, package versions."""
    every = [*runs.complete().values(), *runs.trials(), *runs.failures()]
    root = Path(__file__).parent.parent
    sources = sorted(
        path for package in PACKAGES for path in (root / package).rglob("*") if path.suffix in CODE
    )
    parts = [
        runs.tracker.uri,
        runs.tracker.announced(),
        sorted((run.run_id, sorted(run.tags.items())) for run in every),
        [(path.relative_to(root).as_posix(), _hash(path)) for path in sources],
        [metadata.version(name) for name in LIBRARIES],
        None if settings is None else [settings.baseline, sorted(settings.equal_within.items())],
        _claims_text(runs, settings),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _claims_text(runs: StudyRuns, settings: ReportSettings | None) -> str:
    """Return the user's claims; empty without a file, or if it cannot be read."""
    from harness.config.compose import path_of
    from reports.runs.study import settings_of

    claims = settings_of(runs, settings).claims
    try:
        return "" if claims is None else path_of(claims).read_bytes().hex()
    except OSError:
        return ""


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status (2: invalid request)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if asks_for_help(arguments):
        print(HELP)
        return 0
    from harness.config.compose import given_keys, load_report, path_of
    from harness.errors import StoreError, UserError

    try:
        config = load_report(arguments)
        chosen = any(key.startswith("report.") for key in given_keys(arguments))
        with importing():
            from harness.tracking.tracker import Tracker

        tracker = Tracker(config.tracking.uri, path_of(config.var_dir), str(config.study), create=False)
        for path in write_report(tracker, config.report if chosen else None):
            print(path)
    except (UserError, StoreError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    leave(main())

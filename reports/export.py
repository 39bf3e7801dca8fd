"""``python -m reports.export study=NAME out=FILE.csv predictions=FILE.parquet``: all numbers, unrounded.

With sweep=NAME those of all cells of this sweep's trials; ``settings`` then holds the sweep's parameters.
Otherwise the cells that were trained for sweeps alone are left out. All are of one results version; how many
of another are left out, or that all are of another than this program's, is printed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from harness.cli import asks_for_help, importing, leave

T = TypeVar("T")

HELP = """\
usage: python -m reports.export study=NAME out=FILE.csv predictions=FILE.parquet

Writes all numbers of a study, unrounded, and the predictions of all its cells; one of the two will do.

  study=NAME                        the study, as it was given to the benchmark
  sweep=NAME                        the cells of this sweep's trials, instead of those of the matrix
  var_dir=DIR tracking.uri=URI      where its results are (default: var)"""
EXPORTED = ("valid", "test", "cell")


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
        if config.out is None and config.predictions is None:
            raise UserError("Nothing to export; give out=FILE.csv, predictions=FILE.parquet or both.")
        with importing():
            from harness.tracking.tracker import Tracker
            from reports.frame import COLUMNS, load_frame, version_notes
            from reports.predictions import prediction_tables, write_predictions
            from reports.study_runs import StudyRuns

        tracker = Tracker(config.tracking.uri, path_of(config.var_dir), str(config.study), create=False)
        runs, sweep = StudyRuns(tracker), config.sweep or None
        for sentence in version_notes(runs, sweep):
            print(sentence)
        if config.out is not None:
            frame = load_frame(runs, sweep)
            frame = frame[frame["split"].isin(EXPORTED)][list(COLUMNS)]
            _write(path_of(config.out), lambda path: frame.to_csv(path, index=False, na_rep="nan"))
            print(f"{config.out}: {len(frame)} numbers of {frame['cell_id'].nunique()} cells")
        if config.predictions is not None:
            tables = prediction_tables(runs, sweep)
            rows = _write(path_of(config.predictions), lambda path: write_predictions(tables, path))
            print(f"{config.predictions}: {rows} predictions")
    except (UserError, StoreError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


def _write(path: Path, write: Callable[[Path], T]) -> T:
    """Write a file as a whole or not at all; raises UserError where it cannot be written."""
    from harness.errors import UserError
    from harness.files import replacing

    try:
        with replacing(path) as temporary:
            return write(temporary)
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be written: {error.strerror or error}.") from error


if __name__ == "__main__":
    leave(main())

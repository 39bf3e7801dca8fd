"""``python -m reports.export study=NAME out=FILE.csv predictions=FILE.parquet``: all numbers, unrounded.

With sweep=NAME those of all cells of this sweep's trials; ``settings`` then holds the sweep's parameters.
Otherwise the cells that were trained for sweeps alone are left out. All are of one results version; how many
of another are left out, or that all are of another than this program's, is printed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from harness.cli import asks_for_help, importing, leave

if TYPE_CHECKING:
    import pyarrow as pa

    from harness.config.schema import ReportConfig
    from harness.tracking.tracker import Tracker
    from reports.study_runs import StudyRuns

T = TypeVar("T")

HELP = """\
usage: python -m reports.export study=NAME out=FILE.csv predictions=FILE.parquet

Writes all numbers of a study, unrounded, and the predictions of all its cells; one of the two will do.

  study=NAME                        the study, as it was given to the benchmark
  sweep=NAME                        the cells of this sweep's trials, instead of those of the matrix
  var_dir=DIR tracking.uri=URI      where its results are (default: var)"""
EXPORTED = ("valid", "test", "cell")
ROWS = 2**18  # of predictions that are written at once, and of a row group


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

        tracker = Tracker(config.tracking.uri, path_of(config.var_dir), str(config.study), create=False)
        for sentence in _export(config, tracker):
            print(sentence)
    except (UserError, StoreError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


def _export(config: ReportConfig, tracker: Tracker) -> Iterator[str]:
    """Write the files that were asked for; yields what to say of them."""
    from harness.config.compose import path_of

    with importing():
        from reports.frame import COLUMNS, load_frame, version_notes
        from reports.study_runs import StudyRuns

    runs, sweep = StudyRuns(tracker), config.sweep or None
    yield from version_notes(runs, sweep)
    if config.out is not None:
        frame = load_frame(runs, sweep)
        frame = frame[frame["split"].isin(EXPORTED)][list(COLUMNS)]
        _write(path_of(config.out), lambda path: frame.to_csv(path, index=False, na_rep="nan"))
        yield f"{config.out}: {len(frame)} numbers of {frame['cell_id'].nunique()} cells"
    if config.predictions is not None:
        tables = prediction_tables(runs, sweep)
        rows = _write(path_of(config.predictions), lambda path: write_predictions(tables, path))
        yield f"{config.predictions}: {rows} predictions"


def prediction_tables(runs: StudyRuns, sweep: str | None = None) -> Iterator[pa.Table]:
    """A table per cell, in the order of their ids: a row per test clip and occlusion ratio.

    sweep: see `reports.frame.load_frame`.

    Raises:
        StoreError: the predictions of a cell cannot be read.
    """
    import pyarrow as pa

    from harness.tracking.artifacts import to_table
    from reports.frame import complete_cells

    for cell_id, run in sorted(complete_cells(runs, sweep).items()):
        stored = to_table(runs.tracker.predictions(run))
        n, protocol = len(stored), run.tags["occlusion_protocol"]
        trained = pa.repeat(float(run.tags["train_ratio"]), n)
        columns = {
            "cell_id": pa.repeat(cell_id, n),
            "id": stored["id"],
            "occlusion_protocol": pa.repeat(protocol, n),
            "occlusion_ratio": trained if protocol == "train" else stored["occlusion_ratio"],
            "label": stored["label"],
            "prediction": stored["prediction"],
        }
        yield pa.table(columns, prediction_schema())


def prediction_schema() -> pa.Schema:
    """The columns of the file of predictions."""
    import pyarrow as pa

    texts = dict.fromkeys(("cell_id", "id", "occlusion_protocol"), pa.string())
    numbers = {"occlusion_ratio": pa.float64(), "label": pa.float32(), "prediction": pa.float32()}
    return pa.schema(texts | numbers)


def write_predictions(tables: Iterable[pa.Table], path: Path) -> int:
    """Write tables of `prediction_schema` as one file, some at a time; returns the number of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    total, waiting = 0, []
    with pq.ParquetWriter(path, prediction_schema()) as writer:
        for table in tables:
            waiting.append(table)
            total += len(table)
            if sum(map(len, waiting)) >= ROWS:
                writer.write_table(pa.concat_tables(waiting))
                waiting = []
        if waiting:
            writer.write_table(pa.concat_tables(waiting))
    return total


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

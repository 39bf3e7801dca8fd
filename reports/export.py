"""``python -m reports.export study=NAME out=FILE.csv predictions=FILE.parquet``: export unrounded numbers.

With sweep=NAME, the export has the cells of this sweep's trials, and ``settings`` includes the sweep's
parameters. Otherwise cells that were trained only for sweeps are left out. All cells have the same results
version; the command prints how many cells of other versions are left out.
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

Writes all numbers of a study, unrounded, and the predictions of all its cells; give one file or both.

  study=NAME                        name of the study, as passed to the benchmark
  all=true                          export what the report leaves out, too, with a column "shown"
  sweep=NAME                        export the cells of this sweep's trials instead of the matrix
  var_dir=DIR tracking.uri=URI      location of its results (default: var)"""
EXPORTED = ("valid", "test", "cell")
ROWS = 2**18  # predictions per write, and so the minimum size of a row group


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status (2: invalid request)."""
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
    """Write the requested files, and yield sentences for the user."""
    from harness.config.compose import path_of

    with importing():
        from reports.frame import EXPORT, complete_cells, load_frame, shown_cells, version_notes
        from reports.selection import left_out_sentence, requests_of
        from reports.study_runs import StudyRuns

    runs, sweep = StudyRuns(tracker), config.sweep or None
    yield from version_notes(runs, sweep)
    hidden = len(complete_cells(runs, sweep)) - len(shown_cells(runs, sweep))
    if hidden and not config.all:
        yield f"{left_out_sentence(hidden)} all=true exports them, too."
    if config.out is not None:
        frame = load_frame(runs, sweep, requests_of(runs.matrix()))
        frame = frame.assign(shown=~frame["superseded"].astype(bool))
        frame = frame[frame["split"].isin(EXPORTED) & (frame["shown"] | config.all)]
        frame = frame[[*(["shown"] if config.all else []), *EXPORT]]
        _write(path_of(config.out), lambda path: frame.to_csv(path, index=False, na_rep="nan"))
        yield f"{config.out}: {len(frame)} numbers of {frame['cell_id'].nunique()} cells"
    if config.predictions is not None:
        tables = prediction_tables(runs, sweep, config.all)
        rows = _write(path_of(config.predictions), lambda path: write_predictions(tables, path))
        yield f"{config.predictions}: {rows} predictions"


def prediction_tables(runs: StudyRuns, sweep: str | None = None, hidden: bool = False) -> Iterator[pa.Table]:
    """Yield a table per cell, ordered by cell id, with a row per test clip and occlusion ratio.

    sweep: see `reports.frame.load_frame`. hidden: include the cells that a report leaves out.

    Raises:
        StoreError: the predictions of a cell cannot be read.
    """
    import pyarrow as pa

    from harness.tracking.artifacts import to_table
    from reports.frame import complete_cells, shown_cells

    for cell_id, run in sorted((complete_cells if hidden else shown_cells)(runs, sweep).items()):
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
    """Return the schema of the file of predictions."""
    import pyarrow as pa

    texts = dict.fromkeys(("cell_id", "id", "occlusion_protocol"), pa.string())
    numbers = {"occlusion_ratio": pa.float64(), "label": pa.float32(), "prediction": pa.float32()}
    return pa.schema(texts | numbers)


def write_predictions(tables: Iterable[pa.Table], path: Path) -> int:
    """Write tables of `prediction_schema` to one file in batches, and return the number of rows."""
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
    """Write a file atomically; raises UserError if it cannot be written."""
    from harness.errors import UserError
    from harness.files import replacing

    try:
        with replacing(path) as temporary:
            return write(temporary)
    except OSError as error:
        raise UserError(f"Cannot write {str(path)!r}: {error.strerror or error}.") from error


if __name__ == "__main__":
    leave(main())

"""``python -m reports.export study=NAME out=FILE.csv predictions=FILE.parquet``: export unrounded numbers.

``curves=FILE.parquet`` has the losses of each training after each epoch.

With sweep=NAME, the export has the cells of this sweep's trials, ``settings`` includes the sweep's
parameters, and columns name sweep and trial; sweeps=true exports those of all sweeps. Otherwise cells that
were trained only for sweeps are left out. All cells of the matrix, and of a sweep, have the same results
version; the command prints how many cells of other versions are left out.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from harness.cli import asks_for_help, importing, leave

if TYPE_CHECKING:
    import pyarrow as pa

    from harness.config.schema import ReportConfig
    from harness.tracking.tracker import Run, Tracker
    from reports.runs.study_runs import StudyRuns

T = TypeVar("T")

HELP = """\
usage: python -m reports.export study=NAME out=FILE.csv predictions=FILE.parquet

Writes all numbers of a study, unrounded, and the predictions of all its cells; give one file or more.

  study=NAME                        name of the study, as passed to the benchmark
  curves=FILE.parquet               losses of each training after each epoch
  all=true                          export what the report leaves out, too, with a column "shown"
  sweep=NAME                        export the cells of this sweep's trials instead of the matrix
  sweeps=true                       export the cells of the trials of all sweeps
  var_dir=DIR tracking.uri=URI      location of its results (default: var)"""
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
        _check_files(config)
        with importing():
            from harness.tracking.tracker import Tracker

        tracker = Tracker(config.tracking.uri, path_of(config.var_dir), str(config.study), create=False)
        for sentence in _export(config, tracker):
            print(sentence)
    except (UserError, StoreError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


def _check_files(config: ReportConfig) -> None:
    """Raise UserError if no file is named, or a text file for what is written as Parquet."""
    from harness.errors import UserError

    if config.out is None and config.predictions is None and config.curves is None:
        raise UserError(
            "Nothing to export; give out=FILE.csv, predictions=FILE.parquet, curves=FILE.parquet or several."
        )
    for key, example in (("predictions", "clips"), ("curves", "losses")):
        name = getattr(config, key)
        if str(name).lower().endswith((".csv", ".tsv", ".txt")):
            raise UserError(
                f"{key.title()} are written as Parquet, got {key}={name}; give a name like "
                f"{key}={example}.parquet."
            )


def _export(config: ReportConfig, tracker: Tracker) -> Iterator[str]:
    """Write the requested files, and yield sentences for the user."""
    from harness.config.compose import path_of

    with importing():
        from reports.runs.frame import complete_cells, shown_cells, version_notes
        from reports.runs.numbers import export_frame
        from reports.runs.selection import left_out_sentence
        from reports.runs.study_runs import StudyRuns

    runs = StudyRuns(tracker)
    sweeps = _sweeps(config, runs)
    for sweep in sweeps:
        yield from version_notes(runs, sweep)
    if sweeps == [None]:
        hidden = len(complete_cells(runs)) - len(shown_cells(runs))
        if hidden and not config.all:
            yield f"{left_out_sentence(hidden)} all=true exports them, too."
        yield from _only_sweeps(runs)
    if config.out is not None:
        frame = export_frame(runs, sweeps, config.all)
        _write(path_of(config.out), lambda path: frame.to_csv(path, index=False, na_rep="nan"))
        yield f"{config.out}: {len(frame)} numbers of {frame['cell_id'].nunique()} cells"
    if config.predictions is not None:
        tables = prediction_tables(runs, sweeps, config.all)
        rows = _write(path_of(config.predictions), lambda path: write_predictions(tables, path))
        yield f"{config.predictions}: {rows} predictions"
    if config.curves is not None:
        yield _export_curves(config.curves, runs, sweeps, config.all)


def _export_curves(name: str, runs: StudyRuns, sweeps: Sequence[str | None], hidden: bool) -> str:
    """Write the file of losses, and return a sentence for the user."""
    from harness.config.compose import path_of
    from reports.runs.curves import curve_table

    cells = _cells(runs, sweeps, hidden)
    frame = curve_table(cells.values(), runs.curves(cells.values()))
    _write(path_of(name), lambda path: frame.to_parquet(path, index=False))
    lost = len(cells) - frame["cell_id"].nunique()
    without = f"; {lost} cells store none" if lost else ""
    return f"{name}: {len(frame)} epochs of {frame['cell_id'].nunique()} cells{without}"


def _sweeps(config: ReportConfig, runs: StudyRuns) -> list[str | None]:
    """Return the names of the sweeps to export; [None]: the matrix. Raises UserError."""
    from harness.errors import UserError
    from reports.runs.frame import sweep_names

    if not config.sweeps:
        return [config.sweep or None]
    if config.sweep:
        raise UserError(f"Give sweeps=true for all sweeps or sweep={config.sweep} for one, not both.")
    names = sweep_names(runs)
    if not names:
        raise UserError(f"Study {runs.study!r} has no sweeps; leave out sweeps=true to export its matrix.")
    return list(names)


def _only_sweeps(runs: StudyRuns) -> Iterator[str]:
    """Yield a sentence if the study has trials of sweeps, but no cell of a matrix."""
    from reports.runs.frame import complete_cells, sweep_names

    names = sweep_names(runs)
    if names and not complete_cells(runs):
        one = f"{shlex.quote(f'sweep={names[0]}')} exports {'those of one' if names[1:] else 'them'}"
        every = ", sweeps=true those of all" if names[1:] else ""
        yield f"Study {runs.study!r} holds only trials of {', '.join(names)}: {one}{every}."


def _cells(runs: StudyRuns, sweeps: Sequence[str | None], hidden: bool) -> dict[str, Run]:
    """Return the cells to export, ordered by cell id; parameters as those of `prediction_tables`."""
    from reports.runs.frame import complete_cells, shown_cells

    select = complete_cells if hidden else shown_cells
    cells = {cell_id: run for sweep in sweeps for cell_id, run in select(runs, sweep).items()}
    return dict(sorted(cells.items()))


def prediction_tables(
    runs: StudyRuns, sweeps: Sequence[str | None] = (None,), hidden: bool = False
) -> Iterator[pa.Table]:
    """Yield a table per cell, ordered by cell id, with a row per test clip and occlusion ratio.

    sweeps: names of sweeps; None: the matrix. hidden: include the cells that a report leaves out.

    Raises:
        StoreError: the predictions of a cell cannot be read.
    """
    import pyarrow as pa

    from harness.tracking.artifacts import to_table

    for cell_id, run in _cells(runs, sweeps, hidden).items():
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
            **{name: pa.repeat(run.tags[name], n) for name in ("dataset", "backbone", "method", "settings")},
            "seed": pa.repeat(int(run.tags["seed"]), n),
        }
        yield pa.table(columns, prediction_schema())


def prediction_schema() -> pa.Schema:
    """Return the schema of the file of predictions."""
    import pyarrow as pa

    texts = dict.fromkeys(("cell_id", "id", "occlusion_protocol"), pa.string())
    numbers = {"occlusion_ratio": pa.float64(), "label": pa.float32(), "prediction": pa.float32()}
    cell = dict.fromkeys(("dataset", "backbone", "method", "settings"), pa.string()) | {"seed": pa.int64()}
    return pa.schema(texts | numbers | cell)


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

"""``python -m reports.export study=NAME out=FILE.csv predictions=FILE.parquet``: all numbers, unrounded.

With sweep=NAME those of all cells of this sweep's trials; ``settings`` then holds the sweep's parameters.
Otherwise the cells that were trained for sweeps alone are left out.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.command import asks_for_help, leave
from harness.startup import importing

if TYPE_CHECKING:
    import pandas as pd

    from harness.tracking import Tracker

HELP = """\
usage: python -m reports.export study=NAME out=FILE.csv predictions=FILE.parquet

Writes all numbers of a study, unrounded, and the predictions of all its cells; one of the two will do.

  study=NAME                        the study, as it was given to the benchmark
  sweep=NAME                        the cells of this sweep's trials, instead of those of the matrix
  var_dir=DIR tracking.uri=URI      where its results are (default: var)"""
EXPORTED = ("valid", "test", "cell")


def load_predictions(tracker: Tracker, sweep: str | None = None) -> pd.DataFrame:
    """A row per test clip, cell and occlusion ratio, in the order of the cells' ids.

    sweep: see `reports.frame.load_frame`.
    """
    import pandas as pd

    from reports.frame import complete_cells

    columns = ["cell_id", "id", "occlusion_protocol", "occlusion_ratio", "label", "prediction"]
    frames = []
    for cell_id, run in sorted(complete_cells(tracker, sweep).items()):
        stored = tracker.load(run).predictions
        assert stored is not None, f"run {run.run_id} is complete and has no predictions"
        protocol = run.tags["occlusion_protocol"]
        for ratio, values in sorted(stored.values.items()):
            shown = float(run.tags["train_ratio"]) if protocol == "train" else ratio
            rows = {"id": stored.ids, "label": stored.labels, "prediction": values}
            frames.append(
                pd.DataFrame(rows).assign(cell_id=cell_id, occlusion_protocol=protocol, occlusion_ratio=shown)
            )
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status (2: the request is wrong)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if asks_for_help(arguments):
        print(HELP)
        return 0
    from harness.config import load_report, path_of
    from harness.errors import StoreError, UserError

    try:
        config = load_report(arguments)
        if config.out is None and config.predictions is None:
            raise UserError("Nothing to export; give out=FILE.csv, predictions=FILE.parquet or both.")
        with importing():
            from harness.tracking import Tracker
            from reports.frame import load_frame
            from reports.stats import COLUMNS

        tracker = Tracker(config.tracking.uri, path_of(config.var_dir), str(config.study), create=False)
        sweep = config.sweep or None
        if config.out is not None:
            frame = load_frame(tracker, sweep)
            frame = frame[frame["split"].isin(EXPORTED)][list(COLUMNS)]
            _write(path_of(config.out), lambda path: frame.to_csv(path, index=False, na_rep="nan"))
            print(f"{config.out}: {len(frame)} numbers of {frame['cell_id'].nunique()} cells")
        if config.predictions is not None:
            predictions = load_predictions(tracker, sweep)
            _write(path_of(config.predictions), lambda path: predictions.to_parquet(path, index=False))
            print(f"{config.predictions}: {len(predictions)} predictions")
    except (UserError, StoreError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


def _write(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file as a whole or not at all; raises UserError where it cannot be written."""
    from harness.errors import UserError

    temporary = path.parent / f".{os.getpid()}.part"
    try:
        write(temporary)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be written: {error.strerror or error}.") from error
    finally:
        with contextlib.suppress(OSError):  # In the place of the folder may stand a file.
            temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    leave(main())

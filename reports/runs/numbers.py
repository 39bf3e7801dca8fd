"""The numbers of a study as users get them: a file of `reports.export`, and the frame of `harness.run`."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from reports.runs.frame import EXPORT, TRIAL, load_frame
from reports.runs.selection import requests_of
from reports.runs.study_runs import StudyRuns

EXPORTED = ("valid", "test", "cell")


def export_frame(
    runs: StudyRuns, sweeps: Sequence[str | None] = (None,), hidden: bool = False
) -> pd.DataFrame:
    """Return the frame that is exported.

    sweeps: names of sweeps; None: the matrix. hidden: include the cells that a report leaves out.
    """
    requests = requests_of(runs.matrix())
    frame = pd.concat([load_frame(runs, sweep, requests) for sweep in sweeps], ignore_index=True)
    frame = frame.assign(shown=~frame["superseded"].astype(bool))
    frame = frame[frame["split"].isin(EXPORTED) & (frame["shown"] | hidden)]
    used = set(frame["run_id"])
    resolved = runs.resolved(run for run in runs.complete().values() if run.run_id in used)
    frame = frame.assign(resolved=frame["run_id"].map(resolved))
    columns = [*(["shown"] if hidden else []), *EXPORT, *(name for name in TRIAL if name in frame.columns)]
    return frame[columns]

"""Base of the figures: extraction of data from a study, and a drawing that depends only on these data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure as Drawing

from reports.runs.study import Study

Command = Callable[[str], str]
"""Returns the shell command of a sweep of the study, see `reports.commands.sweep`."""


@dataclass(frozen=True)
class Figure:
    """A figure of the report.

    name: name of its files, ``figure5_occlusion``. title: ``Figure 5: ...``. caption: function of the data
    that returns plain text with the sample sizes n. data: function of a study that returns the rows to draw
    and to write as CSV, with a column ``dataset``; empty if there is nothing to show. draw: pure function of
    data, title and a `Command`; the same data give the same bytes. missing: sentence shown if there are no
    data. fill: function of the study that returns the command that produces them, see `reports.commands`.
    beside: whether the data are computed in a thread while the tables are made, because they take seconds and
    release Python's lock.
    """

    name: str
    title: str
    caption: Callable[[pd.DataFrame], str]
    data: Callable[[Study], pd.DataFrame]
    draw: Callable[[pd.DataFrame, str, Command], Drawing]
    missing: str
    fill: Callable[[Study], str]
    beside: bool = False

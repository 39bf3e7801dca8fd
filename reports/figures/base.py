"""What a figure is: data that a study holds, and a drawing of these data alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure as Drawing

from reports.study import Study

Command = Callable[[str], str]
"""From a make command to that which does the same for a study, see `reports.study.Study.command`."""


@dataclass(frozen=True)
class Figure:
    """One figure of the report.

    name: of its files, ``figure5_occlusion``. title: ``Figure 5: ...``. caption: of its data, what is shown,
    with the numbers n behind it; plain text. data: from a study to the rows that are drawn and written as
    CSV, with a column ``dataset``; empty where there is nothing to show. draw: (data, title,
    `Study.command`) -> the figure; a pure function, so that the same data give the same bytes. missing: what
    the study lacks where there are no data; fill: the make command that changes it.
    """

    name: str
    title: str
    caption: Callable[[pd.DataFrame], str]
    data: Callable[[Study], pd.DataFrame]
    draw: Callable[[pd.DataFrame, str, Command], Drawing]
    missing: str
    fill: str

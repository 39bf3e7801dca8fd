"""Claims on the page: a row per claim, and the table of the comparisons behind their verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from reports.claims.answers import TABLE, Answer, against_name, part_metric, places
from reports.claims.claim import NOT_TESTED, SUPPORTED, UNDECIDED, Part
from reports.names import dataset_name, method_name, signed
from reports.runs.study import Study
from reports.tables.table import BEST, DASH, OTHER, Column, Table, Value
from reports.tables.table import Part as TablePart

HEADS = ("Claim", "Dataset", "Compared with", "Metric", "Difference", "95%", "Interval", "Verdict", "n")
NUMBERS = ("Difference", "95%", "n")
NOTES = (
    "Difference: mean over backbones of paired differences, positive where the claim holds; MAE in units of "
    "the labels. For a correlation: its mean.",
    "Interval: for other clips (seeds and videos vary), these clips (seeds vary), or backbones (one network "
    "of each).",
    "Verdict: supported where the 95% interval is above 0; contradicted where the interval of 5% over the "
    "number of comparisons of the claim is below 0, or within the margin of report.equal_within; else "
    "undecided. Each backbone needs three seeds.",
    "A claim is supported if all its comparisons are, and contradicted if one is.",
)


@dataclass(frozen=True)
class ClaimRow:
    """A claim on the page as plain text.

    about: its method. figure, table: names; empty if there is none. runs: an address.
    """

    id: str
    about: str
    source: str
    sentence: str
    verdict: str
    because: str = ""
    decide: str = ""
    command: str = ""
    figure: str = ""
    table: str = ""
    runs: str = ""


def claim_rows(found: Sequence[Answer], study: Study) -> list[ClaimRow]:
    """Return the page's rows: those of one paper stay together, in the order of the files."""
    return [_row(answer, study) for answer in found]


def _row(answer: Answer, study: Study) -> ClaimRow:
    claim, tested = answer.claim, answer.verdict != NOT_TESTED
    figure, table = places(answer)
    return ClaimRow(
        claim.id,
        method_name(claim.method),
        claim.source,
        claim.sentence,
        answer.verdict,
        answer.because,
        answer.decide,
        answer.command,
        figure,
        table,
        study.links.behind({"method": claim.method}) if tested else "",
    )


def claims_table(found: Sequence[Answer], study: Study) -> Table:
    """Lay out every comparison of every claim."""
    datasets = list(dict.fromkeys(part.dataset for answer in found for part in answer.parts))
    title = "Claims: the comparisons behind each verdict" + study.stand_in(datasets)
    columns = [Column(head, head in NUMBERS) for head in HEADS]
    groups = [[_values(answer, part, study) for part in answer.parts] for answer in found if answer.parts]
    fields = ("dataset", "against", "metric", "gain", "low", "high", "n", "fewest", "clips", "verdict")
    rows = [[a.claim.id, *(getattr(part, f) for f in fields)] for a in found for part in a.parts]
    csv = pd.DataFrame(rows, columns=["claim", *fields]).to_csv(index=False, lineterminator="\n")
    parts = [TablePart(columns, groups)] if groups else []
    return Table(TABLE, title, parts, NOTES if groups else ["No claim could be tested yet."], csv)


def _values(answer: Answer, part: Part, study: Study) -> list[Value]:
    claim, decided = answer.claim, part.verdict != UNDECIDED
    link = study.links.behind({"dataset": part.dataset, "method": part.against or claim.method})
    interval = "other clips" if part.clips else "backbones" if part.metric == "kl" else "these clips"
    known = not math.isnan(part.low)
    return [
        Value(claim.id, order=claim.id),
        *_names(dataset_name(part.dataset), against_name(part, claim) or DASH, part_metric(part)),
        Value(signed(part.gain), BEST if part.verdict == SUPPORTED else OTHER, part.gain, link),
        Value(f"{signed(part.low)} to {signed(part.high)}", order=part.low) if known else Value(DASH),
        Value(interval, order=interval),
        Value(part.verdict, BEST if decided else OTHER, part.verdict),
        Value(str(part.n), order=float(part.n)),
    ]


def _names(*texts: str) -> list[Value]:
    return [Value(text, order=text) for text in texts]

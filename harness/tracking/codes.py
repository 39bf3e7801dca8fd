"""Results of other code than this program's: kept, and never in one mean with its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from backbones import BACKBONES
from harness.code import BACKBONE_CODE, METHOD_CODE, code_hash
from harness.tracking.reader import Run
from methods import METHODS

Part = tuple[str, str]
"""The tag that names a part of a cell's code, "method" or "backbone", and its name."""


def hashes(tags: Mapping[str, str]) -> dict[Part, str]:
    """The code hash of a run's method and of its backbone; none for a run of a version without them."""
    parts = {
        ("method", tags.get("method", "")): tags.get(METHOD_CODE),
        ("backbone", tags.get("backbone", "").partition("[")[0]): tags.get(BACKBONE_CODE),
    }
    return {part: value for part, value in parts.items() if value}


def current(part: Part) -> str | None:
    """The hash of a part in this program; None where it has no such method or backbone."""
    kind, name = part
    cls: type | None = METHODS.get(name) if kind == "method" else BACKBONES.get(name)
    return None if cls is None else code_hash(cls)


def changes(tags: Mapping[str, str]) -> list[str]:
    """Names of the method and the backbone of a run whose code in this program is another than the run's."""
    return [part[1] for part, value in hashes(tags).items() if current(part) not in (None, value)]


def one_per_cell(runs: Iterable[Run]) -> dict[str, Run]:
    """One run of each cell: of this program's code if there is one, else of the code that ran last.

    runs: the earliest first. Of several runs of the same code, the earliest is taken.
    """
    chosen: dict[str, Run] = {}
    for run in runs:
        known = chosen.setdefault(run.tags["cell_id"], run)
        if changes(known.tags) and hashes(run.tags) != hashes(known.tags):
            # In its own place, as the order is that of the runs.
            del chosen[run.tags["cell_id"]]
            chosen[run.tags["cell_id"]] = run
    return chosen


def of_one_code(runs: Iterable[Run]) -> list[Run]:
    """The runs that one code of each method and backbone computed: this program's, else that of the last run.

    runs: the earliest first.
    """
    runs = list(runs)
    kept = _kept(runs)
    return [run for run in runs if not _others(run, kept)]


def _kept(runs: Iterable[Run]) -> dict[Part, str]:
    kept: dict[Part, str] = {}
    for run in runs:
        for part, value in hashes(run.tags).items():
            if kept.get(part, "") != current(part):
                kept[part] = value
    return kept


def _others(run: Run, kept: Mapping[Part, str]) -> list[str]:
    """Names of the method and backbone that other code computed than what is kept."""
    return [part[1] for part, value in hashes(run.tags).items() if kept[part] != value]


def changed_sentence(runs: Iterable[Run]) -> str:
    """The sentence for a study that goes on and holds cells of other code; empty for none."""
    names = _counted(name for run in runs for name in changes(run.tags))
    if not names:
        return ""
    return (
        f"The code changed since these cells were trained: {names}. They count as done; "
        "retry=changed trains them anew."
    )


def shown_sentences(runs: Iterable[Run]) -> list[str]:
    """Sentences for a report of runs of which `of_one_code` leaves some out or keeps those of other code."""
    runs = list(runs)
    kept = _kept(runs)
    left_out = _counted(name for run in runs for name in _others(run, kept))
    aged = _counted(name for run in runs if not _others(run, kept) for name in changes(run.tags))
    return [
        f"Results of other code are left out: {left_out}. Numbers of different code never share a mean; "
        "retry=changed trains the cells anew."
    ] * bool(left_out) + [
        f"The code changed since what is shown was trained: {aged}. retry=changed trains the cells anew."
    ] * bool(aged)


def _counted(names: Iterable[str]) -> str:
    counts = sorted(Counter(names).items())
    return ", ".join(f"{name} ({count} cell{'s' * (count > 1)})" for name, count in counts)

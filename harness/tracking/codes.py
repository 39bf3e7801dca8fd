"""Selection of runs by code hash, so that no mean combines results of old and new code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from backbones import BACKBONES
from harness.code import BACKBONE_CODE, METHOD_CODE, code_hash
from harness.matrix import base_name
from harness.plugins import plugin_of
from harness.tracking.reader import Run
from methods import METHODS

Part = tuple[str, str]
"""("method" | "backbone", its name), e.g. ("method", "ms_mix")."""


def hashes(tags: Mapping[str, str]) -> dict[Part, str]:
    """Return the code hashes of a run's method and backbone; runs of earlier versions have none."""
    parts = {
        ("method", tags.get("method", "")): tags.get(METHOD_CODE),
        ("backbone", base_name(tags.get("backbone", ""))): tags.get(BACKBONE_CODE),
    }
    return {part: value for part, value in parts.items() if value}


def current(part: Part) -> str | None:
    """Return the current code hash of a part; None if this program has no such method or backbone."""
    kind, name = part
    cls: type | None = METHODS.get(name) if kind == "method" else BACKBONES.get(name)
    return None if cls is None else code_hash(cls)


def changes(tags: Mapping[str, str]) -> list[str]:
    """Return the names of a run's method and backbone whose code has changed since the run."""
    return [part[1] for part, value in hashes(tags).items() if current(part) not in (None, value)]


def plugin_changes(tags: Mapping[str, str]) -> list[str]:
    """Return the names in `changes` that come from a plugin."""
    return [name for name in changes(tags) if plugin_of(METHODS.get(name) or BACKBONES[name]) is not None]


def one_per_cell(runs: Iterable[Run]) -> dict[str, Run]:
    """Choose one run per cell: one of the current code if possible, otherwise of the code that ran last.

    runs: sorted by start time. Of several runs of one code, the earliest is chosen.
    """
    chosen: dict[str, Run] = {}
    for run in runs:
        known = chosen.setdefault(run.tags["cell_id"], run)
        if changes(known.tags) and hashes(run.tags) != hashes(known.tags):
            # Deleted first, so that the result is sorted by start time, too.
            del chosen[run.tags["cell_id"]]
            chosen[run.tags["cell_id"]] = run
    return chosen


def of_one_code(runs: Iterable[Run]) -> list[Run]:
    """Return the runs of a single code per method and backbone: the current one, otherwise the last run's.

    runs: sorted by start time.
    """
    runs = list(runs)
    kept = _kept(runs)
    return [run for run in runs if not _differences(run, kept)]


def _kept(runs: Iterable[Run]) -> dict[Part, str]:
    kept: dict[Part, str] = {}
    for run in runs:
        for part, value in hashes(run.tags).items():
            if kept.get(part, "") != current(part):
                kept[part] = value
    return kept


def _differences(run: Run, kept: Mapping[Part, str]) -> list[str]:
    """Return the names of a run's method and backbone whose code is not the kept one."""
    return [part[1] for part, value in hashes(run.tags).items() if kept[part] != value]


def changed_sentence(runs: Iterable[Run]) -> str:
    """Return the message for a resumed study with results of changed code; empty if there are none."""
    names = _counted(name for run in runs for name in changes(run.tags))
    if not names:
        return ""
    return (
        f"The code changed since these cells were trained: {names}. They count as done; "
        "retry=changed trains them anew."
    )


def shown_sentences(runs: Iterable[Run], sweep: str | None = None) -> list[str]:
    """Return the messages for a report about runs that `of_one_code` drops, or keeps although outdated.

    sweep: the name of the sweep that is reported; None for the study's matrix.
    """
    runs = list(runs)
    kept = _kept(runs)
    left_out = _counted(name for run in runs for name in _differences(run, kept))
    outdated = _counted(name for run in runs if not _differences(run, kept) for name in changes(run.tags))
    remedy = "the benchmark trains the cells anew with retry=changed."
    if sweep is not None:
        remedy = "the sweep runs anew with another sweep.name=NAME."
    sentences = []
    if left_out:
        apart = "Numbers of different code never share a mean"
        sentences.append(f"Results of other code are left out: {left_out}. {apart}; {remedy}")
    if outdated:
        sentences.append(f"The code changed since these results were trained: {outdated}; {remedy}")
    return sentences


def _counted(names: Iterable[str]) -> str:
    counts = sorted(Counter(names).items())
    return ", ".join(f"{name} ({count} cell{'s' * (count > 1)})" for name, count in counts)

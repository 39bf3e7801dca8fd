"""Results of other versions of the arithmetic than this program's: kept, and never used beside its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from harness.matrix import RESULTS_VERSION


def version_of(tags: Mapping[str, str]) -> int:
    """The results version of a run by its tags; 0 where they do not tell."""
    return int(tags.get("results_version", 0))


def chosen(versions: Iterable[int]) -> int:
    """Of the versions that there are the one to show: this program's, else the newest."""
    versions = set(versions)
    return RESULTS_VERSION if RESULTS_VERSION in versions else max(versions, default=RESULTS_VERSION)


def counted(versions: Iterable[int], but: int) -> str:
    """How many there are of other versions than one: ``6 results of results version 1``; empty for none."""
    counts = Counter(version for version in versions if version != but)
    texts = [f"{n} result{'s' * (n > 1)} of results version {v}" for v, n in sorted(counts.items())]
    return " and ".join(texts)


def kept_sentence(versions: Iterable[int]) -> str:
    """What is to be said where a study goes on that holds results of other versions; empty for none."""
    others = counted(versions, RESULTS_VERSION)
    if not others:
        return ""
    return f"{others}: kept but not used, as this program computes version {RESULTS_VERSION}."


def shown_sentences(versions: Iterable[int], sweep: str | None = None) -> list[str]:
    """What is to be said where results are shown of the `chosen` one of these versions alone.

    sweep: the name of the sweep that they are of; None for the study's matrix.
    """
    versions = list(versions)
    shown = chosen(versions)
    others = counted(versions, shown)
    where = "" if sweep is None else f"Sweep {sweep}: "
    anew = "the benchmark trains the study" if sweep is None else "another sweep.name=NAME tries the settings"
    left_out = f"{where}{others}, left out: what is shown is of version {shown}, and versions never mix."
    aged = (
        f"{where}What is shown is of results version {shown}, and this program computes version "
        f"{RESULTS_VERSION}: {anew} anew, and what is here is kept."
    )
    return [left_out] * bool(others) + [aged] * (shown != RESULTS_VERSION)

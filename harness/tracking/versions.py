"""Results versions: results of different versions of the arithmetic are kept, but never mixed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from harness.matrix import RESULTS_VERSION


def version_of(tags: Mapping[str, str]) -> int:
    """Return the results version of a run from its tags; 0 if they lack it."""
    return int(tags.get("results_version", 0))


def chosen(versions: Iterable[int]) -> int:
    """Return the version to report: this program's if it is present, otherwise the newest."""
    versions = set(versions)
    return RESULTS_VERSION if RESULTS_VERSION in versions else max(versions, default=RESULTS_VERSION)


def count_others(versions: Iterable[int], but: int) -> str:
    """Count the results of all versions but one: ``6 results of results version 1``; empty for none."""
    counts = Counter(version for version in versions if version != but)
    texts = [f"{n} result{'s' * (n > 1)} of results version {v}" for v, n in sorted(counts.items())]
    return " and ".join(texts)


def kept_sentence(versions: Iterable[int]) -> str:
    """Return the message for a resumed study that holds results of other versions; empty for none."""
    others = count_others(versions, RESULTS_VERSION)
    if not others:
        return ""
    return f"{others}: kept but not used, as this program computes version {RESULTS_VERSION}."


def shown_sentences(versions: Iterable[int], sweep: str | None = None) -> list[str]:
    """Return the messages for a report that uses only the `chosen` one of these versions.

    sweep: the name of the sweep that is reported; None for the study's matrix.
    """
    versions = list(versions)
    version = chosen(versions)
    others = count_others(versions, version)
    prefix = "" if sweep is None else f"Sweep {sweep}: "
    remedy = "run the benchmark again" if sweep is None else "run the sweep with another sweep.name=NAME"
    left_out = f"{prefix}Only results version {version} is used, as versions never mix; left out: {others}."
    outdated = (
        f"{prefix}These are results of version {version}, but this program computes version "
        f"{RESULTS_VERSION}: {remedy} to get new results (the old ones are kept)."
    )
    return [left_out] * bool(others) + [outdated] * (version != RESULTS_VERSION)

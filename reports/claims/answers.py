"""What a study says of each claim: verdict, numbers, why, and the command that would test or decide it."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from reports import commands
from reports.claims.claim import (
    CONTRADICTED,
    NOT_TESTED,
    SUPPORTED,
    UNDECIDED,
    Claim,
    Part,
    judged,
    outcome,
    weakest,
)
from reports.claims.kinds import TESTS, Evidence, without
from reports.figures.latents import COMPONENTS, load_samples, sampled_runs
from reports.figures.projection import fit_projection, kl_estimate, stacked
from reports.names import METRIC_NAMES, component_name, dataset_name, method_name
from reports.runs.frame import named
from reports.runs.study import Study
from reports.stats.comparison import BASELINE
from reports.stats.intervals import FEWEST

FILE = "claims.json"
TABLE = "claims"
"""Name of the table with every comparison of every claim."""
_PLACES = {
    "better": ("figure8_forest", TABLE),
    "component": ("", "table4_ablation"),
    "robust": ("figure5_occlusion", "occlusion"),
    "diagnostic": ("figure9_mechanism", TABLE),
    "correlates": ("figure9_mechanism", TABLE),
    "closer": ("figure1_latents", TABLE),
}
MANY = 50
"""The largest number of seeds that is worth a command."""


@dataclass(frozen=True)
class Answer:
    """A claim's answer. because: the numbers in a sentence. decide: what would decide it, or test it, in
    words. command: the command that does; empty if the claim is decided."""

    claim: Claim
    verdict: str
    parts: Sequence[Part]
    because: str
    decide: str = ""
    command: str = ""


def answers(study: Study, claims: Iterable[Claim]) -> list[Answer]:
    """Test each claim on a study."""
    evidence = evidence_of(study)
    return [_answer(study, evidence, claim) for claim in claims]


def evidence_of(study: Study) -> Evidence:
    """Return what a study's claims are tested on; equal data sets count once."""
    frame = study.frame
    clean = frame[(frame["occlusion_protocol"] == "test") & ~frame["dataset"].isin(list(study.twins))]
    return Evidence(named(clean), study.clips, study.margins, lambda methods: _divergence(study, methods))


def decisions(found: Sequence[Answer]) -> list[tuple[str, str, list[str]]]:
    """Return what would decide the undecided: words, command and ids of claims, the most claims first."""
    groups: dict[tuple[str, str], list[str]] = {}
    for answer in found:
        if answer.verdict == UNDECIDED:
            groups.setdefault((answer.decide, answer.command), []).append(answer.claim.id)
    return sorted(((*key, ids) for key, ids in groups.items()), key=lambda group: -len(group[2]))


def places(answer: Answer) -> tuple[str, str]:
    """Return the names of the figure and the table on which an answer rests; empty without any."""
    if answer.verdict == NOT_TESTED:
        return "", ""
    if answer.claim.kind == "better" and set(answer.claim.than) == {BASELINE}:
        return _PLACES["better"][0], "comparison"
    return _PLACES[answer.claim.kind]


def answers_json(found: Sequence[Answer], study: Study) -> str:
    """Return the answers as JSON: a list of objects with id, source, claim, verdict and their basis."""
    return json.dumps([_object(answer, study) for answer in found], indent=1, ensure_ascii=False) + "\n"


def _answer(study: Study, evidence: Evidence, claim: Claim) -> Answer:
    rows = evidence.rows
    for column, names in (("dataset", claim.datasets), ("backbone", claim.backbones)):
        rows = rows[rows[column].isin(names)] if names else rows
    narrowed = Evidence(rows, evidence.clips, evidence.margins, evidence.divergence)
    margin = evidence.margins.get(claim.metrics[0]) if claim.kind in ("better", "component") else None
    parts = judged(_within(TESTS[claim.kind](claim, narrowed), claim), margin)
    lacking = _lacking(claim, parts)
    verdict = outcome(parts, lacking)
    because = _because(parts, claim) if parts else _absent(claim)
    if verdict in (SUPPORTED, CONTRADICTED):
        return Answer(claim, verdict, parts, because)
    if lacking:
        others = [_other_name(label, claim) for label in lacking]
        decide = f"Not trained: {', '.join(others)}." if parts else ""
        if not all(part.verdict == SUPPORTED for part in parts):
            decide = " ".join(filter(None, [*_outlook(parts), decide]))
        return Answer(claim, verdict, parts, because, decide, _command(study, claim))
    return Answer(claim, verdict, parts, because, " ".join(_outlook(parts)), _more_seeds(study, parts))


def _within(parts: Iterable[Part], claim: Claim) -> list[Part]:
    return [part for part in parts if not claim.datasets or part.dataset in claim.datasets]


def _compared(claim: Claim) -> list[str]:
    """Return the labels of the methods with which a claim compares its own."""
    return [*claim.than, *(without(claim.method, name) for name in claim.without)]


def _lacking(claim: Claim, parts: Sequence[Part]) -> list[str]:
    """Return the labels without which a claim is not tested as a whole."""
    if not parts:
        return [claim.method, *_compared(claim)]
    return [name for name in _compared(claim) if name not in {part.against for part in parts}]


def _absent(claim: Claim) -> str:
    """Return what a claim without any comparison needs."""
    names = ", ".join(map(method_name, dict.fromkeys([claim.method, *_compared(claim)])))
    return {
        "component": f"It needs {method_name(claim.method)} with and without {', '.join(_parts_of(claim))}.",
        "robust": f"It needs {names}, evaluated with {claim.ratio:.0%} of the input hidden.",
        "correlates": f"It needs {names} on synthetic data, whose intensities are known.",
        "closer": f"It needs stored latents of {names}.",
    }.get(claim.kind, f"It needs {names} with common seeds.")


def _parts_of(claim: Claim) -> list[str]:
    """Return the names of the components that a claim names."""
    return [component_name(name) for name in claim.without]


def _because(parts: Sequence[Part], claim: Claim) -> str:
    """Return how many comparisons support the claim, and the numbers of the one that does so least."""
    part = weakest(parts)
    held = sum(one.verdict == SUPPORTED for one in parts)
    against = sum(one.verdict == CONTRADICTED for one in parts)
    counts = f"{held} of {len(parts)} support it" if len(parts) > 1 else ""
    counts += f", {against} contradict{'s' * (against == 1)} it" if against and counts else ""
    text = f"{_subject(part, claim)}: {_numbers(part)}"
    return f"{counts}; least: {text}." if counts else f"{text}."


def _subject(part: Part, claim: Claim) -> str:
    against = f" against {against_name(part, claim)}" if part.against else ""
    return f"{part_metric(part)}{against}, {dataset_name(part.dataset)}"


def against_name(part: Part, claim: Claim) -> str:
    """Return the name of what a part compares the claim's method with; empty for a correlation."""
    return _other_name(part.against, claim)


def _other_name(label: str, claim: Claim) -> str:
    off = [name for name in claim.without if without(claim.method, name) == label]
    return f"{method_name(claim.method)} without {component_name(off[0])}" if off else method_name(label)


def part_metric(part: Part) -> str:
    """Return the metric of a part as a reader knows it."""
    if part.metric.startswith("intensity_"):
        _, modality, what = part.metric.split("_")
        return f"correlation of {modality} intensity with {INTENSITIES[what]}"
    return WATCHED.get(part.metric) or METRIC_NAMES.get(part.metric, part.metric)


INTENSITIES = {"truth": "the one expressed", "label": "|label|", "partial": "the modality's weight"}
WATCHED = {"mix_opposite_rate": "share of opposite pairs", "kl": "KL(mixed || clean)"}


def _numbers(part: Part) -> str:
    interval = "" if math.isnan(part.low) else f" ({part.low:+.3f} to {part.high:+.3f})"
    return f"{part.gain:+.3f}{interval}"


def _outlook(parts: Sequence[Part]) -> Iterator[str]:
    """Yield why parts are undecided, and what would decide them."""
    undecided = [part for part in parts if part.verdict == UNDECIDED]
    if not undecided:
        return
    noises = [part.noise for part in undecided if part.noise is not None]
    fewest = min(part.fewest for part in undecided)
    unit = "backbone" if undecided[0].metric == "kl" else "seed"
    if fewest < FEWEST:
        many = f"{unit}s decide" if fewest > 1 else f"{unit} decides"
        yield f"{fewest} {many} nothing: a verdict needs three."
        return
    if not noises:
        yield f"No uncertainty can be given: this needs predictions of all runs, and {unit}s that differ."
        return
    yield f"Found with 80% probability: {max(noise.smallest_gain() for noise in noises):.3f} or more."
    seeds = _halving(undecided)
    least = max(noise.smallest_gain_of_any_seeds() for noise in noises)
    if math.isinf(seeds):
        yield f"With any number of seeds these clips show nothing below {least:.3f}."
    elif unit == "seed":
        yield f"Intervals half as wide take {seeds:.0f} seeds."


def _halving(parts: Sequence[Part]) -> float:
    return max(p.noise.seeds_for(0.5, p.fewest) for p in parts if p.noise is not None)


def _more_seeds(study: Study, parts: Sequence[Part]) -> str:
    """Return the command that trains more seeds where these may decide, else an empty text."""
    undecided = [part for part in parts if part.verdict == UNDECIDED]
    if not undecided or undecided[0].metric == "kl":
        return ""
    if min(part.fewest for part in undecided) < FEWEST:
        return commands.seeded(study, FEWEST)
    if not any(part.noise for part in undecided):
        return ""
    seeds = _halving(undecided)
    return commands.seeded(study, int(seeds)) if seeds <= MANY else ""


def _command(study: Study, claim: Claim) -> str:
    """Return the command that trains what a claim lacks."""
    methods = [claim.method, *_compared(claim)]
    if claim.kind == "component" and claim.method == commands.STUDIED:
        return commands.ablation(study)
    if claim.kind == "closer":
        return commands.sampled(study, *methods)
    if claim.kind == "robust":
        return commands.occluded(study, claim.ratio, *methods)
    if claim.kind == "correlates":
        return commands.on_synthetic(study, *methods)
    return commands.trained(study, *methods)


def _divergence(study: Study, methods: Collection[str]) -> pd.DataFrame:
    """Return KL(mixed || clean) of each network of these methods that stored latents."""
    runs = sampled_runs(study)
    runs = runs[runs["method"].isin(methods)]
    values = [_kl(load_samples(study, run_id)) for run_id in runs["run_id"]]
    return runs.assign(kl=values)[["dataset", "backbone", "method", "kl"]].dropna()


def _kl(samples: Any) -> float:
    """Estimate KL in the first principal components of the clean latents; NaN without mixed latents."""
    clean, mixed = (stacked(samples, kind)[0] for kind in ("clean", "mixed"))
    if not len(clean) or not len(mixed):
        return math.nan
    project = fit_projection(clean, COMPONENTS)
    return kl_estimate(project(mixed), project(clean))


def _object(answer: Answer, study: Study) -> dict[str, Any]:
    claim = answer.claim
    figure, table = places(answer)
    return {
        "id": claim.id,
        "source": claim.source,
        "claim": claim.sentence,
        "verdict": answer.verdict,
        "kind": claim.kind,
        "because": answer.because,
        "decide": answer.decide,
        "command": answer.command,
        "figure": figure,
        "table": table,
        "runs": study.links.behind({"method": claim.method}) if answer.verdict != NOT_TESTED else "",
        "comparisons": [_part_object(part) for part in answer.parts],
    }


def _part_object(part: Part) -> dict[str, Any]:
    numbers = {name: getattr(part, name) for name in ("gain", "low", "high")}
    known = {name: float(value) if np.isfinite(value) else None for name, value in numbers.items()}
    names = {name: getattr(part, name) for name in ("dataset", "against", "metric", "verdict")}
    interval = "other clips" if part.clips else "backbones" if part.metric == "kl" else "these clips"
    return {**names, **known, "n": int(part.n), "interval": interval}

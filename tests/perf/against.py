"""This project's training steps against plain, unoptimised PyTorch, as ratios measured in one run.

Both sides train on the same batches of the synthetic MOSI of full size, take turns, and run in processes of
their own: the reference as a script would start it, this project's as its workers run. Ratios are medians
over the rounds of the reference's time over ours.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

from tests.perf.child import Child, children
from tests.perf.rows import Part, Row

TITLE = "Against plain PyTorch"
# Least ratios of the reference's time to ours, one process with two threads each.
BOUNDS = {"tfn": 1.4, "lmf": 1.2, "mult": 3.0}
WITHOUT_DROPOUT = 4.0
PAIR = 2.0  # two processes of one thread each against the reference's with two
MEMORY_MB = 3000.0
ROUNDS = {"tfn": 5, "lmf": 5, "mult": 3}
STEPS = {"tfn": 20, "lmf": 21, "mult": 1}  # of a round
DROPOUTS = (
    "text_dropout",
    "output_dropout",
    "embed_dropout",
    *(f"{m}_attn_dropout" for m in ("text", "audio", "vision")),
)
Found = Mapping[str, float]
Asked = tuple[Child, Mapping[str, bool]]


def measure(data: str, rounds: Mapping[str, int] = ROUNDS) -> Part:
    """Measure models; data: folder of the stored dataset. rounds: how many, by model."""
    rows: list[Row] = []
    for model, count in rounds.items():
        rows += _model(data, model, STEPS[model], count)
    how = (
        "Seconds of a training epoch at MOSI's size, from a few steps of it; medians of rounds in which both "
        "sides take turns. Two threads each. Peak memory is the whole process's."
    )
    return Part("reference", TITLE, how, tuple(rows))


def _model(data: str, model: str, steps: int, rounds: int) -> Iterator[Row]:
    theirs, mine = _theirs(data, model), _ours(data, model, 2)
    pair = [_ours(data, model, 1) for _ in range(2)]
    asked: list[Asked] = [(theirs, {}), (mine, {})]
    more = _mult(data, theirs, mine) if model == "mult" else {}
    everyone = dict.fromkeys([theirs, mine, *pair, *(child for child, _ in more.values())])
    with children(*everyone):
        for child in everyone:
            child.ask(steps=1)
        rounds_ = [_round([*asked, *more.values()], pair, steps) for _ in range(rounds)]
    (plain, own, *others), ratios = _by_child([found for found, _ in rounds_]), [r for _, r in rounds_]
    yield Row(f"{model}, reference", _epoch_s(plain), "s")
    yield Row(f"{model}, ours", _epoch_s(own), "s")
    yield Row(f"{model}, ratio", ratio(plain, own), "times", BOUNDS[model], least=True)
    yield Row(f"{model}, two processes at once, ratio", statistics.median(ratios), "times", PAIR, least=True)
    yield Row(f"{model}, reference's peak memory", _peak(plain), "MB")
    yield Row(f"{model}, our peak memory", _peak(own), "MB", MEMORY_MB if model == "mult" else None)
    if more:
        yield from _mult_rows(plain, dict(zip(more, others, strict=True)))


def _mult(data: str, theirs: Child, mine: Child) -> dict[str, Asked]:
    """MulT once more where every step of padding counts, and without any dropout."""
    arguments = {"data": data, "model": "mult", "threads": 2, "dropouts": False}
    bare = Child("tests.perf.subjects:plain", arguments, as_worker=False)
    ours = _ours(data, "mult", 2, dict.fromkeys(DROPOUTS, 0.0))
    whole = {"padded": False}
    return {"full": (mine, whole), "bare": (bare, {}), "ours bare": (ours, {}), "full bare": (ours, whole)}


def _mult_rows(plain: Sequence[Found], more: Mapping[str, Sequence[Found]]) -> Iterator[Row]:
    full, bare, ours, full_bare = more.values()
    yield Row("mult, no step is padding, ratio", ratio(plain, full), "times", BOUNDS["mult"], least=True)
    yield Row("mult, no step is padding, our peak memory", _peak(full), "MB", MEMORY_MB)
    yield Row("mult without dropout, ratio", ratio(bare, ours), "times", WITHOUT_DROPOUT, least=True)
    yield Row("mult without dropout, no step is padding, ratio", ratio(bare, full_bare), "times")
    name = "mult without dropout, no step is padding, ratio to the reference with dropout"
    yield Row(name, ratio(plain, full_bare), "times", WITHOUT_DROPOUT, least=True)


def _round(asked: Sequence[Asked], pair: Sequence[Child], steps: int) -> tuple[Sequence[Found], float]:
    """Everyone in turn, then both of a pair at once; their joint pace as a multiple of the first one's."""
    found = [child.ask(steps=steps, **request) for child, request in asked]
    for child in pair:
        child.begin(steps=steps)
    return found, sum(found[0]["step_s"] / child.end()["step_s"] for child in pair)


def _by_child(rounds: Sequence[Sequence[Found]]) -> list[list[Found]]:
    return [list(of_one) for of_one in zip(*rounds, strict=True)]


def _theirs(data: str, model: str) -> Child:
    arguments = {"data": data, "model": model, "threads": 2}
    return Child("tests.perf.subjects:plain", arguments, as_worker=False)


def _ours(data: str, model: str, threads: int, settings: Mapping[str, float] | None = None) -> Child:
    arguments = {"data": data, "backbone": model, "threads": threads, "settings": settings or {}}
    return Child("tests.perf.subjects:ours", arguments)


def ratio(theirs: Sequence[Found], ours: Sequence[Found]) -> float:
    """How many times as fast ours is: the median over rounds."""
    return statistics.median(a["step_s"] / b["step_s"] for a, b in zip(theirs, ours, strict=True))


def _epoch_s(found: Sequence[Found]) -> float:
    return statistics.median(f["step_s"] * f["steps"] for f in found)


def _peak(found: Sequence[Found]) -> float:
    return max(f["peak_mb"] for f in found)

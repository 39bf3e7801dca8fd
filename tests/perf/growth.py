"""How a training epoch grows with the number of clips, and a step with the length of the sequences.

The exponent is the slope of the logarithms between the smallest and the largest size: 1 is in proportion, 2
quadratic.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence

from tests.perf.child import Child
from tests.perf.rows import Part, Row

TITLE = "Growth"
CLIPS, FRACTIONS, ROUNDS = (128, 256, 512), (0.25, 0.5, 1.0), 3
# An epoch in proportion to its clips, a step at most to the square of its lengths; the rest is noise.
CLIPS_BOUND, LENGTH_BOUND = 1.3, 2.2


def measure(
    data: str, backbones: Sequence[str], clips: Sequence[int] = CLIPS, fractions: Sequence[float] = FRACTIONS
) -> Part:
    """Measure all backbones without mixing, one thread."""
    rows: list[Row] = []
    for backbone in backbones:
        with Child("tests.perf.subjects:ours", {"data": data, "backbone": backbone, "threads": 1}) as child:
            epochs = {f"{n} clips": _epoch_s(child, n) for n in clips}
            steps = {f"{f:.0%} of the steps": _step_s(child, f) for f in fractions}
        rows += _grown(f"{backbone}, epoch", epochs, clips, CLIPS_BOUND)
        rows += _grown(f"{backbone}, step", steps, fractions, LENGTH_BOUND)
    how = "Without mixing, one thread. Lengths: of all three sequences, every step valid."
    return Part("growth", TITLE, how, tuple(rows))


def _epoch_s(child: Child, clips: int) -> float:
    found = child.ask(clips=clips, steps=clips)  # no batch is smaller than a clip: all of them
    return found["step_s"] * found["steps"]


def _step_s(child: Child, fraction: float) -> float:
    found = [child.ask(fraction=fraction, padded=False, steps=1)["step_s"] for _ in range(ROUNDS)]
    return statistics.median(found)


def _grown(name: str, seconds: Mapping[str, float], sizes: Sequence[float], bound: float) -> Iterator[Row]:
    for size, value in seconds.items():
        yield Row(f"{name}, {size}", value, "s")
    yield Row(f"{name}, exponent", exponent(sizes, list(seconds.values())), "", bound)


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The power of the size with which the time grows, between the ends."""
    return math.log(seconds[-1] / seconds[0]) / math.log(sizes[-1] / sizes[0])

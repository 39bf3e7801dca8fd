"""What a training step and an epoch cost: every backbone and method, at MOSI's size, with one thread.

The parts of a step are timed inside the training loop: taking the batch, the method's draw and its mixing,
the network's forward pass with the losses, the backward pass, the optimizer, and the rest. The harness's
share of an epoch is what is neither forward, method, backward nor optimizer; the forward passes of the
validation split count as forward.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tests.perf.child import Child
from tests.perf.rows import Part, Row

TITLE = "Training steps"
SHARE_BOUND = 10.0  # percent of an epoch
BUDGET_S, MOST, LEAST = 1.5, 20, 2
ARITHMETIC = ("forward_s", "method_s", "backward_s", "optimizer_s")
PARTS = ("data", "method", "forward", "backward", "optimizer", "rest")
Found = Mapping[str, float]


def measure(data: str, backbones: Sequence[str], methods: Sequence[str]) -> tuple[Part, Part]:
    """Steps and epochs of all pairs, and the parts of each backbone's epoch without mixing."""
    steps: list[Row] = []
    parts: list[Row] = []
    for backbone in backbones:
        with Child("tests.perf.subjects:ours", {"data": data, "backbone": backbone, "threads": 1}) as child:
            valid = evaluation(child)
            for method in methods:
                found = {**timed(child, method), **valid}
                steps += _pair(backbone, method, found)
                if method == "none":
                    parts += _parts(backbone, found)
    how = "One thread, as workers train; the epoch is that of 1,284 clips, validation included."
    share = (
        "Without mixing. The harness's share is what is neither forward (of the validation split too), "
        "backward nor optimizer."
    )
    return (
        Part("steps", TITLE, how, tuple(steps)),
        Part("parts", "Parts of an epoch", share, tuple(parts)),
    )


def timed(child: Child, method: str) -> Found:
    """A first step tells how many fit into the budget."""
    first = child.ask(method=method, steps=1)["step_s"]
    return child.ask(method=method, steps=max(LEAST, min(MOST, int(BUDGET_S / first))))


def evaluation(child: Child) -> Found:
    """What one pass over the validation split takes, whatever the method."""
    found = child.ask(steps=1, evaluate=True)
    return {key: found[key] for key in ("valid_s", "valid_forward_s")}


def epoch_s(found: Found) -> float:
    """Seconds of an epoch: its steps and one evaluation."""
    return found["step_s"] * found["steps"] + found["valid_s"]


def harness_share(found: Found) -> float:
    """Percent of an epoch that is not arithmetic."""
    arithmetic = sum(found[part] for part in ARITHMETIC) * found["steps"] + found["valid_forward_s"]
    return 100 * (1 - arithmetic / epoch_s(found))


def _pair(backbone: str, method: str, found: Found) -> Iterator[Row]:
    yield Row(f"{backbone}, {method}, step", 1e3 * found["step_s"], "ms")
    yield Row(f"{backbone}, {method}, epoch", epoch_s(found), "s")
    yield Row(f"{backbone}, {method}, peak memory", found["peak_mb"], "MB")


def _parts(backbone: str, found: Found) -> Iterator[Row]:
    whole = epoch_s(found)
    for part in PARTS:
        yield Row(f"{backbone}, {part}", 100 * found[f"{part}_s"] * found["steps"] / whole, "%")
    yield Row(f"{backbone}, evaluation", 100 * found["valid_s"] / whole, "%")
    yield Row(f"{backbone}, harness", harness_share(found), "%", SHARE_BOUND)

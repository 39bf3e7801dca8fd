"""Training speed, from processes that take turns: against plain PyTorch, steps, methods, growth, a revision.

Ratios are medians over rounds in which both sides train on the same batches of the synthetic MOSI of full
size: the reference as a script would start it, this project's as its workers run.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from backbones import BACKBONES
from harness.errors import UserError
from methods import METHODS
from tests.perf.bounds import Measurement, Section
from tests.perf.child import ROOT, Child, ChildError

# Least ratios of the reference's time to ours, two threads each.
RATIOS = {"tfn": 1.4, "lmf": 1.2, "mult": 3.0}
WITHOUT_DROPOUT = 4.0
PAIR = 2.0  # two processes of one thread each against the reference's with two
MULT_MB = 3000.0
REFERENCE_ROUNDS = {"tfn": 5, "lmf": 5, "mult": 3}
REFERENCE_STEPS = {"tfn": 20, "lmf": 21, "mult": 1}  # of a round
DROPOUTS = ("text_dropout", "output_dropout", "embed_dropout")
DROPOUTS += tuple(f"{m}_attn_dropout" for m in ("text", "audio", "vision"))

HARNESS_SHARE = 10.0  # percent of an epoch
BUDGET_S, MOST_STEPS, LEAST_STEPS = 1.5, 20, 2
ARITHMETIC = ("forward_s", "method_s", "backward_s", "optimizer_s")
STEP_PARTS = ("data", "method", "forward", "backward", "optimizer", "rest")

# Most percent of a step that a method's own work may take; AdvMixUp runs the network once more to attack it.
OWN_WORK, OWN_WORK_OF = 10.0, {"ms_mix": 15.0, "ms_mix_released": 15.0, "advmixup": None}
METHOD_ROUNDS = 15

# An epoch in proportion to its clips, a step at most to the square of its lengths; the rest is noise.
CLIPS_EXPONENT, LENGTH_EXPONENT = 1.3, 2.2
CLIPS, FRACTIONS, LENGTH_ROUNDS = (128, 256, 512), (0.25, 0.5, 1.0), 3

COMPARED_METHODS, COMPARED_ROUNDS = ("none", "ms_mix"), 5
Times = Mapping[str, float]


def reference(data: str) -> Section:
    """This project against plain PyTorch; data: folder of the stored dataset."""
    rows = [row for model in RATIOS for row in _against_reference(data, model)]
    how = (
        "Seconds of a training epoch at MOSI's size, from a few steps of it; medians of rounds in which both "
        "sides take turns. Two threads each. Peak memory is the whole process's."
    )
    return Section("reference", "Against plain PyTorch", how, tuple(rows))


def _against_reference(data: str, model: str) -> Iterator[Measurement]:
    steps, is_mult = REFERENCE_STEPS[model], model == "mult"
    asked = {"data": data, "model": model, "threads": 2}
    with contextlib.ExitStack() as stack:

        def enter(child: Child) -> Child:
            stack.enter_context(child).ask(steps=1)
            return child

        plain = enter(Child("tests.perf.subjects:plain", asked, as_worker=False))
        mine, *pair = [enter(ours(data, model, threads)) for threads in (2, 1, 1)]
        turns = {"plain": (plain, {}), "ours": (mine, {})}
        if is_mult:
            bare = Child("tests.perf.subjects:plain", {**asked, "dropouts": False}, as_worker=False)
            ours_bare = enter(ours(data, model, 2, dict.fromkeys(DROPOUTS, 0.0)))
            turns |= {"full": (mine, {"padded": False}), "plain bare": (enter(bare), {})}
            turns |= {"bare": (ours_bare, {}), "full bare": (ours_bare, {"padded": False})}
        times: dict[str, list[Times]] = {name: [] for name in turns}
        paces = []
        for _ in range(REFERENCE_ROUNDS[model]):
            for name, (child, request) in turns.items():
                times[name].append(child.ask(steps=steps, **request))
            for child in pair:
                child.begin(steps=steps)
            plain_s = times["plain"][-1]["step_s"]
            paces.append(sum(plain_s / child.end()["step_s"] for child in pair))

    def ratio(name: str, theirs: str, own: str, bound: float) -> Measurement:
        return Measurement(name, median_ratio(times[theirs], times[own]), "times", bound, least=True)

    def peak(name: str, side: str, bound: float | None = None) -> Measurement:
        return Measurement(name, max(found["peak_mb"] for found in times[side]), "MB", bound)

    for name, side in (("reference", "plain"), ("ours", "ours")):
        epoch_s = statistics.median(found["step_s"] * found["steps"] for found in times[side])
        yield Measurement(f"{model}, {name}", epoch_s, "s")
    yield ratio(f"{model}, ratio", "plain", "ours", RATIOS[model])
    pair_name = f"{model}, two processes at once, ratio"
    yield Measurement(pair_name, statistics.median(paces), "times", PAIR, least=True)
    yield peak(f"{model}, reference's peak memory", "plain")
    yield peak(f"{model}, our peak memory", "ours", MULT_MB if is_mult else None)
    if is_mult:
        yield ratio("mult, no step is padding, ratio", "plain", "full", RATIOS["mult"])
        yield peak("mult, no step is padding, our peak memory", "full", MULT_MB)
        yield ratio("mult without dropout, ratio", "plain bare", "bare", WITHOUT_DROPOUT)
        name = "mult without dropout, no step is padding, ratio to the reference with dropout"
        yield ratio(name, "plain", "full bare", WITHOUT_DROPOUT)


def ours(
    data: str, backbone: str, threads: int = 1, settings: Times | None = None, root: Path = ROOT
) -> Child:
    """A process that trains a backbone of this project, or of the checkout at ``root``."""
    arguments = {"data": data, "backbone": backbone, "threads": threads, "settings": settings or {}}
    return Child("tests.perf.subjects:ours", arguments, root=root)


def median_ratio(theirs: Sequence[Times], mine: Sequence[Times], key: str = "step_s") -> float:
    """How many times as fast (or as small) ours is: the median over rounds."""
    return statistics.median(a[key] / b[key] for a, b in zip(theirs, mine, strict=True))


def steps(data: str) -> Iterator[Section]:
    """Steps and epochs of every backbone with every method, and the parts of an epoch without mixing.

    The harness's share is what is neither forward (of the validation split too), method, backward nor
    optimizer.
    """
    whole: list[Measurement] = []
    parts: list[Measurement] = []
    for backbone in BACKBONES:
        with ours(data, backbone) as child:
            evaluation = child.ask(steps=1, evaluate=True)
            valid = {key: evaluation[key] for key in ("valid_s", "valid_forward_s")}
            for method in METHODS:
                times = {**child.ask(method=method, steps=_fitting([child], method)), **valid}
                whole.append(Measurement(f"{backbone}, {method}, step", 1e3 * times["step_s"], "ms"))
                whole.append(Measurement(f"{backbone}, {method}, epoch", epoch_s(times), "s"))
                whole.append(Measurement(f"{backbone}, {method}, peak memory", times["peak_mb"], "MB"))
                if method == "none":
                    parts += _epoch_parts(backbone, times)
    how = "One thread, as workers train; the epoch is that of 1,284 clips, validation included."
    yield Section("steps", "Training steps", how, tuple(whole))
    how = "Without mixing. The harness's share is what is neither forward, backward nor optimizer."
    yield Section("parts", "Parts of an epoch", how, tuple(parts))


def _fitting(children: Sequence[Child], method: str) -> int:
    """How many steps fit into the budget, by a first one."""
    step_s = max(child.ask(method=method, steps=1)["step_s"] for child in children)
    return max(LEAST_STEPS, min(MOST_STEPS, int(BUDGET_S / step_s)))


def epoch_s(times: Times) -> float:
    """Seconds of an epoch: its steps and one evaluation."""
    return times["step_s"] * times["steps"] + times["valid_s"]


def _epoch_parts(backbone: str, times: Times) -> Iterator[Measurement]:
    percent = 100 / epoch_s(times)
    for part in STEP_PARTS:
        yield Measurement(f"{backbone}, {part}", percent * times[f"{part}_s"] * times["steps"], "%")
    yield Measurement(f"{backbone}, evaluation", percent * times["valid_s"], "%")
    arithmetic_s = sum(times[part] for part in ARITHMETIC) * times["steps"] + times["valid_forward_s"]
    yield Measurement(f"{backbone}, harness", 100 - percent * arithmetic_s, "%", HARNESS_SHARE)


def methods(backbone: str = "tfn") -> Section:
    """What the methods cost, as shares of a training step."""
    rows: list[Measurement] = []
    with Child("tests.perf.subjects:methods", {"backbone": backbone, "rounds": METHOD_ROUNDS}) as child:
        for method in METHODS:
            if method != "none":
                cost = child.ask(method=method)
                rows.append(Measurement(f"{method}, step", 1e3 * cost["step_s"], "ms"))
                bound = OWN_WORK_OF.get(method, OWN_WORK)
                rows.append(Measurement(f"{method}, own work", 100 * cost["own"], "%", bound))
    how = (
        f"Shares of a training step of {backbone} at MOSI's size: CPU time of one thread, medians of "
        f"{METHOD_ROUNDS} rounds. Own work is the step against the same step with its mixed examples given."
    )
    return Section("methods", "What methods cost", how, tuple(rows))


def growth(data: str) -> Section:
    """How an epoch grows with the number of clips, and a step with the length of the sequences."""
    rows: list[Measurement] = []
    for backbone in BACKBONES:
        with ours(data, backbone) as child:
            # No batch is smaller than a clip, so that as many steps are the whole epoch.
            epochs = [child.ask(clips=n, steps=n) for n in CLIPS]
            lengths = [
                [child.ask(fraction=f, padded=False, steps=1)["step_s"] for _ in range(LENGTH_ROUNDS)]
                for f in FRACTIONS
            ]
        seconds = [epoch["step_s"] * epoch["steps"] for epoch in epochs]
        names = [f"{n} clips" for n in CLIPS]
        rows += _growth(f"{backbone}, epoch", names, seconds, exponent(CLIPS, seconds), CLIPS_EXPONENT)
        seconds = [statistics.median(rounds) for rounds in lengths]
        names = [f"{f:.0%} of the steps" for f in FRACTIONS]
        rows += _growth(f"{backbone}, step", names, seconds, exponent(FRACTIONS, seconds), LENGTH_EXPONENT)
    how = "Without mixing, one thread. Lengths: of all three sequences, every step valid."
    return Section("growth", "Growth", how, tuple(rows))


def _growth(
    name: str, sizes: Sequence[str], seconds: Sequence[float], power: float, bound: float
) -> Iterator[Measurement]:
    for size, value in zip(sizes, seconds, strict=True):
        yield Measurement(f"{name}, {size}", value, "s")
    yield Measurement(f"{name}, exponent", power, "", bound)


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The power of the size with which the time grows, between the ends: 1 in proportion, 2 quadratic."""
    return math.log(seconds[-1] / seconds[0]) / math.log(sizes[-1] / sizes[0])


def compare(data: str, revision: str) -> Section:
    """How many times as fast this checkout trains as another revision; raises UserError."""
    rows: list[Measurement] = []
    with checkout(revision) as root:
        for backbone in BACKBONES:
            rows += _compared(root, data, backbone)
    how = (
        f"Epochs of {revision} over epochs of this checkout: above 1 this one is faster, or smaller. One "
        f"thread, medians of {COMPARED_ROUNDS} rounds in which both take turns."
    )
    return Section("compare", f"Against {revision}", how, tuple(rows))


def _compared(root: Path, data: str, backbone: str) -> Iterator[Measurement]:
    try:
        with ours(data, backbone, root=root) as theirs, ours(data, backbone) as mine:
            for method in COMPARED_METHODS:
                asked = {"method": method, "steps": _fitting([theirs, mine], method), "evaluate": True}
                rounds = [[side.ask(**asked) for side in (theirs, mine)] for _ in range(COMPARED_ROUNDS)]
                for what, value in (("epoch", epoch_s), ("peak memory", lambda times: times["peak_mb"])):
                    ratio = statistics.median(value(a) / value(b) for a, b in rounds)
                    yield Measurement(f"{backbone}, {method}, {what}", ratio, "times")
    except ChildError as error:
        raise UserError(f"The other revision cannot be measured: {str(error).splitlines()[-1]}") from error


@contextlib.contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """A temporary worktree of another revision with this checkout's measurement; raises UserError."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "base"
        added = _git("worktree", "add", "--detach", str(root), revision)
        if added.returncode:
            said = (added.stderr.strip().splitlines() or ["git failed"])[-1]
            raise UserError(f"BASE={revision} cannot be checked out: {said}")
        try:
            for name in ("perf", "support"):
                shutil.rmtree(root / "tests" / name, ignore_errors=True)
                shutil.copytree(ROOT / "tests" / name, root / "tests" / name)
            yield root
        finally:
            _git("worktree", "remove", "--force", str(root))


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)

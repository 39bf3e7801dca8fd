"""Training speed, from processes that take turns: against plain PyTorch, steps, methods, growth, a revision.

Ratios are medians over rounds in which both sides train on the same batches of the synthetic MOSI of full
size: the reference as a script would start it, this project's as its workers run.
"""

import contextlib
import math
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Mapping
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


def reference(data):
    """This project against plain PyTorch; data: folder of the stored dataset."""
    rows = [row for model in RATIOS for row in _against_reference(model, _reference_times(data, model))]
    how = (
        "Seconds of a training epoch at MOSI's size, from a few steps of it; medians of rounds in which both "
        "sides take turns. Two threads each. Peak memory is the whole process's."
    )
    return Section("reference", "Against plain PyTorch", how, rows)


def _reference_times(data, model):
    """What each side measured in each round; "pair": of two processes at once, as if they were one."""
    request = {"steps": REFERENCE_STEPS[model]}
    with contextlib.ExitStack() as stack:

        def warm(child):
            stack.enter_context(child).ask(steps=1)
            return child

        def plain(dropouts):
            arguments = {"data": data, "model": model, "threads": 2, "dropouts": dropouts}
            return warm(Child("tests.perf.steps:plain", arguments, as_worker=False))

        mine, *pair = [warm(ours(data, model, threads)) for threads in (2, 1, 1)]
        turns = {"plain": (plain(True), request), "ours": (mine, request)}
        if model == "mult":
            full = request | {"padded": False}
            bare = warm(ours(data, model, 2, dict.fromkeys(DROPOUTS, 0.0)))
            turns |= {"full": (mine, full), "plain bare": (plain(False), request)}
            turns |= {"bare": (bare, request), "full bare": (bare, full)}
        times = {name: [] for name in [*turns, "pair"]}
        for _ in range(REFERENCE_ROUNDS[model]):
            for name, (child, asked) in turns.items():
                times[name].append(child.ask(**asked))
            for child in pair:
                child.begin(**request)
            times["pair"].append({"step_s": 1 / sum(1 / child.end()["step_s"] for child in pair)})
    return times


def _against_reference(model, times):
    def ratio(name, theirs, own, bound):
        rounds = zip(times[theirs], times[own], strict=True)
        value = statistics.median(a["step_s"] / b["step_s"] for a, b in rounds)
        return Measurement(f"{model}{name}", value, "times", bound, least=True)

    def peak(name, side, bound=None):
        peak_mb = max(time["peak_mb"] for time in times[side])
        return Measurement(f"{model}, {name} peak memory", peak_mb, "MB", bound)

    for name, side in (("reference", "plain"), ("ours", "ours")):
        epoch_s = statistics.median(time["step_s"] * time["steps"] for time in times[side])
        yield Measurement(f"{model}, {name}", epoch_s, "s")
    yield ratio(", ratio", "plain", "ours", RATIOS[model])
    yield ratio(", two processes at once, ratio", "plain", "pair", PAIR)
    yield peak("reference's", "plain")
    yield peak("our", "ours", MULT_MB if model == "mult" else None)
    if model == "mult":
        yield ratio(", no step is padding, ratio", "plain", "full", RATIOS["mult"])
        yield peak("no step is padding, our", "full", MULT_MB)
        yield ratio(" without dropout, ratio", "plain bare", "bare", WITHOUT_DROPOUT)
        name = " without dropout, no step is padding, ratio to the reference with dropout"
        yield ratio(name, "plain", "full bare", WITHOUT_DROPOUT)


def ours(data, backbone, threads=1, settings=None, root=ROOT):
    """A process that trains a backbone of this project, or of the checkout at ``root``."""
    arguments = {"data": data, "backbone": backbone, "threads": threads, "settings": settings or {}}
    return Child("tests.perf.steps:ours", arguments, root=root)


def steps(data):
    """Steps and epochs of every backbone with every method, and the parts of an epoch without mixing."""
    rows = []
    parts = []
    for backbone in BACKBONES:
        with ours(data, backbone) as child:
            evaluation = child.ask(steps=1, evaluate=True)
            valid = {key: evaluation[key] for key in ("valid_s", "valid_forward_s")}
            for method in METHODS:
                times = {**child.ask(method=method, steps=_fitting([child], method)), **valid}
                rows.append(Measurement(f"{backbone}, {method}, step", 1e3 * times["step_s"], "ms"))
                rows.append(Measurement(f"{backbone}, {method}, epoch", epoch_s(times), "s"))
                rows.append(Measurement(f"{backbone}, {method}, peak memory", times["peak_mb"], "MB"))
                if method == "none":
                    parts += _epoch_parts(backbone, times)
    how = "One thread, as workers train; the epoch is that of 1,284 clips, validation included."
    yield Section("steps", "Training steps", how, rows)
    how = "Without mixing. The harness's share is what is neither forward, backward nor optimizer."
    yield Section("parts", "Parts of an epoch", how, parts)


def _fitting(children, method):
    """How many steps fit into the budget, by a first one."""
    step_s = max(child.ask(method=method, steps=1)["step_s"] for child in children)
    return max(LEAST_STEPS, min(MOST_STEPS, int(BUDGET_S / step_s)))


def epoch_s(times):
    """Seconds of an epoch: its steps and one evaluation."""
    return times["step_s"] * times["steps"] + times["valid_s"]


def _epoch_parts(backbone, times):
    """The harness's share is what is no arithmetic, the validation split's forward passes included."""
    percent = 100 / epoch_s(times)
    for part in STEP_PARTS:
        yield Measurement(f"{backbone}, {part}", percent * times[f"{part}_s"] * times["steps"], "%")
    yield Measurement(f"{backbone}, evaluation", percent * times["valid_s"], "%")
    arithmetic_s = sum(times[part] for part in ARITHMETIC) * times["steps"] + times["valid_forward_s"]
    yield Measurement(f"{backbone}, harness", 100 - percent * arithmetic_s, "%", HARNESS_SHARE)


def methods(data, backbone="tfn"):
    """What the methods cost, as shares of a training step."""
    rows = []
    arguments = {"data": data, "backbone": backbone, "rounds": METHOD_ROUNDS}
    with Child("tests.perf.steps:methods", arguments) as child:
        for method in METHODS:
            if method != "none":
                cost, bound = child.ask(method=method), OWN_WORK_OF.get(method, OWN_WORK)
                rows.append(Measurement(f"{method}, step", 1e3 * cost["step_s"], "ms"))
                rows.append(Measurement(f"{method}, own work", 100 * cost["own"], "%", bound))
    how = (
        f"Shares of a training step of {backbone} at MOSI's size: CPU time of one thread, medians of "
        f"{METHOD_ROUNDS} rounds. Own work is the step against the same step with its mixed examples given."
    )
    return Section("methods", "What methods cost", how, rows)


def growth(data):
    """How an epoch grows with the number of clips, and a step with the length of the sequences."""
    rows = []
    for backbone in BACKBONES:
        with ours(data, backbone) as child:
            rows += _growths(backbone, child)
    how = "Without mixing, one thread. Lengths: of all three sequences, every step valid."
    return Section("growth", "Growth", how, rows)


def _growths(backbone, child):
    def epoch(clips):
        # No batch is smaller than a clip, so that as many steps are the whole epoch.
        times = child.ask(clips=clips, steps=clips)
        return times["step_s"] * times["steps"]

    def step(fraction):
        asked = {"fraction": fraction, "padded": False, "steps": 1}
        return statistics.median(child.ask(**asked)["step_s"] for _ in range(LENGTH_ROUNDS))

    for name, size_name, measure, sizes, bound in (
        ("epoch", "{} clips", epoch, CLIPS, CLIPS_EXPONENT),
        ("step", "{:.0%} of the steps", step, FRACTIONS, LENGTH_EXPONENT),
    ):
        seconds = [measure(size) for size in sizes]
        for size, value in zip(sizes, seconds, strict=True):
            yield Measurement(f"{backbone}, {name}, {size_name.format(size)}", value, "s")
        power = exponent(sizes, seconds)
        yield Measurement(f"{backbone}, {name}, exponent", power, "", bound)


def exponent(sizes, seconds):
    """The power of the size with which the time grows, between the ends: 1 in proportion, 2 quadratic."""
    return math.log(seconds[-1] / seconds[0]) / math.log(sizes[-1] / sizes[0])


def compare(data, revision):
    """How many times as fast this checkout trains as another revision; raises UserError."""
    try:
        with checkout(revision) as root:
            rows = [row for backbone in BACKBONES for row in _compared(root, data, backbone)]
    except ChildError as error:
        raise UserError(f"The other revision cannot be measured: {error.last_line}") from error
    how = (
        f"Epochs of {revision} over epochs of this checkout: above 1 this one is faster, or smaller. One "
        f"thread, medians of {COMPARED_ROUNDS} rounds in which both take turns."
    )
    return Section("compare", f"Against {revision}", how, rows)


def _compared(root, data, backbone):
    with ours(data, backbone, root=root) as theirs, ours(data, backbone) as mine:
        for method in COMPARED_METHODS:
            asked = {"method": method, "steps": _fitting([theirs, mine], method), "evaluate": True}
            rounds = [(theirs.ask(**asked), mine.ask(**asked)) for _ in range(COMPARED_ROUNDS)]
            for what, value in (("epoch", epoch_s), ("peak memory", lambda times: times["peak_mb"])):
                ratio = statistics.median(value(a) / value(b) for a, b in rounds)
                yield Measurement(f"{backbone}, {method}, {what}", ratio, "times")


@contextlib.contextmanager
def checkout(revision):
    """A temporary worktree of another revision with this checkout's measurement; raises UserError."""
    worktree = ["git", "-C", str(ROOT), "worktree"]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "base"
        command = [*worktree, "add", "--detach", str(root), revision]
        added = subprocess.run(command, capture_output=True, text=True, check=False)
        if added.returncode:
            raise UserError(f"BASE={revision} cannot be checked out: {added.stderr.strip().splitlines()[-1]}")
        try:
            for name in ("perf", "support"):
                shutil.rmtree(root / "tests" / name, ignore_errors=True)
                shutil.copytree(ROOT / "tests" / name, root / "tests" / name)
            yield root
        finally:
            subprocess.run([*worktree, "remove", "--force", str(root)], capture_output=True, check=False)
